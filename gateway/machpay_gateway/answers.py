"""Answers the gateway makes itself: problems, 402s, preflights."""

from http import HTTPStatus
from typing import Final

import msgspec

from machpay.protocol.offers import LOOKUP_PREFIX
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.x402 import PaymentResponse, encode_header
from machpay_gateway.bindings import was_served
from machpay_gateway.errors import RequestError
from machpay_gateway.headers import CORS, Headers
from machpay_gateway.reply import Reply

PROBLEM_TYPE: Final = b"application/problem+json"
_NO_STORE: Final = (b"cache-control", b"no-store")
_PREFLIGHT_MAX_AGE_S: Final = b"600"


async def respond_json(reply: Reply, status: int, body: bytes) -> None:
    """JSON about the gateway itself: never cached, readable from anywhere."""
    await reply.whole(status, [(b"content-type", b"application/json"), _NO_STORE, *CORS], body)


async def respond_problem(reply: Reply, error: RequestError, extra: Headers | None = None) -> None:
    """RFC 9457 problem details with a stable `code`."""
    status, headers, body = problem(error, extra)
    await reply.whole(status, headers, body)


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


async def respond_payment_required(reply: Reply, body: bytes, headers: Headers) -> None:
    """A 402: `body` repeats what the PAYMENT-REQUIRED header in `headers` says."""
    await reply.whole(402, [(b"content-type", b"application/json"), _NO_STORE, *CORS, *headers], body)


async def respond_preflight(reply: Reply, methods: tuple[str, ...], requested_headers: bytes | None) -> None:
    """OPTIONS on a priced path: what browsers need to know before a client of another origin may pay."""
    allowed = ", ".join(
        dict.fromkeys([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
    ).encode()
    named = requested_headers or b"payment-signature, content-type, authorization"
    await reply.whole(
        204,
        [
            *CORS,
            (b"allow", allowed),
            (b"access-control-allow-methods", allowed),
            (b"access-control-allow-headers", named),
            (b"access-control-max-age", _PREFLIGHT_MAX_AGE_S),
            (b"vary", b"access-control-request-headers"),
        ],
        b"",
    )
