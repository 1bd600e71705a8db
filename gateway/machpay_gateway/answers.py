"""Answers the gateway makes itself: problems, 402s, preflights. Each is one start and one body message."""

import asyncio
from http import HTTPStatus
from typing import Final

import msgspec

from machpay.protocol.offers import LOOKUP_PREFIX
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.x402 import PaymentResponse, encode_header
from machpay_gateway.bindings import was_served
from machpay_gateway.errors import RequestError
from machpay_gateway.headers import CORS, Headers
from machpay_gateway.request import Send

PROBLEM_TYPE: Final = b"application/problem+json"
_NO_STORE: Final = (b"cache-control", b"no-store")
_PREFLIGHT_MAX_AGE_S: Final = b"600"


class ClientStalled(Exception):
    """The client stopped reading its answer."""


async def send_piece(send: Send, piece: bytes, timeout_s: float) -> None:
    """A part of a streamed answer. Raises `ClientStalled` if the client does not take it in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except TimeoutError as error:
        raise ClientStalled from error


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """One complete answer; `content-length` is added."""
    lines = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, body: bytes) -> None:
    """JSON about the gateway itself: never cached, readable from anywhere."""
    await respond(send, status, body, [(b"content-type", b"application/json"), _NO_STORE, *CORS])


async def respond_with(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """An answer as it was given before: `headers` are whole but for a length that was not known then."""
    if status in (204, 304) or any(name == b"content-length" for name, _ in headers):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    else:
        await respond(send, status, body, headers)


async def respond_problem(send: Send, error: RequestError, extra: Headers | None = None) -> None:
    """RFC 9457 problem details with a stable `code`."""
    status, headers, body = problem(error, extra)
    await respond(send, status, body, headers)


def problem(error: RequestError, extra: Headers | None = None) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a problem document."""
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
    return error.status, headers, body


def outcome_header(network: str, payer: str, receipt: SignedReceipt) -> bytes:
    """`PAYMENT-RESPONSE` of a payment whose outcome is known."""
    signed = receipt.receipt
    return encode_header(
        PaymentResponse(
            success=was_served(signed.http_status, signed.charged),
            payer=payer,
            network=network,
            amount=str(signed.charged),
            extra={
                "commitmentId": signed.digest.hex(),
                "servedTotal": str(signed.served_total),
                "receipt": receipt.to_json(),
            },
        )
    ).encode()


def pending_header(network: str, payer: str, digest: bytes, ceiling: int, served: int) -> bytes:
    """`PAYMENT-RESPONSE` of a metered stream that has just begun: at most `ceiling`; the look-up says what it was."""
    return encode_header(
        PaymentResponse(
            success=True,
            payer=payer,
            network=network,
            amount=str(ceiling),
            extra={
                "commitmentId": digest.hex(),
                "servedTotal": str(served),
                "pending": True,
                "lookUp": f"{LOOKUP_PREFIX}{digest.hex()}",
            },
        )
    ).encode()


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
