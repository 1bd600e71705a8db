"""`MachPayClient`: pay for HTTP requests and keep the bond.

Drives the pure parts (`terms`, `channels`, `orders`) over HTTP. A call that fails is always one of three:
nothing was charged and it may be repeated, the outcome is proven by a receipt, or it is reported as
unresolved with its digest. It is never paid a second time behind the caller's back.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

import httpx
from solders.pubkey import Pubkey

from machpay.chain.client import ChainClient
from machpay.client.bonds import BondManager
from machpay.client.book import ChannelBook
from machpay.client.channels import Channel
from machpay.client.config import MachPayConfig
from machpay.client.errors import ConfigError, GatewayExposureError, GatewayMismatchError, refused
from machpay.client.exchange import Exchange, pause
from machpay.client.orders import Order, Refusal, may_retry, place
from machpay.client.payments import PaidResponse
from machpay.client.terms import (
    MAX_CACHED_ROUTES,
    Call,
    check_binding,
    check_gateway,
    check_price,
    choose_offer,
    origin_of,
)
from machpay.client.transport import Transport
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.offers import Offer, PaymentLookup
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.x402 import REQUIRED_HEADER, PaymentRequired, decode_required

MAX_ATTEMPTS: Final = 16
"""Signatures per call before a gateway that keeps refusing is given up."""
EXPOSURE_WAITS: Final = 5
"""How often a call waits for receipts of other payments before `GatewayExposureError` is raised."""


class MachPayClient:
    """Pays gateways for one agent. Use as an async context manager; safe for many calls at once in one event
    loop.

    Several processes may use one key at the same time: they need no coordination, only now and then one more
    round trip.
    """

    def __init__(self, config: MachPayConfig) -> None:
        self.config = config
        self._key = config.key
        self._transport = Transport(timeout_s=config.timeout_s, max_connections=config.max_connections)
        self._chain = ChainClient(config.rpc_url, config.network) if config.rpc_url else None
        self._book = ChannelBook(config, self._chain)
        self._exchange = Exchange(self._transport, self._book, config.resends)
        self._offers: OrderedDict[tuple[str, str, bytes], Offer] = OrderedDict()
        self._gateways = {origin_of(origin): Pubkey.from_string(key) for origin, key in config.pinned.items()}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._transport)
        if self._chain is not None:
            await self._stack.enter_async_context(self._chain)
        self._stack.callback(self._book.save)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def agent(self) -> str:
        """The agent's public key, base58."""
        return self._key.pubkey

    # ---- paying

    async def pay_and_call(
        self,
        url: str,
        method: str = "GET",
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: bytes | str | None = None,
        max_price_atomic: int | None = None,
    ) -> PaidResponse:
        """Call `url` and pay for it if it asks for payment.

        The price of a route is learned from its first 402 and paid up front from then on. Returns the answer,
        whatever its status, with `payment` (None on a free route); an upstream's failure is an ordinary
        answer that charged 0. Raises a `ClientError`; see `machpay.client.errors` for what each means for the
        money.
        """
        limit = self.config.max_price_atomic if max_price_atomic is None else max_price_atomic
        request = self._transport.build(
            method.upper(), url, headers=headers, params=params, json=json, content=content
        )
        call = Call(
            url=str(request.url),
            origin=origin_of(str(request.url)),
            method=request.method,
            target=request.url.raw_path,
            body=await request.aread(),
        )
        offer = self._offers.get(call.route)
        if offer is None or offer.amount > limit:
            answer = await self._transport.ask(request)
            # HEAD is never served for money: its 402 is the answer, and says the price.
            if answer.status_code != 402 or call.method == "HEAD":
                return PaidResponse.of(answer, None)
            offer = self._learn(answer, call)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            check_price(offer, limit, call)
            channel = self._book.channel(offer.gateway)
            order = await self._place(channel, offer, call)
            outcome = await self._exchange.deliver(call, request, channel, order, attempt)
            if isinstance(outcome, PaidResponse):
                if outcome.payment is None:
                    # What we knew of the route no longer holds.
                    self._offers.pop(call.route, None)
                return outcome
            next_offer = await self._reconsider(call, channel, order, outcome)
            if next_offer is None or attempt == MAX_ATTEMPTS:
                raise refused(outcome.code, gateway=str(offer.gateway), digest=order.digest, attempts=attempt)
            offer = next_offer
            if attempt > 1:
                await pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    async def look_up(self, url: str, digest: bytes) -> PaymentLookup:
        """Ask the gateway at `url`'s origin what became of the payment `digest`.

        The receipt in the answer is checked against the origin's gateway key, if that is known, and counted.
        Raises `GatewayUnreachableError`, `GatewayMismatchError`.
        """
        origin = origin_of(url)
        try:
            lookup, receipt = await self._exchange.look_up(origin, digest)
        except MalformedError as error:
            raise GatewayMismatchError(url, f"its answer to a look-up is not one: {error.detail}") from error
        gateway = self._gateways.get(origin)
        if receipt is not None and gateway is not None:
            if receipt.receipt.digest != digest or not receipt.is_signed_by(gateway):
                raise GatewayMismatchError(url, "the receipt in its answer to a look-up is not valid")
            channel = self._book.channel(gateway)
            if channel.is_open(digest):
                self._book.count(channel, receipt)
        return lookup

    @staticmethod
    def verify_receipt(
        receipt: SignedReceipt | Mapping[str, object], *, gateway: str, digest: bytes | None = None
    ) -> bool:
        """True if `receipt` (or its JSON) is signed by `gateway` (base58) and, if given, is for payment
        `digest`."""
        try:
            signed = receipt if isinstance(receipt, SignedReceipt) else SignedReceipt.from_json(dict(receipt))
            key = Pubkey.from_string(gateway)
        except (MalformedError, ValueError):
            return False
        return signed.is_signed_by(key) and digest in (None, signed.receipt.digest)

    # ---- the bond

    async def deposit_bond(self, amount_atomic: int, *, owner: str | None = None) -> str:
        """Put tokens from the agent's wallet on its bond and wait until gateways count them; returns the
        transaction's signature.

        The first deposit names the `owner` wallet (base58) that withdrawals go to: the agent by default.
        Raises `BondError` and its kinds, `machpay.chain.errors.ChainError`.
        """
        return await self._bonds.deposit(
            amount_atomic, owner=None if owner is None else Pubkey.from_string(owner)
        )

    async def get_bond_balance(self) -> int:
        """The agent's bond on chain in atomic units; 0 before the first deposit. Raises `ChainError`."""
        return await self._bonds.balance()

    @property
    def _bonds(self) -> BondManager:
        if self._chain is None:
            raise ConfigError("rpc_url is not set: the bond lives on chain")
        return BondManager(
            self._chain, self.config.network, self._key, self._transport, self.config.relayer_url
        )

    # ---- one payment

    def _learn(self, answer: httpx.Response, call: Call) -> Offer:
        """The offer in a 402, checked and remembered."""
        try:
            required = decode_required(answer.headers[REQUIRED_HEADER])
        except KeyError as error:
            raise GatewayMismatchError(call.url, f"its 402 has no {REQUIRED_HEADER}") from error
        except MalformedError as error:
            raise GatewayMismatchError(call.url, error.detail) from error
        return self._accept_offer(required, call)

    def _accept_offer(self, required: PaymentRequired, call: Call) -> Offer:
        """The offer this agent can stand for; it becomes the route's. Raises `GatewayMismatchError`."""
        offer = choose_offer(required, self.config.network, call)
        check_gateway(offer, self._gateways.get(call.origin), call)
        check_binding(offer, call)
        self._gateways[call.origin] = offer.gateway
        self._offers[call.route] = offer
        if len(self._offers) > MAX_CACHED_ROUTES:
            self._offers.popitem(last=False)
        return offer

    async def _place(self, channel: Channel, offer: Offer, call: Call) -> Order:
        """Sign; when too much is unproven, wait a little for receipts of payments in flight first."""
        for wait in range(1, EXPOSURE_WAITS + 1):
            try:
                return place(self._key, channel, offer, call, time.time())
            except GatewayExposureError:
                before = channel.totals
                channel.settled(await self._book.watermark(channel))
                if channel.totals == before and not channel.unresolved:
                    raise
            await pause(wait + 2)
        return place(self._key, channel, offer, call, time.time())

    async def _reconsider(self, call: Call, channel: Channel, order: Order, refusal: Refusal) -> Offer | None:
        """What to sign next after a refusal; None when signing again cannot help."""
        if refusal.code == RefusalCode.CUMULATIVE_TOO_LOW:
            channel.too_low(order.digest)
            await self._correct(channel, refusal)
            return order.offer
        channel.refused(order.digest)
        self._offers.pop(call.route, None)
        if not may_retry(refusal.code) or refusal.required is None:
            return None
        offer = self._accept_offer(refusal.required, call)
        if (offer.amount, offer.binding) == (order.offer.amount, order.offer.binding):
            return None
        return offer

    async def _correct(self, channel: Channel, refusal: Refusal) -> None:
        """Follow a corrective answer. Raises `GatewayExposureError` if it proves nothing."""
        correction = refusal.correction
        claimed = 0 if correction is None else correction.committed_total
        if correction is not None:
            if channel.correct(correction, refusal.receipt, 0):
                return
            if channel.correct(correction, refusal.receipt, await self._book.watermark(channel)):
                return
        raise GatewayExposureError(
            str(channel.gateway),
            signed=channel.signed,
            served=channel.served,
            claimed=claimed,
            detail="it asks for more than it can prove to be committed",
        )
