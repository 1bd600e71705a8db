"""The `machpay-gateway` command: `run`, `check` and `claim`.

Exit codes: 0 fine, 1 something it talks to is not well (`check`), 2 the configuration or the log cannot be used.
`claim` has more; see `machpay_gateway.claim.command`.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from machpay_gateway import __version__
from machpay_gateway.check import check
from machpay_gateway.claim.command import add_claim_command, run_claim_command
from machpay_gateway.errors import ConfigError, LogError
from machpay_gateway.logs import configure_logging
from machpay_gateway.server import run
from machpay_gateway.settings import Settings, load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    configure_logging()
    try:
        if options.command == "claim":
            return run_claim_command(load_settings(options.config), options)
        settings = _with_address(load_settings(options.config), options.host, options.port)
        if options.command == "check":
            return _check(settings)
        run(settings)
    except (ConfigError, LogError) as error:
        print(f"machpay-gateway: {error}", file=sys.stderr)
        return 2
    return 0


def _check(settings: Settings) -> int:
    findings = asyncio.run(check(settings))
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}: {finding.detail}")
    return 0 if all(finding.ok for finding in findings) else 1


def _with_address(settings: Settings, host: str | None, port: int | None) -> Settings:
    changes: dict[str, object] = {}
    if host is not None:
        changes["host"] = host
    if port is not None:
        changes["port"] = port
    return replace(settings, gateway=msgspec.structs.replace(settings.gateway, **changes))


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("a port is 0 to 65535")
    return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="machpay-gateway", description="Put a price on an HTTP API.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "serve until SIGTERM"),
        ("check", "check the configuration and everything it points at"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--config", required=True, help="the TOML file")
        command.add_argument("--host", help="listen here instead of gateway.host")
        command.add_argument(
            "--port", type=_port, help="listen here instead of gateway.port; 0 picks a free port"
        )
    add_claim_command(commands)
    return parser
