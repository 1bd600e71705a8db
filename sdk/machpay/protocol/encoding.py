"""Text forms of bytes and integers, strict in both directions.

Pubkeys are base58, signatures base64, hashes lowercase hex, u64 amounts decimal strings (numbers are accepted
on the way in). Every reader raises `MalformedError` naming the field, so that a bad value never travels on.
"""

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Final

from solders.pubkey import Pubkey

from machpay.protocol.errors import MalformedError

U64_MAX: Final = 2**64 - 1
I64_MAX: Final = 2**63 - 1
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")


def parse_u64(value: object, field: str) -> int:
    """An unsigned 64-bit integer from a decimal string or a JSON integer (no floats, signs or leading zeros)."""
    if isinstance(value, bool):
        raise MalformedError(f"{field} must be a decimal string, not a boolean")
    if isinstance(value, int):
        number = value
    elif isinstance(value, str) and _DECIMAL.fullmatch(value):
        number = int(value)
    else:
        raise MalformedError(f"{field} must be a decimal string of an unsigned 64-bit integer")
    if not 0 <= number <= U64_MAX:
        raise MalformedError(f"{field} is outside 0..2^64-1")
    return number


def parse_pubkey(value: object, field: str) -> Pubkey:
    """A 32-byte key from base58."""
    if not isinstance(value, str) or not 32 <= len(value) <= 44:
        raise MalformedError(f"{field} must be a base58 public key")
    try:
        return Pubkey.from_string(value)
    except ValueError as error:
        raise MalformedError(f"{field} must be a base58 public key") from error


def to_b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def parse_b64(value: object, field: str, size: int | None = None) -> bytes:
    """Standard base64 with padding; exactly `size` bytes when given."""
    if not isinstance(value, str):
        raise MalformedError(f"{field} must be base64 text")
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"{field} must be base64 text") from error
    if size is not None and len(raw) != size:
        raise MalformedError(f"{field} must hold {size} bytes, not {len(raw)}")
    return raw


def parse_hex(value: object, field: str, size: int) -> bytes:
    """Lowercase hex of exactly `size` bytes."""
    if not isinstance(value, str) or len(value) != 2 * size or value != value.lower():
        raise MalformedError(f"{field} must be {2 * size} lowercase hex digits")
    try:
        return bytes.fromhex(value)
    except ValueError as error:
        raise MalformedError(f"{field} must be {2 * size} lowercase hex digits") from error


def to_rfc3339(unix_seconds: int) -> str:
    """Whole seconds UTC, for example `2026-11-21T11:20:00Z`."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(value: object, field: str) -> int:
    """Unix seconds from RFC 3339 text with whole seconds and an offset; fractions are refused because signed
    bytes hold whole seconds and a rounded time would no longer match them."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise MalformedError(f"{field} must be an RFC 3339 time") from error
        if moment.tzinfo is not None and moment.microsecond == 0:
            return int(moment.timestamp())
    raise MalformedError(f"{field} must be an RFC 3339 time with an offset and whole seconds")
