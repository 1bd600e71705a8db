"""The request id of the work in hand. It travels through every process in `X-Request-ID` and into every log line."""

import re
import secrets
from typing import Final

import structlog

HEADER: Final = "X-Request-ID"
_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,64}")


def bind_request_id(received: str | None) -> str:
    """Start a new logging context under the caller's id, or under a fresh one if it sent none that is usable."""
    request_id = received if received and _ACCEPTED.fullmatch(received) else secrets.token_hex(8)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    return request_id


def current_request_id() -> str | None:
    """The id bound in this context, or None outside a request."""
    value: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return value
