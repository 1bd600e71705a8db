"""`machpay-gateway run`: serve until told to stop."""

import argparse
from dataclasses import replace
from typing import Final

import msgspec

from machpay_gateway.commands.base import OK, Commands, add_command, port_argument, workers_argument
from machpay_gateway.logs import configure_logging
from machpay_gateway.server import run
from machpay_gateway.settings import Settings, load_settings
from machpay_gateway.siblings.family import is_family, left_behind, with_count
from machpay_gateway.siblings.supervisor import supervise
from machpay_gateway.startup import allow_files

_ABOUT: Final = """\
Serve until SIGTERM or SIGINT; what is in flight is finished first, a second
signal does not wait for clients. At start it looks at relayer and receiver and
logs what it found; it serves also while they are away. When it is ready it
writes data_dir/endpoint.json with its address. Log lines are JSON on stderr,
from LOG_LEVEL (INFO) up.
"""


def add_run_command(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `run` to the parser."""
    command = add_command(commands, "run", run_gateway, help="serve until SIGTERM", about=_ABOUT)
    command.add_argument("--host", metavar="HOST", help="listen here instead of gateway.host")
    command.add_argument(
        "--port",
        type=port_argument,
        metavar="PORT",
        help="listen here instead of gateway.port; 0 picks a free port",
    )
    workers_argument(command)


def run_gateway(options: argparse.Namespace) -> int:
    """Run it; the exit code. Raises `ConfigError`, `LogError` and its kinds."""
    settings = with_count(load_settings(options.config), options.workers)
    configure_logging()
    allow_files(settings)
    settings = _with_address(settings, options.host, options.port)
    if is_family(settings) or left_behind(settings):
        return supervise(settings, options.config)
    run(settings)
    return OK


def _with_address(settings: Settings, host: str | None, port: int | None) -> Settings:
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return replace(settings, gateway=msgspec.structs.replace(settings.gateway, **changes))
