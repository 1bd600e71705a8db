"""Typed reading of JSON-RPC parameters; whatever does not fit is a -32602 that names it."""

from typing import Any

from solders.hash import Hash, ParseHashError
from solders.pubkey import Pubkey
from solders.signature import Signature

from contracts.localnet import codec
from contracts.localnet.rpc.errors import invalid_params
from contracts.localnet.slots import Commitment

U64_MAX = 2**64 - 1
BASE58_BYTES_MAX = 128
# Wire size of a packet in each encoding: longer text is refused before it is decoded.
_ENCODED_CHARACTERS_MAX = {"base58": 1683, "base64": 1644}


class Config:
    """The optional object at the end of a method's parameters."""

    def __init__(self, value: object) -> None:
        if value is not None and not isinstance(value, dict):
            raise invalid_params("the last parameter must be an object")
        self._values: dict[str, Any] = value or {}

    def commitment(self, name: str = "commitment") -> Commitment:
        """Return the commitment asked for; Solana's default is finalized."""
        value = self._values.get(name)
        if value is None:
            return Commitment.finalized
        return parse_commitment(value)

    def text(self, name: str, default: str | None, allowed: tuple[str, ...] | None = None) -> str | None:
        """Return a string, one of `allowed` when that is given."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or (allowed is not None and value not in allowed):
            expected = f", expected one of {', '.join(allowed)}" if allowed else ""
            raise invalid_params(f"unknown {name} {value!r}{expected}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise invalid_params(f"{name} must be a boolean")
        return value

    def number(self, name: str) -> int | None:
        """Return an unsigned 64-bit integer, or None."""
        value = self._values.get(name)
        return None if value is None else parse_u64(value, name)

    def signature(self, name: str) -> Signature | None:
        """Return a signature, or None."""
        value = self._values.get(name)
        return None if value is None else parse_signature(value)

    def raw(self, name: str) -> Any:
        """Return a value as it came, None when absent."""
        return self._values.get(name)


class Params:
    """The positional parameters of one call."""

    def __init__(self, values: object) -> None:
        if values is not None and not isinstance(values, list):
            raise invalid_params("`params` should be an array")
        self._values: list[Any] = values or []

    def value(self, index: int) -> Any:
        """Return a required parameter as it came."""
        if len(self._values) <= index:
            raise invalid_params(f"expected at least {index + 1} parameter(s), got {len(self._values)}")
        return self._values[index]

    def has(self, index: int) -> bool:
        """Whether a parameter is given."""
        return len(self._values) > index

    def pubkey(self, index: int) -> Pubkey:
        """Return a required address."""
        return parse_pubkey(self.value(index))

    def signature(self, index: int) -> Signature:
        """Return a required signature."""
        return parse_signature(self.value(index))

    def blockhash(self, index: int) -> Hash:
        """Return a required block hash."""
        value = self.value(index)
        try:
            return Hash.from_string(value)
        except (TypeError, ParseHashError):
            raise invalid_params(f"{value!r} is not a block hash") from None

    def u64(self, index: int) -> int:
        """Return a required unsigned 64-bit integer."""
        return parse_u64(self.value(index), f"parameter {index + 1}")

    def items(self, index: int, limit: int) -> list[Any]:
        """Return a required array of at most `limit` values."""
        values = self.value(index)
        if not isinstance(values, list):
            raise invalid_params(f"parameter {index + 1} must be an array")
        if len(values) > limit:
            raise invalid_params(f"Too many inputs provided; max {limit}")
        return values

    def config(self, index: int) -> Config:
        """Return the optional object at `index`."""
        return Config(self._values[index] if len(self._values) > index else None)

    def bytes(self, index: int, encoding: str) -> bytes:
        """Return required bytes given as base58 or base64 text, no more than a packet holds."""
        text = self.value(index)
        if not isinstance(text, str):
            raise invalid_params(f"parameter {index + 1} must be a string")
        if len(text) > _ENCODED_CHARACTERS_MAX[encoding]:
            limit = _ENCODED_CHARACTERS_MAX[encoding]
            raise invalid_params(f"{encoding} encoded data too large: {len(text)} characters (max: {limit})")
        try:
            return codec.from_base58(text) if encoding == "base58" else codec.from_base64(text)
        except ValueError as error:
            raise invalid_params(f"invalid {encoding} encoding: {error}") from None


def parse_commitment(value: object) -> Commitment:
    """Parse a commitment's name."""
    if not isinstance(value, str) or value not in Commitment.__members__:
        raise invalid_params(
            f"unknown commitment {value!r}, expected one of {', '.join(Commitment.__members__)}"
        )
    return Commitment[value]


def parse_pubkey(value: object) -> Pubkey:
    """Parse an address."""
    try:
        return Pubkey.from_string(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise invalid_params(f"{value!r} is not an address") from None


def parse_signature(value: object) -> Signature:
    """Parse a transaction signature."""
    try:
        return Signature.from_string(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise invalid_params(f"{value!r} is not a signature") from None


def parse_u64(value: object, name: str) -> int:
    """Parse an unsigned 64-bit integer."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= U64_MAX:
        raise invalid_params(f"{name} must be an unsigned 64-bit integer")
    return value
