"""The 402: price and terms of a route as header and body. Everything but the hash and the address is built once."""

import base64
from typing import Final

import msgspec

from machpay.protocol import identifiers
from machpay.protocol.requests import Binding
from machpay.protocol.x402 import (
    INTENT_VERSION,
    MAX_HEADER_BYTES,
    SCHEME,
    VERSION,
    PaymentRequired,
    Requirements,
    Resource,
    encode_header,
)
from machpay_gateway.routes import Route
from machpay_gateway.settings import Settings

_MAX_URL_BYTES: Final = 1024
"""A longer address is named by its route instead, so that the header stays below what servers accept."""
_URL_MARK: Final = "\x00url\x00"
_HASH_MARK: Final = "\x00hash\x00"
_EXTENSIONS: Final = {identifiers.EXTENSION: dict(identifiers.DECLARATION)}


class Challenges:
    """Builds the 402 of every route."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._public_url = settings.gateway.public_url.rstrip("/")
        self._plain: dict[tuple[str, str], tuple[bytes, bytes, bytes]] = {}

    def plain(self, route: Route, url: str, binding: Binding, request_hash: bytes) -> bytes:
        """The JSON of the 402 for an unpaid request."""
        parts = self._plain.get((route.label, binding))
        if parts is None:
            parts = self._plain[route.label, binding] = self._split(route, binding)
        before, between, after = parts
        return before + msgspec.json.encode(url) + between + request_hash.hex().encode() + after

    def refused(
        self,
        route: Route,
        url: str,
        binding: Binding,
        request_hash: bytes,
        error: str,
        extra: dict[str, object],
    ) -> bytes:
        """The JSON of the 402 for a payment that was not accepted, with what helps the client in `extra`."""
        return msgspec.json.encode(self._required(route, url, binding, request_hash.hex(), error, extra))

    def url(self, scheme: str, host: bytes | None, raw_path: bytes, route: Route) -> str:
        """`resource.url`: where the client asked, without the query."""
        path = raw_path.decode("latin-1") if len(raw_path) <= _MAX_URL_BYTES else route.path
        if self._public_url:
            return self._public_url + path
        name = (
            host.decode("latin-1")[:256]
            if host
            else f"{self._settings.gateway.host}:{self._settings.gateway.port}"
        )
        return f"{scheme}://{name}{path}"

    def requirements(self, route: Route, binding: Binding, request_hash: str) -> Requirements:
        settings = self._settings
        metered = {"metered": True} if route.metered else {}
        return Requirements(
            scheme=SCHEME,
            network=settings.network.caip2,
            amount=str(route.price_atomic),
            asset=str(settings.network.mint),
            pay_to=str(settings.vendor),
            max_timeout_seconds=settings.gateway.max_timeout_s,
            extra={
                "programId": str(settings.network.program_id),
                "domain": str(settings.network.domain),
                "gateway": settings.key.pubkey,
                "intentVersion": INTENT_VERSION,
                "requestHash": request_hash,
                "binding": binding,
                **metered,
            },
        )

    def _required(
        self,
        route: Route,
        url: str,
        binding: Binding,
        request_hash: str,
        error: str,
        extra: dict[str, object],
    ) -> PaymentRequired:
        requirements = self.requirements(route, binding, request_hash)
        requirements.extra.update(extra)
        return PaymentRequired(
            x402_version=VERSION,
            error=error,
            resource=Resource(url=url, description=route.description, mime_type=route.mime_type),
            accepts=[requirements],
            extensions=_EXTENSIONS,
        )

    def _split(self, route: Route, binding: Binding) -> tuple[bytes, bytes, bytes]:
        """The JSON around the two values that differ per request."""
        template = self._required(route, _URL_MARK, binding, _HASH_MARK, "payment_required", {})
        before, rest = msgspec.json.encode(template).split(msgspec.json.encode(_URL_MARK))
        between, after = rest.split(msgspec.json.encode(_HASH_MARK)[1:-1])
        return before, between, after


def header(body: bytes) -> bytes:
    """`PAYMENT-REQUIRED` for the JSON `body`."""
    value = base64.b64encode(body)
    if len(value) >= MAX_HEADER_BYTES:
        raise ValueError("a 402 header must stay below 8 KB")
    return value


def encode(value: msgspec.Struct) -> bytes:
    """A payment header's value."""
    return encode_header(value).encode()
