"""`MachPayClient`: pay for HTTP requests and keep the bond.

Drives the pure parts (`terms`, `channels`, `orders`) over HTTP. A call that fails is always one of three:
nothing was charged and it may be repeated, the outcome is proven by a receipt, or it is reported as
unresolved with its digest. It is never paid a second time behind the caller's back.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx
from solders.pubkey import Pubkey

from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError
from machpay.client.bonds import BondManager
from machpay.client.channels import Channel, Totals
from machpay.client.config import MachPayConfig
from machpay.client.errors import (
    ConfigError,
    GatewayExposureError,
    GatewayMismatchError,
    GatewayUnreachableError,
    ReceiptError,
    ResponseLostError,
    UnresolvedPaymentError,
    refused,
)
from machpay.client.orders import Order, Refusal, check_receipt, may_retry, place, read_receipt, read_refusal
from machpay.client.payments import PaidResponse, Payment
from machpay.client.store import StateFile
from machpay.client.terms import (
    MAX_CACHED_ROUTES,
    Call,
    check_binding,
    check_gateway,
    check_price,
    choose_offer,
    origin_of,
)
from machpay.client.transport import Lost, Transport
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.offers import LOOKUP_PREFIX, Offer, PaymentLookup, decode_lookup
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.x402 import REQUIRED_HEADER, RESPONSE_HEADER, decode_required

MAX_ATTEMPTS: Final = 16
"""Signatures per call before a gateway that keeps refusing is given up."""
EXPOSURE_WAITS: Final = 5
"""How often a call waits for receipts of other payments before `GatewayExposureError` is raised."""
BUSY_RESENDS: Final = 3
LOOK_UP_TRIES: Final = 5
WATERMARK_CACHE_S: Final = 2.0
_MAX_PAUSE_S: Final = 0.5

logger = logging.getLogger(__name__)


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
        self._offers: OrderedDict[tuple[str, str, bytes], Offer] = OrderedDict()
        self._gateways = {origin_of(origin): Pubkey.from_string(key) for origin, key in config.pinned.items()}
        self._channels: dict[Pubkey, Channel] = {}
        self._watermarks: dict[Pubkey, tuple[float, int]] = {}
        self._store: StateFile | None = None
        self._saved: dict[str, Totals] = {}
        if config.state_dir is not None:
            self._store = StateFile(config.state_dir, self._key.pubkey, config.network)
            self._saved = self._store.load()

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        if self._chain is not None:
            await self._chain.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._save()
        await self._transport.aclose()
        if self._chain is not None:
            await self._chain.__aexit__(kind, error, trace)

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
            channel = self._channel(offer.gateway)
            order = await self._place(channel, offer, call)
            outcome = await self._deliver(call, request, channel, order, attempt)
            if isinstance(outcome, PaidResponse):
                return outcome
            next_offer = await self._reconsider(call, channel, order, outcome)
            if next_offer is None or attempt == MAX_ATTEMPTS:
                raise refused(outcome.code, gateway=str(offer.gateway), digest=order.digest, attempts=attempt)
            offer = next_offer
            if attempt > 1:
                await _pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    async def look_up(self, url: str, digest: bytes) -> PaymentLookup:
        """Ask the gateway at `url`'s origin what became of the payment `digest`.

        The receipt in the answer is checked against the origin's gateway key, if that is known, and counted.
        Raises `GatewayUnreachableError`, `GatewayMismatchError`.
        """
        origin = origin_of(url)
        answer = await self._transport.ask(
            self._transport.build("GET", origin + LOOKUP_PREFIX + digest.hex())
        )
        try:
            lookup, receipt = decode_lookup(answer.content)
        except MalformedError as error:
            raise GatewayMismatchError(url, f"its answer to a look-up is not one: {error.detail}") from error
        gateway = self._gateways.get(origin)
        if receipt is not None and gateway is not None:
            if receipt.receipt.digest != digest or not receipt.is_signed_by(gateway):
                raise GatewayMismatchError(url, "the receipt in its answer to a look-up is not valid")
            channel = self._channel(gateway)
            if channel.is_open(receipt.receipt.digest):
                self._count(channel, receipt)
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
        """Put tokens from the agent's wallet on its bond; returns the transaction's signature, confirmed.

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
        return BondManager(self._chain, self.config.network, self._key)

    # ---- one payment

    def _learn(self, answer: httpx.Response, call: Call) -> Offer:
        """The offer in a 402, checked and remembered."""
        try:
            required = decode_required(answer.headers[REQUIRED_HEADER])
        except KeyError as error:
            raise GatewayMismatchError(call.url, f"its 402 has no {REQUIRED_HEADER}") from error
        except MalformedError as error:
            raise GatewayMismatchError(call.url, error.detail) from error
        offer = choose_offer(required, self.config.network, call)
        check_gateway(offer, self._gateways.get(call.origin), call)
        check_binding(offer, call)
        self._gateways[call.origin] = offer.gateway
        self._offers[call.route] = offer
        if len(self._offers) > MAX_CACHED_ROUTES:
            self._offers.popitem(last=False)
        return offer

    def _channel(self, gateway: Pubkey) -> Channel:
        channel = self._channels.get(gateway)
        if channel is None:
            address = self.config.network.channel(self._key.public, gateway)
            saved = self._saved.get(str(address), Totals())
            channel = self._channels[gateway] = Channel(address, self._key.public, gateway, saved)
        return channel

    async def _place(self, channel: Channel, offer: Offer, call: Call) -> Order:
        """Sign; when too much is unproven, wait a little for receipts of payments in flight first."""
        for wait in range(1, EXPOSURE_WAITS + 1):
            try:
                return place(self._key, channel, offer, call, time.time())
            except GatewayExposureError:
                before = channel.totals
                channel.settled(await self._watermark(channel))
                if channel.totals == before and not channel.unresolved:
                    raise
            await _pause(wait + 2)
        return place(self._key, channel, offer, call, time.time())

    async def _deliver(
        self, call: Call, request: httpx.Request, channel: Channel, order: Order, attempt: int
    ) -> PaidResponse | Refusal:
        """Send the order's bytes until something is known about it."""
        maybe_sent = False
        breaks = busy = 0
        while True:
            answer = await self._transport.send(request, order.headers)
            if isinstance(answer, Lost):
                maybe_sent = maybe_sent or answer.sent
                if answer.headers is not None:
                    raise await self._lost(call, channel, order, answer.detail, answer.headers)
                if not answer.timed_out and breaks < self.config.resends:
                    breaks += 1
                    await _pause(breaks)
                    continue
                if not maybe_sent:
                    channel.not_sent(order.digest)
                    raise GatewayUnreachableError(call.url, answer.detail)
                raise await self._lost(call, channel, order, answer.detail)
            if answer.status_code == 402:
                refusal = self._refusal(call, answer)
                if refusal.code == RefusalCode.NONCE_REPLAYED:
                    # Something on the way sent our bytes twice; the other copy may have been accepted.
                    raise await self._lost(call, channel, order, refusal.code)
                return refusal
            retry_after = _retry_after(answer)
            if retry_after is not None and busy < BUSY_RESENDS:
                # Not accepted for now. The same bytes cannot be accepted twice, so they may simply go again.
                busy += 1
                await asyncio.sleep(retry_after)
                continue
            return await self._account(call, channel, order, answer, attempt)

    async def _account(
        self, call: Call, channel: Channel, order: Order, answer: httpx.Response, attempt: int
    ) -> PaidResponse:
        """Take an answer's receipt into account. Raises `ReceiptError`."""
        try:
            receipt = read_receipt(answer.headers, order, answer.status_code)
        except MalformedError as error:
            raise ReceiptError(error.detail, digest=order.digest, response=answer) from error
        if receipt is None:
            # No word on money: the gateway could not take payments now, the route became free, or something else
            # than the gateway answered.
            self._offers.pop(call.route, None)
            answered, receipt = await self._ask_outcome(call, order)
            if receipt is None:
                if answered:
                    channel.refused(order.digest)
                return PaidResponse.of(answer, None)
        self._count(channel, receipt)
        return PaidResponse.of(
            answer,
            Payment(
                digest=order.digest,
                gateway=str(order.offer.gateway),
                vendor=str(order.offer.vendor),
                amount=order.intent.amount,
                charged=receipt.receipt.charged,
                served_total=receipt.receipt.served_total,
                receipt=receipt,
                attempts=attempt,
            ),
        )

    async def _lost(
        self,
        call: Call,
        channel: Channel,
        order: Order,
        detail: str,
        headers: Mapping[str, str] | None = None,
    ) -> Exception:
        """The error for a payment whose answer is not coming, after asking the gateway about it.

        `headers` are those of an answer whose body broke off. Its receipt counts only if the gateway cannot
        be asked: it takes a charge back when the answer it was for does not get through.
        """
        _answered, receipt = await self._ask_outcome(call, order)
        if receipt is None and headers is not None:
            with contextlib.suppress(MalformedError):
                receipt = read_receipt(headers, order, None)
        if receipt is not None:
            self._count(channel, receipt)
            return ResponseLostError(call.url, digest=order.digest, receipt=receipt)
        return UnresolvedPaymentError(
            call.url, digest=order.digest, deadline=order.intent.deadline, detail=detail
        )

    async def _ask_outcome(self, call: Call, order: Order) -> tuple[bool, SignedReceipt | None]:
        """Look a payment up, waiting a little while it is still in flight: whether the gateway has given its
        last word, and its valid receipt if it has one. Its last word without a receipt: it knows no such
        payment."""
        for attempt in range(1, LOOK_UP_TRIES + 1):
            request = self._transport.build("GET", call.origin + LOOKUP_PREFIX + order.digest.hex())
            try:
                lookup, receipt = decode_lookup((await self._transport.ask(request)).content)
                if receipt is not None:
                    check_receipt(receipt, order)
                if not lookup.in_flight:
                    return True, receipt
            except GatewayUnreachableError:
                pass
            except MalformedError as error:
                logger.warning("looking payment %s up at %s: %s", order.digest.hex(), call.origin, error)
                return False, None
            await _pause(attempt + 2)
        return False, None

    def _refusal(self, call: Call, answer: httpx.Response) -> Refusal:
        try:
            return read_refusal(answer.headers)
        except MalformedError as error:
            raise GatewayMismatchError(call.url, error.detail) from error

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
        offer = choose_offer(refusal.required, self.config.network, call)
        check_gateway(offer, order.offer.gateway, call)
        check_binding(offer, call)
        if (offer.amount, offer.binding) == (order.offer.amount, order.offer.binding):
            return None
        self._offers[call.route] = offer
        return offer

    async def _correct(self, channel: Channel, refusal: Refusal) -> None:
        """Follow a corrective answer. Raises `GatewayExposureError` if it proves nothing."""
        correction = refusal.correction
        claimed = 0 if correction is None else correction.committed_total
        if correction is not None:
            if channel.correct(correction, refusal.receipt, 0):
                return
            if channel.correct(correction, refusal.receipt, await self._watermark(channel)):
                return
        raise GatewayExposureError(
            str(channel.gateway),
            signed=channel.signed,
            served=channel.served,
            claimed=claimed,
            detail="it asks for more than it can prove to be committed",
        )

    async def _watermark(self, channel: Channel) -> int:
        """What the chain has settled on the channel, at most `WATERMARK_CACHE_S` old; 0 without an RPC
        URL."""
        if self._chain is None:
            return 0
        cached = self._watermarks.get(channel.gateway)
        if cached is not None and time.monotonic() - cached[0] < WATERMARK_CACHE_S:
            return cached[1]
        try:
            account = await self._chain.channel(channel.agent, channel.gateway)
        except ChainError as error:
            logger.warning("reading channel %s: %s", channel.address, error)
            return 0 if cached is None else cached[1]
        settled = 0 if account is None else account.settled
        self._watermarks[channel.gateway] = (time.monotonic(), settled)
        return settled

    # ---- state

    def _count(self, channel: Channel, receipt: SignedReceipt) -> None:
        channel.resolved(receipt)
        if self._store is not None and self._store.is_due():
            self._save()

    def _save(self) -> None:
        if self._store is None:
            return
        totals = {str(channel.address): channel.totals for channel in self._channels.values()}
        try:
            self._store.save(totals)
        except OSError as error:
            # The next start relearns the totals; a payment must not fail for this.
            logger.warning("saving %s: %s", self._store.path, error)


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds to wait before the same bytes may go again; None unless a busy gateway asks for it.

    An answer with a `PAYMENT-RESPONSE` is an outcome, not a request to wait.
    """
    if answer.status_code not in (429, 503) or RESPONSE_HEADER in answer.headers:
        return None
    text = answer.headers.get("retry-after", "")
    return min(float(text), 2.0) if text.isascii() and text.isdigit() and len(text) < 6 else None


async def _pause(attempt: int) -> None:
    """Wait a random time that grows with the attempts, so that processes on one key do not meet again."""
    await asyncio.sleep(random.uniform(0, min(_MAX_PAUSE_S, 0.005 * 2**attempt)))  # noqa: S311 - no secret
