"""Text forms of bytes and integers, strict in both directions.

Pubkeys are base58, signatures base64, hashes lowercase hex, u64 amounts decimal strings (numbers are accepted
on the way in). Every reader raises `MalformedError` naming the field, so that a bad value never travels on.
"""

import base64
import binascii
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.errors import MalformedError

U64_MAX: Final = 2**64 - 1
I64_MAX: Final = 2**63 - 1
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
_HEX = re.compile(r"[0-9a-f]*")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", re.ASCII)


def parse_u64(value: object, field: str) -> int:
    """An unsigned 64-bit integer from a decimal string or a JSON integer (no floats, signs or leading
    zeros)."""
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
    """Standard base64 with padding, in the one spelling that `to_b64` writes; exactly `size` bytes when
    given."""
    if not isinstance(value, str):
        raise MalformedError(f"{field} must be base64 text")
    try:
        raw = binascii.a2b_base64(value, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"{field} must be base64 text") from error
    if to_b64(raw) != value:
        raise MalformedError(f"{field} must be base64 text without stray bits")
    if size is not None and len(raw) != size:
        raise MalformedError(f"{field} must hold {size} bytes, not {len(raw)}")
    return raw


def parse_hex(value: object, field: str, size: int) -> bytes:
    """Lowercase hex of exactly `size` bytes."""
    # bytes.fromhex skips spaces, so the alphabet is checked first.
    if not isinstance(value, str) or len(value) != 2 * size or not _HEX.fullmatch(value):
        raise MalformedError(f"{field} must be {2 * size} lowercase hex digits")
    return bytes.fromhex(value)


@lru_cache(maxsize=256)
def to_rfc3339(unix_seconds: int) -> str:
    """Whole seconds UTC, for example `2026-11-21T11:20:00Z`."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(value: object, field: str) -> int:
    """Unix seconds (never negative) from RFC 3339 text with whole seconds and an offset; fractions are
    refused because signed bytes hold whole seconds and a rounded time would no longer match them."""
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            unix_seconds = int(datetime.fromisoformat(value).timestamp())
        except ValueError as error:
            raise MalformedError(f"{field} must be an RFC 3339 time") from error
        if unix_seconds >= 0:
            return unix_seconds
    raise MalformedError(f"{field} must be an RFC 3339 time since 1970 with an offset and whole seconds")


def decode_json(decoder: msgspec.json.Decoder[Any], raw: bytes | msgspec.Raw, what: str) -> Any:
    """Decode JSON from a peer. Everything that can be wrong with it, broken UTF-8 and nesting beyond the interpreter's
    depth included, is one `MalformedError`."""
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"{what}: {error}") from error
