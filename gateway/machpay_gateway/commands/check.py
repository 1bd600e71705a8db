"""`machpay-gateway check`: print the findings."""

import argparse
import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Final

from machpay_gateway.check import check
from machpay_gateway.commands.base import AGAIN, OK, Commands, add_command, say
from machpay_gateway.settings import load_settings

_ABOUT: Final = """\
Look at everything the configuration points at: key file, data folder and log,
upstream, relayer, receiver, this machine's clock against the relayer's, the
chain, and whether the gateway is registered for its vendor there. Changes
nothing, and may run beside a running gateway. Exit code 1 if anything is FAIL.
"""
_WORDS: Final = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def add_check_command(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `check` to the parser."""
    command = add_command(
        commands, "check", run_check, help="look at everything the configuration points at", about=_ABOUT
    )
    command.add_argument("--local", action="store_true", help="only what is on this machine: no network")


def run_check(options: argparse.Namespace) -> int:
    """Run it; the exit code. Raises `ConfigError`."""
    settings = load_settings(options.config)
    key_file = Path(options.config).resolve().parent / settings.gateway.keypair_file
    findings = asyncio.run(check(settings, key_file=key_file, local=options.local))
    well = all(finding.level != "fail" for finding in findings)
    lines = [f"{_WORDS[finding.level]} {finding.what}: {finding.detail}" for finding in findings]
    say(options, {"ok": well, "findings": [asdict(finding) for finding in findings]}, "\n".join(lines))
    return OK if well else AGAIN
