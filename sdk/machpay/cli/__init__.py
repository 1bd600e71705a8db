"""The `machpay` command: an agent's key, bond, paid calls and receipts.

Reads the environment as `MachPayConfig.from_env` does; options override it. Results go to stdout, everything
else to stderr; `--json` makes both JSON. Errors never show a traceback.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from machpay.cli.codes import (
    EXIT_CODES,
    FAILED,
    FORBIDDEN,
    INTERRUPTED,
    MISUSED,
    OK,
    REFUSED,
    UNKNOWN,
    UNREACHABLE,
    exit_code,
)
from machpay.cli.parser import parser
from machpay.client.errors import UnresolvedPaymentError
from machpay.client.terms import origin_of
from machpay.errors import MachPayError
from machpay.protocol.offers import LOOKUP_PREFIX

__all__ = [
    "EXIT_CODES",
    "FAILED",
    "FORBIDDEN",
    "INTERRUPTED",
    "MISUSED",
    "OK",
    "REFUSED",
    "UNKNOWN",
    "UNREACHABLE",
    "main",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (MachPayError, OSError) as error:
        return _fail(options, error)
    return code


def _fail(options: argparse.Namespace, error: Exception) -> int:
    kind, detail = type(error).__name__, str(error)
    if isinstance(error, UnresolvedPaymentError):
        looked_up = origin_of(error.url) + LOOKUP_PREFIX + error.digest.hex()
        detail += f"; {looked_up} says what became of it"
    if options.as_json:
        print(json.dumps({"error": kind, "detail": detail}), file=sys.stderr)
    else:
        print(f"machpay: {detail}", file=sys.stderr)
    return exit_code(error)
