"""The `machpay-gateway` command: what there is, and what becomes of errors. Each subcommand has a module in `commands`
(`claim` a package of its own); exit codes are in `commands.base`.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from machpay_gateway import __version__
from machpay_gateway.claim.command import add_claim_command
from machpay_gateway.commands.base import EXIT_CODES, INTERRUPTED, MISUSED, REFUSED, complain
from machpay_gateway.commands.check import add_check_command
from machpay_gateway.commands.init import add_init_command
from machpay_gateway.commands.register import add_register_command
from machpay_gateway.commands.run import add_run_command
from machpay_gateway.commands.transfer import add_transfer_commands
from machpay_gateway.errors import ConfigError, LogError, Refused

_ABOUT: Final = """\
Put a price on an HTTP API: a reverse proxy that is paid per request (x402).
A new gateway: init, register, check, run.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parser(as_json="--json" in given).parse_args(given)
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Refused as error:
        complain(options, error)
        return REFUSED
    except (ConfigError, LogError, OSError) as error:
        complain(options, error)
        return MISUSED
    return code


class _JsonParser(argparse.ArgumentParser):
    """Tells what is wrong with the arguments as JSON. Its subcommands are of the same class."""

    def error(self, message: str) -> NoReturn:
        complain(argparse.Namespace(as_json=True), message, "ArgumentError")
        sys.exit(MISUSED)


def parser(*, as_json: bool = False) -> argparse.ArgumentParser:
    """The whole command line; the reference in docs/gateway.md is compared with it. With `as_json` its errors are."""
    kind = _JsonParser if as_json else argparse.ArgumentParser
    top = kind(
        prog="machpay-gateway",
        description=_ABOUT,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"machpay-gateway {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_init_command(commands)
    add_register_command(commands)
    add_check_command(commands)
    add_run_command(commands)
    add_claim_command(commands)
    add_transfer_commands(commands)
    return top
