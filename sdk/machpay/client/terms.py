"""Is what a 402 asks for what this agent stands for? Pure checks, before anything is signed.

Network, program, genesis hash and token must be the configured ones, the gateway the one this origin always
had, the request hash our own, and the price within the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import httpx
import msgspec
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.client.errors import ConfigError, GatewayMismatchError, PriceTooHighError
from machpay.protocol.errors import MalformedError
from machpay.protocol.identifiers import is_declared
from machpay.protocol.offers import Offer
from machpay.protocol.requests import MAX_BOUND_BODY_BYTES, request_hash, route_hash
from machpay.protocol.x402 import SCHEME, PaymentRequired, Requirements

MAX_CACHED_ROUTES: Final = 4096


class Call(msgspec.Struct, frozen=True):
    """One HTTP request as far as a payment is concerned. `target` is the origin form exactly as sent; of a body that
    `is_streamed`, `body` is the beginning."""

    url: str
    origin: str
    method: str
    target: bytes
    body: bytes
    is_streamed: bool = False

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def route(self) -> tuple[str, str, bytes, bool]:
        """What a price and its binding belong to: origin, method, path, and whether the body is too long to be read
        ahead."""
        return (self.origin, self.method, self.path, len(self.body) > MAX_BOUND_BODY_BYTES)

    def hash(self, offer: Offer) -> bytes:
        """The request hash that the offer's binding asks for, computed from what we send."""
        if offer.binding == "route":
            return route_hash(self.method, self.path)
        return request_hash(self.method, self.target, self.body)


@dataclass(frozen=True)
class Challenge:
    """What a 402 asks for, checked: the offer we take, and the x402 extensions the gateway understands."""

    offer: Offer
    extensions: Mapping[str, Any]

    @cached_property
    def accepted(self) -> Requirements:
        """The offer as every payment for it repeats it."""
        return self.offer.to_requirements()

    @cached_property
    def knows_identifiers(self) -> bool:
        """Whether the gateway takes the name that a call gives its payments."""
        return is_declared(self.extensions)


@lru_cache(maxsize=512)
def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, as a request names them and with the port always written. Raises `ConfigError`
    for what is no address of a server: a rule for it would silently hold for nobody."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url}: {error}") from error
    host = parsed.raw_host.decode("ascii")
    port = (443 if parsed.scheme == "https" else 80) if parsed.port is None else parsed.port
    if parsed.scheme not in ("http", "https") or not host or not 0 < port < 65_536:
        raise ConfigError(f"{url!r} is not an http:// or https:// URL of a server")
    return f"{parsed.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def choose_offer(required: PaymentRequired, network: Network, call: Call) -> Offer:
    """The first offer of a 402 that this network can pay. Raises `GatewayMismatchError` saying what did not
    fit."""
    ours = [entry for entry in required.accepts if entry.scheme == SCHEME]
    if not ours:
        schemes = sorted({entry.scheme for entry in required.accepts})
        raise GatewayMismatchError(call.url, f"it accepts {schemes}, not {SCHEME}")
    problems = []
    for entry in ours:
        try:
            offer = Offer.from_requirements(entry)
        except MalformedError as error:
            problems.append(error.detail)
            continue
        problem = mismatch(offer, network)
        if problem is None:
            return offer
        problems.append(problem)
    raise GatewayMismatchError(call.url, "; ".join(problems))


def check_binding(offer: Offer, call: Call) -> None:
    """The gateway must have hashed the request that we sent. Raises `GatewayMismatchError`."""
    if call.is_streamed and offer.binding == "request":
        raise GatewayMismatchError(
            call.url, "it binds payments to the whole body: pass the content as bytes, not as a stream"
        )
    if offer.request_hash != call.hash(offer):
        raise GatewayMismatchError(
            call.url, "its request hash is not that of our request: something between us rewrites requests"
        )


def check_gateway(offer: Offer, pinned: Pubkey | None, call: Call) -> None:
    """An origin keeps its gateway key. Raises `GatewayMismatchError`."""
    if pinned is not None and offer.gateway != pinned:
        raise GatewayMismatchError(
            call.url, f"it names gateway {offer.gateway}, but this origin belongs to gateway {pinned}"
        )


def check_price(offer: Offer, max_price_atomic: int, call: Call) -> None:
    """Raises `PriceTooHighError`."""
    if offer.amount > max_price_atomic:
        raise PriceTooHighError(call.url, offer.amount, max_price_atomic)


def mismatch(offer: Offer, network: Network) -> str | None:
    """What about an offer is not this network's; None if it can be paid here."""
    for name, offered, configured in (
        ("network", offer.network, network.caip2),
        ("genesis hash", str(offer.domain), str(network.domain)),
        ("program", str(offer.program_id), str(network.program_id)),
        ("token", str(offer.mint), str(network.mint)),
    ):
        if offered != configured:
            return f"it asks for {name} {offered}, this agent is configured for {configured}"
    return None
