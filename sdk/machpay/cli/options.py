"""What every command shares: values of options, the configuration they make, and where results go."""

import argparse
import json
import os
import sys
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from machpay.client import MachPayConfig
from machpay.client.errors import ConfigError
from machpay.protocol.encoding import parse_hex
from machpay.protocol.errors import MalformedError

USDC: Final = 1_000_000
DEFAULT_KEY: Final = "secret_key.json"


def say(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Print a result: as JSON if that was asked for."""
    print(json.dumps(result) if options.as_json else text)


def note(text: str) -> None:
    """Tell a person at the terminal why there is nothing to print."""
    print(f"machpay: {text}", file=sys.stderr)


def config_of(options: argparse.Namespace) -> MachPayConfig:
    """The agent's configuration from the environment and the options. A command does not stay to co-sign: to ask would
    make the network wait for its signature. Raises `ConfigError`."""
    environment = dict(os.environ)
    if options.key is not None or not environment.get("MACHPAY_AGENT_SECRET"):
        path = options.key or DEFAULT_KEY
        if not Path(path).is_file():
            raise ConfigError(
                f"there is no key file {path}: `machpay agent init` makes one, --key names another"
            )
        environment["MACHPAY_AGENT_SECRET"] = path
    if options.network is not None:
        environment["MACHPAY_NETWORK"] = options.network
    if not environment.get("MACHPAY_NETWORK"):
        raise ConfigError("no network: name its JSON description with --network or MACHPAY_NETWORK")
    environment["MACHPAY_STATE_DIR"] = str(state_dir(options))
    return replace(MachPayConfig.from_env(environment), cosigns=False)


def state_dir(options: argparse.Namespace) -> Path:
    """The folder that keeps totals and receipts."""
    return Path(options.state_dir or os.environ.get("MACHPAY_STATE_DIR") or Path.home() / ".machpay")


def usdc(atomic: int) -> str:
    """Atomic units as USDC with six decimal places."""
    return f"{atomic // USDC}.{atomic % USDC:06d}"


def amount(text: str) -> int:
    """USDC with at most six places, as atomic units."""
    try:
        atomic = Decimal(text) * USDC
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError("an amount is a decimal number of USDC") from error
    if not atomic.is_finite() or atomic <= 0 or atomic != int(atomic):
        raise argparse.ArgumentTypeError("an amount is positive, with at most six decimal places")
    return int(atomic)


def header(text: str) -> tuple[str, str]:
    """`Name: value`."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("a header is 'Name: value'")
    return name.strip(), value.strip()


def digest(text: str) -> bytes:
    """A payment's digest."""
    try:
        return parse_hex(text, "a payment's digest", 32)
    except MalformedError as error:
        raise argparse.ArgumentTypeError(error.detail) from error


def positive(text: str) -> float:
    """A finite number above zero."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number")
    return number


def count(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
