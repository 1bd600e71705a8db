"""Nonces: UUIDv7, drawn afresh from the system's randomness for every signature.

The leading 48 bits are the unix time in milliseconds, which lets any party judge from the item alone how long
it may live and in which partition it is stored. The other bits come from `os.urandom` at every call, so that
forked or cloned processes that share a key cannot repeat one.
"""

import os
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from machpay.protocol.errors import MalformedError

MAX_LIFETIME_S: Final = 600
"""The longest time from a nonce to its deadline that the network accepts."""
CLOCK_SKEW_S: Final = 30
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CANONICAL: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_nonce(unix_ms: int | None = None) -> UUID:
    """A fresh nonce; `unix_ms` is the time it carries, now by default."""
    stamp = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    value = (stamp & (2**48 - 1)) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def parse_nonce(value: object) -> UUID:
    """A UUIDv7 from its canonical lowercase text."""
    if isinstance(value, str) and _CANONICAL.fullmatch(value):
        return UUID(int=int(value.replace("-", ""), 16))
    raise MalformedError("nonce must be a UUIDv7 in canonical lowercase text")


def nonce_unix_ms(nonce: UUID) -> int:
    """The unix time in milliseconds that the nonce carries."""
    return nonce.int >> 80


def nonce_time(nonce: UUID) -> datetime:
    """The time that the nonce carries, to the millisecond, in UTC: exact, because stored payments are keyed by it."""
    return _EPOCH + timedelta(milliseconds=nonce_unix_ms(nonce))


def lifetime_is_allowed(nonce: UUID, deadline_s: int, max_lifetime_s: int = MAX_LIFETIME_S) -> bool:
    """The rule 0 <= deadline - nonce time <= maximum + skew, judged in milliseconds from the item alone."""
    remaining_ms = deadline_s * 1000 - nonce_unix_ms(nonce)
    return 0 <= remaining_ms <= (max_lifetime_s + CLOCK_SKEW_S) * 1000
