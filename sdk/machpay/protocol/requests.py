"""What ties a payment to one HTTP request."""

import hashlib
from typing import Final, Literal

Binding = Literal["request", "route"]

MAX_BOUND_BODY_BYTES: Final = 256 * 1024
"""Above this a request is bound by its route alone unless the route demands the whole request."""
_EMPTY_SHA256: Final = hashlib.sha256(b"").digest()


def request_hash(
    method: str, target: str | bytes, body: bytes | None = None, *, body_sha256: bytes | None = None
) -> bytes:
    """sha256(METHOD || LF || origin-form target exactly as sent || LF || raw sha256(body)): 32 bytes.

    Pass `body_sha256` instead of `body` when the body was hashed while it streamed.
    """
    if body_sha256 is None:
        body_sha256 = hashlib.sha256(body).digest() if body else _EMPTY_SHA256
    raw_target = target.encode("ascii") if isinstance(target, str) else target
    return hashlib.sha256(method.upper().encode("ascii") + b"\n" + raw_target + b"\n" + body_sha256).digest()


def route_hash(method: str, path: str | bytes) -> bytes:
    """sha256(METHOD || LF || path || LF): what a payment is bound to when the body is too large to hash
    first."""
    raw_path = path.encode("ascii") if isinstance(path, str) else path
    return hashlib.sha256(method.upper().encode("ascii") + b"\n" + raw_path + b"\n").digest()
