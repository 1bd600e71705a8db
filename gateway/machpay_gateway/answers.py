"""Answers the gateway makes itself: problems, 402s, preflights. Each is one start and one body message."""

from http import HTTPStatus
from typing import Final

import msgspec

from machpay_gateway.errors import RequestError
from machpay_gateway.headers import CORS, Headers
from machpay_gateway.request import Send

PROBLEM_TYPE: Final = b"application/problem+json"
_NO_STORE: Final = (b"cache-control", b"no-store")
_PREFLIGHT_MAX_AGE_S: Final = b"600"


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """One complete answer; `content-length` is added."""
    lines = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, body: bytes) -> None:
    """JSON about the gateway itself: never cached, readable from anywhere."""
    await respond(send, status, body, [(b"content-type", b"application/json"), _NO_STORE, *CORS])


async def respond_problem(send: Send, error: RequestError, extra: Headers | None = None) -> None:
    """RFC 9457 problem details with a stable `code`."""
    body = msgspec.json.encode(
        {
            "type": "about:blank",
            "title": HTTPStatus(error.status).phrase,
            "status": error.status,
            "code": error.code,
            "detail": error.detail,
        }
    )
    headers = [(b"content-type", PROBLEM_TYPE), _NO_STORE, *CORS, *error.headers, *(extra or [])]
    await respond(send, error.status, body, headers)


async def respond_payment_required(send: Send, body: bytes, headers: Headers) -> None:
    """A 402: `body` repeats what the PAYMENT-REQUIRED header in `headers` says."""
    await respond(send, 402, body, [(b"content-type", b"application/json"), _NO_STORE, *CORS, *headers])


async def respond_preflight(send: Send, methods: tuple[str, ...], requested_headers: bytes | None) -> None:
    """OPTIONS on a priced path: what browsers need to know before a client of another origin may pay."""
    allowed = ", ".join(
        dict.fromkeys([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
    ).encode()
    named = requested_headers or b"payment-signature, content-type, authorization"
    await send(
        {
            "type": "http.response.start",
            "status": 204,
            "headers": [
                *CORS,
                (b"allow", allowed),
                (b"access-control-allow-methods", allowed),
                (b"access-control-allow-headers", named),
                (b"access-control-max-age", _PREFLIGHT_MAX_AGE_S),
                (b"vary", b"access-control-request-headers"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": b""})
