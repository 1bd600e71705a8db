"""x402's extension `payment-identifier`: a client names its payment, so that a retry is answered and not paid again.

A seller declares it in the 402's `extensions`; a client echoes the declaration with its own `info.id` added. The shapes
are those of the stock x402 packages.
"""

import re
from collections.abc import Mapping
from secrets import token_hex
from typing import Any, Final

from machpay.protocol.errors import MalformedError

EXTENSION: Final = "payment-identifier"
_ID: Final = re.compile(r"[a-zA-Z0-9_-]{16,128}")

DECLARATION: Final[Mapping[str, Any]] = {
    "info": {"required": False},
    "schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "required": {"type": "boolean"},
            "id": {"type": "string", "minLength": 16, "maxLength": 128, "pattern": "^[a-zA-Z0-9_-]+$"},
        },
        "required": ["required"],
    },
}
"""What a seller puts under `EXTENSION`; an identifier is welcome, not required."""


def new_identifier() -> str:
    """A fresh id: 36 characters, unguessable."""
    return f"pay_{token_hex(16)}"


def is_declared(extensions: Mapping[str, Any]) -> bool:
    """True if the seller of a 402 with these `extensions` understands identifiers."""
    declared = extensions.get(EXTENSION)
    info = declared.get("info") if isinstance(declared, Mapping) else None
    return isinstance(info, Mapping) and isinstance(info.get("required"), bool)


def with_identifier(extensions: Mapping[str, Any], identifier: str) -> dict[str, Any]:
    """The seller's `extensions` with our id in them, for the payment payload; unchanged if it declared none.

    Raises `MalformedError` if `identifier` is not 16 to 128 letters, digits, `-` or `_`.
    """
    if not is_declared(extensions):
        return dict(extensions)
    declared = extensions[EXTENSION]
    info = {**declared["info"], "id": _checked(identifier)}
    return {**extensions, EXTENSION: {**declared, "info": info}}


def read_identifier(extensions: Mapping[str, Any]) -> str | None:
    """The id in a payment payload's `extensions`, None if there is none. Raises `MalformedError`."""
    if EXTENSION not in extensions:
        return None
    sent = extensions[EXTENSION]
    info = sent.get("info") if isinstance(sent, Mapping) else None
    if not isinstance(info, Mapping):
        raise MalformedError(f"{EXTENSION} must have an info object")
    identifier = info.get("id")
    return None if identifier is None else _checked(identifier)


def _checked(identifier: object) -> str:
    if not isinstance(identifier, str) or _ID.fullmatch(identifier) is None:
        raise MalformedError(f"{EXTENSION}: id must be 16 to 128 letters, digits, - or _")
    return identifier
