"""Requests that a gateway or agent signs with its key, to the relayer, the receiver and the linking API.

The signature covers method, target, body, time and a nonce, so that a request cannot be altered, moved to
another endpoint or kept for later. The receiver checks the window of ±60 s here and that the nonce is new in
its own store.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from solders.pubkey import Pubkey

from machpay.protocol.encoding import parse_b64, parse_pubkey, to_b64
from machpay.protocol.errors import MalformedError, SignatureError
from machpay.protocol.keys import SIGNATURE_LENGTH, SigningKey, verify

KEY_HEADER: Final = "X-MachPay-Key"
TIMESTAMP_HEADER: Final = "X-MachPay-Timestamp"
NONCE_HEADER: Final = "X-MachPay-Nonce"
SIGNATURE_HEADER: Final = "X-MachPay-Signature"
WINDOW_S: Final = 60
_TIMESTAMP: Final = re.compile(r"0|[1-9][0-9]{0,11}")


@dataclass(frozen=True, slots=True)
class RequestSigner:
    """Who signed a request, verified. `nonce` must be checked for single use until `timestamp + WINDOW_S`."""

    key: Pubkey
    timestamp: int
    nonce: UUID

    @property
    def pubkey(self) -> str:
        return str(self.key)


def _message(method: str, target: str, body: bytes, timestamp: int, nonce: UUID) -> bytes:
    lines = (
        "machpay:request:v1",
        method.upper(),
        target,
        hashlib.sha256(body).hexdigest(),
        str(timestamp),
        str(nonce),
    )
    return "\n".join(lines).encode()


def sign_request(
    key: SigningKey,
    method: str,
    target: str,
    body: bytes = b"",
    *,
    timestamp: int | None = None,
    nonce: UUID | None = None,
) -> dict[str, str]:
    """The four headers that sign this request. `target` is the origin form: path and query as sent;
    `timestamp` (unix seconds) is now and `nonce` fresh by default."""
    timestamp = int(time.time()) if timestamp is None else timestamp
    nonce = uuid4() if nonce is None else nonce
    signature = key.sign(_message(method, target, body, timestamp, nonce))
    return {
        KEY_HEADER: key.pubkey,
        TIMESTAMP_HEADER: str(timestamp),
        NONCE_HEADER: str(nonce),
        SIGNATURE_HEADER: to_b64(signature),
    }


def verify_request(
    method: str, target: str, body: bytes, headers: Mapping[str, str], *, now: float
) -> RequestSigner:
    """Check the four headers of a received request; `headers` has lowercase names.

    Raises `MalformedError` if one is missing or does not parse, `SignatureError` if the time is more than
    `WINDOW_S` from `now` or the signature is not the key's.
    """
    key = parse_pubkey(headers.get(KEY_HEADER.lower()), KEY_HEADER)
    signature = parse_b64(headers.get(SIGNATURE_HEADER.lower()), SIGNATURE_HEADER, SIGNATURE_LENGTH)
    raw_timestamp = headers.get(TIMESTAMP_HEADER.lower(), "")
    if not _TIMESTAMP.fullmatch(raw_timestamp):
        raise MalformedError(f"{TIMESTAMP_HEADER} must be unix seconds")
    timestamp = int(raw_timestamp)
    raw_nonce = headers.get(NONCE_HEADER.lower(), "")
    try:
        nonce = UUID(raw_nonce)
    except ValueError as error:
        raise MalformedError(f"{NONCE_HEADER} must be a UUID") from error
    if str(nonce) != raw_nonce:
        raise MalformedError(f"{NONCE_HEADER} must be a UUID in canonical lowercase text")
    if abs(now - timestamp) > WINDOW_S:
        raise SignatureError(f"the request was signed more than {WINDOW_S} s from this clock")
    if not verify(key, _message(method, target, body, timestamp, nonce), signature):
        raise SignatureError("the request's signature does not verify")
    return RequestSigner(key, timestamp, nonce)
