"""Which headers travel through the gateway, in both directions. Pure functions over lists of (name, value) bytes,
names in lower case."""

from typing import Final

from machpay.protocol.x402 import REQUIRED_HEADER, RESPONSE_HEADER, SIGNATURE_HEADER

Headers = list[tuple[bytes, bytes]]

REQUIRED: Final = REQUIRED_HEADER.lower().encode()
SIGNATURE: Final = SIGNATURE_HEADER.lower().encode()
RESPONSE: Final = RESPONSE_HEADER.lower().encode()
V1_PAYMENT: Final = b"x-payment"
V1_RESPONSE: Final = b"x-payment-response"
AMOUNT: Final = b"machpay-amount"
"""How the upstream names what a metered answer costs, as a header or trailer."""
PAYMENT: Final = b"machpay-payment"
AGENT: Final = b"machpay-agent"
"""What the upstream is told of a paid request: the payment's digest, and who pays."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_PAYMENT: Final = frozenset({REQUIRED, SIGNATURE, RESPONSE, V1_PAYMENT, V1_RESPONSE, AMOUNT, PAYMENT, AGENT})
# What the client says about its own address or asks the upstream to read instead of the request line is not passed
# on: the route that was paid for is the one in the request line.
_REPLACED: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"expect",
        b"machpay-gateway",
        b"machpay-sibling",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
    }
)
_NONE: Final[frozenset[bytes]] = frozenset()
_NOT_TO_UPSTREAM: Final = HOP_BY_HOP | _PAYMENT | _REPLACED
# Every answer gets a date and the request's id of its own (`reply`).
_NOT_TO_CLIENT: Final = HOP_BY_HOP | _PAYMENT | {b"date", b"x-request-id"}

EXPOSED: Final = (
    f"{REQUIRED_HEADER}, {RESPONSE_HEADER}, MachPay-Repeated, Retry-After, Location, X-Request-ID".encode()
)
CORS: Final[Headers] = [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED)]


def paid_by(digest: bytes, agent: str) -> Headers:
    """What the upstream is told of the payment behind a request."""
    return [(PAYMENT, digest.hex().encode()), (AGENT, agent.encode())]


def to_upstream(
    received: Headers, *, forwarded_for: bytes | None, scheme: str, host: bytes | None = None
) -> Headers:
    """The request's headers for the upstream: end-to-end ones, and who asked for what in `X-Forwarded-*`.

    `host` is what the client asked for, if it is not in the `Host` header."""
    listed = _listed_in_connection(received)
    passed = []
    for name, value in received:
        if name == b"host":
            host = host or value
        if name not in _NOT_TO_UPSTREAM and name not in listed:
            passed.append((name, value))
    if forwarded_for is not None:
        passed.append((b"x-forwarded-for", forwarded_for))
    passed.append((b"x-forwarded-proto", scheme.encode()))
    if host:
        passed.append((b"x-forwarded-host", host))
    return passed


def to_client(received: Headers, *, paid: bool) -> Headers:
    """The answer's headers for the client. A paid answer is `private`, and its payment headers are readable for
    scripts of other origins; what the upstream says of payments is never passed on."""
    listed = _listed_in_connection(received)
    passed = [line for line in received if line[0] not in _NOT_TO_CLIENT and line[0] not in listed]
    if not paid:
        return passed
    named = dict(passed)
    if b"access-control-allow-origin" not in named:
        passed.append((b"access-control-allow-origin", b"*"))
    passed.append((b"access-control-expose-headers", EXPOSED))
    if b"cache-control" in named:
        kept = [line for line in passed if line[0] != b"cache-control" or _is_private(line[1])]
        if len(kept) == len(passed):
            return kept
        passed = kept
    passed.append((b"cache-control", b"private"))
    return passed


def _is_private(cache_control: bytes) -> bool:
    directives = {part.split(b"=")[0].strip().lower() for part in cache_control.split(b",")}
    return b"private" in directives or b"no-store" in directives


def _listed_in_connection(headers: Headers) -> frozenset[bytes]:
    """Header names that `Connection` declares to be for this hop only."""
    connection = dict(headers).get(b"connection")
    if connection is None or (
        connection.lower() in (b"close", b"keep-alive")
        and sum(name == b"connection" for name, _ in headers) == 1
    ):
        return _NONE
    return frozenset(
        token.strip().lower()
        for name, tokens in headers
        if name == b"connection"
        for token in tokens.split(b",")
    )
