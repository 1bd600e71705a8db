"""USDC as people write it and as the system counts it. The only place where one becomes the other.

Everything inside is an integer of atomic units (1 USDC = 1_000_000); no float ever takes part and nothing is rounded:
text with more than six decimals is refused.
"""

import re
from decimal import Decimal
from typing import Final

from apps.core.errors import DomainError

USDC_DECIMALS: Final = 6
ATOMIC_PER_USDC: Final = 10**USDC_DECIMALS
_USDC = re.compile(r"[0-9]{1,20}(\.[0-9]{1,6})?")


class InvalidAmount(DomainError):
    """Text that is not a non-negative USDC amount of at most six decimals."""

    code = "invalid_amount"
    status = 400


def parse_usdc(value: str | int | Decimal) -> int:
    """Atomic units of a USDC amount such as `"12.5"`. Raises `InvalidAmount`."""
    text = format(value, "f") if isinstance(value, Decimal) else str(value)
    if isinstance(value, bool) or not _USDC.fullmatch(text):
        raise InvalidAmount("an amount is a number of USDC with at most six decimals, for example 12.50")
    whole, _, fraction = text.partition(".")
    return int(whole) * ATOMIC_PER_USDC + int(fraction.ljust(USDC_DECIMALS, "0"))


def format_usdc(amount_atomic: int) -> str:
    """The exact decimal text with at least two decimals: `12.50`, `0.000001`, `-3.00`."""
    whole, fraction = divmod(abs(amount_atomic), ATOMIC_PER_USDC)
    decimals = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount_atomic < 0 else ''}{whole}.{decimals}"
