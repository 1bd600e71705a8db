"""What every subcommand shares: exit codes, `--config` and `--json`, how results and errors are printed.

Results go to stdout, everything else to stderr. With `--json` a result is one JSON object and an error too:
`{"error", "detail"}`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, overload

from solders.pubkey import Pubkey

from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey
from machpay_gateway.errors import ConfigError
from machpay_gateway.settings import Settings, load_settings
from machpay_gateway.siblings.family import worker_settings

OK, AGAIN, MISUSED, REFUSED, UNFINISHED = range(5)
INTERRUPTED: Final = 130
EXIT_CODES: Final = """\
exit codes:
  0  done, or nothing to do
  1  something did not answer or is not well, or an outcome is not known:
     run it again
  2  the arguments, the configuration, a key or the log cannot be used
  3  refused: by the program, the relayer or this command (a file exists, too
     little SOL); nothing was changed that is not reported
  4  register: done on-chain, but the relayer does not know the gateway yet; the
     command that finishes it is printed
  130  interrupted
"""
DEFAULT_CONFIG: Final = "gateway.toml"

Commands = argparse._SubParsersAction  # argparse has no public name for it


def add_command(
    commands: "Commands[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,
    about: str = "",
    examples: str = "",
) -> argparse.ArgumentParser:
    """A subcommand with `--config` and `--json`; `run` gets the parsed arguments and returns the exit code."""
    command = commands.add_parser(
        name,
        help=help,
        description=about or help,
        epilog="\n".join(filter(None, (examples, EXIT_CODES))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    add_shared(command)
    return command


def add_shared(command: argparse.ArgumentParser) -> None:
    """`--config` and `--json`."""
    command.add_argument(
        "--config", metavar="FILE", default=DEFAULT_CONFIG, help="the TOML file; default %(default)s"
    )
    command.add_argument(
        "--json", action="store_true", dest="as_json", help="one JSON object on stdout; errors as JSON too"
    )


def say(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Print a result: as JSON, or as `text` for people."""
    print(json.dumps(result) if options.as_json else text)


@overload
def complain(options: argparse.Namespace, error: BaseException) -> None: ...
@overload
def complain(options: argparse.Namespace, error: str, kind: str) -> None: ...
def complain(options: argparse.Namespace, error: object, kind: str = "") -> None:
    """Print why something did not work. A text needs the `kind` of error that it tells."""
    if getattr(options, "as_json", False):
        print(json.dumps({"error": kind or type(error).__name__, "detail": str(error)}), file=sys.stderr)
    else:
        print(f"machpay-gateway: {error}", file=sys.stderr)


def load_key(path: str | Path, what: str) -> SigningKey:
    """The key in a file. Raises `ConfigError` naming `what` it is for."""
    try:
        return SigningKey.load(path)
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path}: {error.strerror}") from error
    except (MalformedError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}: {path} holds no key: {error}") from error


def pubkey_argument(text: str) -> Pubkey:
    """An argument that is a public key."""
    try:
        return parse_pubkey(text, "it")
    except MalformedError as error:
        raise argparse.ArgumentTypeError(error.detail) from error


def port_argument(text: str) -> int:
    """An argument that is a TCP port, or 0 for any free one."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError("a port is 0 to 65535")
    return int(text)


def workers_argument(command: argparse.ArgumentParser) -> None:
    """`--workers`."""
    command.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="gateway processes on this machine, each with an identity of its own, instead of workers.count",
    )


def log_arguments(command: argparse.ArgumentParser) -> None:
    """What commands that read a log share: `--worker`, for `settings_of`."""
    command.add_argument(
        "--worker",
        type=count_argument,
        default=0,
        metavar="I",
        help="the identity and the log of this one of several gateway processes; default %(default)s",
    )


def agents_argument(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`--agent`, a list."""
    command.add_argument(
        "--agent",
        action="append",
        default=[],
        type=pubkey_argument,
        metavar="PUBKEY",
        help="only this agent; can be repeated",
    )


def settings_of(options: argparse.Namespace) -> Settings:
    """The configuration of the identity whose log `log_arguments` chose. Raises `ConfigError`."""
    return worker_settings(load_settings(options.config), options.worker)


def _workers(text: str) -> int:
    count = count_argument(text)
    if not 1 <= count <= 64:
        raise argparse.ArgumentTypeError("workers are 1 to 64")
    return count


def count_argument(text: str) -> int:
    """An argument that is a whole number from 0 on."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError("it must be a whole number")
    return int(text)
