"""Pays for one call after the other: keeps the agent's rules, signs, and follows corrections.

Every signature passes the same gates in this order: price limit, vendor's allow-list, approval, budgets. Only
then may bytes be signed and sent.
"""

import asyncio
import inspect
import random
import time
from functools import partial

import httpx
import msgspec

from machpay.client.book import ChannelBook
from machpay.client.budgets import Proposal
from machpay.client.channels import Channel
from machpay.client.complaints import Evidence
from machpay.client.config import MachPayConfig
from machpay.client.errors import (
    ApprovalDeniedError,
    ClientError,
    ConfigError,
    GatewayExposureError,
    GatewayMismatchError,
    GatewayUnreachableError,
    ReceiptError,
    ResponseLostError,
    UnresolvedPaymentError,
    refused,
)
from machpay.client.exchange import Delivery, Exchange, pause
from machpay.client.orders import Order, Refusal, may_retry, place
from machpay.client.payments import PaidResponse
from machpay.client.prices import Prices
from machpay.client.spending import Spending
from machpay.client.streams import hand_on_free
from machpay.client.telemetry import Telemetry, error_name
from machpay.client.terms import (
    Call,
    Challenge,
    check_price,
    origin_of,
)
from machpay.client.transport import Transport
from machpay.client.uploads import Source
from machpay.client.vendors import Vendors
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.identifiers import EXTENSION, new_identifier, read_identifier
from machpay.protocol.offers import Offer
from machpay.protocol.x402 import GATEWAY_HEADER

MAX_ATTEMPTS = 16
"""Signatures per call before a gateway that keeps refusing is given up."""
EXPOSURE_WAITS = 5
"""How often a call waits for receipts of other payments before `GatewayExposureError` is raised."""

WORTH_REPEATING = frozenset({429, 500, 502, 503, 504})
MAX_RETRY_PAUSE_S = 5.0


class Purchase(msgspec.Struct):
    """One call and what it may cost. `approved_atomic` is the price that somebody approved, `growth` what its
    signatures have authorised so far; `is_unknown` says that an answer came without a word on its payment.
    `signed_at` is when the last signature was made, on the performance counter. All its payments carry `identifier`,
    under which the gateway serves one of them; `is_shared` says that the caller chose it, so that others may use it
    too. `unknown` are payments whose outcome nobody could say and that were repeated."""

    call: Call
    request: httpx.Request
    max_price_atomic: int
    streams: bool = False
    approved_atomic: int = -1
    growth: int = 0
    is_unknown: bool = False
    vendor: str = ""
    signed_at: float | None = None
    identifier: str = msgspec.field(default_factory=new_identifier)
    is_shared: bool = False
    orders: list[Order] = []
    unknown: list[Order] = []
    source: Source | None = None

    @property
    def can_go_again(self) -> bool:
        """Whether the whole request can be sent once more."""
        return self.source is None or self.source.can_repeat


class Payer:
    """Knows the routes and gateways of one agent."""

    def __init__(
        self,
        config: MachPayConfig,
        transport: Transport,
        book: ChannelBook,
        exchange: Exchange,
        spending: Spending,
        prices: Prices,
        vendors: Vendors,
        evidence: Evidence,
        telemetry: Telemetry | None,
    ) -> None:
        self._evidence = evidence
        self._telemetry = telemetry
        self._vendors = vendors
        self._config = config
        self._budgets = config.budgets
        self._transport = transport
        self._book = book
        self._exchange = exchange
        self._spending = spending
        self._prices = prices

    async def buy(
        self,
        request: httpx.Request,
        max_price_atomic: int | None,
        *,
        streams: bool,
        retries: int,
        payment_id: str | None,
        source: Source | None = None,
    ) -> PaidResponse:
        """Send `request` and pay for it if it asks for payment; with `streams` a successful answer comes
        unread. A failure that surely charged nothing, or a payment whose outcome is unknown to us but not to the
        gateway, is repeated up to `retries` times. Raises a `ClientError`."""
        url = str(request.url)
        call = Call(
            url=url,
            origin=origin_of(url),
            method=request.method,
            target=request.url.raw_path,
            body=request.content if source is None else source.prefix,
            is_streamed=source is not None,
        )
        self._budgets.check_origin(call.url, call.origin)
        limit = self._config.max_price_atomic if max_price_atomic is None else max_price_atomic
        purchase = Purchase(call, request, limit, streams, source=source)
        if payment_id is not None:
            _check_identifier(payment_id)
            purchase.identifier, purchase.is_shared = payment_id, True
        try:
            response = await self._buy(purchase, retries)
        except (ResponseLostError, ReceiptError):
            raise
        except asyncio.CancelledError:
            self._give_up(purchase)
            raise
        except ClientError as error:
            unresolved = self._unresolved(purchase, error)
            if unresolved is None:
                raise
            raise unresolved from error
        if response.payment is None and response.is_error:
            unresolved = self._unresolved(purchase, f"HTTP {response.status_code}")
            if unresolved is not None:
                raise unresolved
        return response

    def _unresolved(self, purchase: Purchase, last: ClientError | str) -> UnresolvedPaymentError | None:
        """The error for a call whose repetitions came to nothing while a payment that it made before them is unknown:
        that one may have been charged. None if there is no such payment."""
        found = {one.digest: one.intent.deadline for one in purchase.unknown if self._is_open(one)}
        if isinstance(last, UnresolvedPaymentError):
            if not found.keys() - {last.digest}:
                return None
            found.pop(last.digest, None)
            found[last.digest] = last.deadline
        if not found:
            return None
        *earlier, newest = found
        detail = last.detail if isinstance(last, UnresolvedPaymentError) else str(last)
        return UnresolvedPaymentError(
            purchase.call.url,
            digest=newest,
            deadline=max(found.values()),
            detail=detail,
            earlier=tuple(earlier),
        )

    def _give_up(self, purchase: Purchase) -> None:
        """Its caller was cancelled; what it has sent may be served all the same."""
        for order in filter(self._is_open, purchase.orders):
            spent = None
            if self._telemetry is not None:
                spent = partial(self._telemetry.spent, str(order.offer.vendor))
            self._exchange.unheard.given_up(purchase.call.origin, order, spent)

    def _is_open(self, order: Order) -> bool:
        return self._book.channel(order.offer.gateway).is_open(order.digest)

    async def _buy(self, purchase: Purchase, retries: int) -> PaidResponse:
        for retry in range(1, retries + 1):
            try:
                response = await self._buy_once(purchase)
            except GatewayUnreachableError:
                pass
            except ResponseLostError as error:
                if error.charged:
                    raise
            except UnresolvedPaymentError:
                # Under the identifier the gateway serves and charges this call once, whatever became of the first.
                if not purchase.orders[-1].is_named:
                    raise
                purchase.unknown = [one for one in purchase.orders if self._is_open(one)]
            else:
                is_over = response.charged or purchase.is_unknown or not purchase.can_go_again
                if is_over or response.status_code not in WORTH_REPEATING:
                    return response
            await asyncio.sleep(random.uniform(0.5, 1) * min(MAX_RETRY_PAUSE_S, 0.1 * 2**retry))  # noqa: S311
        return await self._buy_once(purchase)

    async def _buy_once(self, purchase: Purchase) -> PaidResponse:
        began, purchase.signed_at = time.perf_counter(), None
        try:
            response = await self._ask_and_pay(purchase)
        except asyncio.CancelledError:
            self._tell(purchase, began, 0, "cancelled")
            raise
        except ClientError as error:
            charged = error.charged if isinstance(error, ResponseLostError) else 0
            self._tell(purchase, began, charged, error_name(error))
            raise
        # What a metered stream has cost is told at its end.
        is_open = response.payment is not None and not response.payment.is_final
        error_code = f"http_{response.status_code}" if response.is_error else None
        self._tell(purchase, began, 0 if is_open else response.charged, error_code)
        return response

    def _tell(self, purchase: Purchase, began: float, charged: int, error: str | None) -> None:
        if self._telemetry is None:
            return
        now, signed_at = time.perf_counter(), purchase.signed_at
        self._telemetry.called(
            purchase.vendor or purchase.call.origin,
            payment_ms=((now if signed_at is None else signed_at) - began) * 1000,
            vendor_ms=None if signed_at is None else (now - signed_at) * 1000,
            spend_atomic=charged,
            error=error,
        )

    async def _ask_and_pay(self, purchase: Purchase) -> PaidResponse:
        call, streams = purchase.call, purchase.streams
        challenge = self._prices.known(call)
        if challenge is None or challenge.offer.amount > purchase.max_price_atomic:
            known = self._prices.gateway_of(call.origin)
            named = self._book.last_gateway(call.origin) if known is None else str(known)
            if named is not None:
                purchase.request.headers[GATEWAY_HEADER] = named
            body = None if purchase.source is None else purchase.source.upload(call.url, waits=True)
            answer = await self._transport.ask(purchase.request, streams=streams, body=body)
            # HEAD is never served for money: its 402 is the answer, and says the price.
            if answer.status_code != 402 or call.method == "HEAD":
                if not answer.is_closed:
                    hand_on_free(answer, call.url)
                return PaidResponse.of(answer, None)
            challenge = self._prices.learn(answer, call)
            self._book.saw_gateway(call.origin, challenge.offer.gateway)
        return await self._pay(purchase, challenge)

    async def _pay(self, purchase: Purchase, challenge: Challenge) -> PaidResponse:
        call = purchase.call
        for attempt in range(1, MAX_ATTEMPTS + 1):
            offer = challenge.offer
            check_price(offer, purchase.max_price_atomic, call)
            self._budgets.check_vendor(call.url, str(offer.vendor))
            if not self._vendors.is_known(offer.gateway, offer.vendor):
                await self._vendors.check(call.url, offer.gateway, offer.vendor)
            if self._budgets.asks_about(offer.amount):
                await self._approve(purchase, offer)
            channel = self._book.channel(offer.gateway)
            order = await self._place(channel, challenge, purchase)
            purchase.vendor, purchase.signed_at = str(offer.vendor), time.perf_counter()
            earlier = tuple(purchase.orders)
            purchase.orders.append(order)
            self._evidence.signed(order)
            self._exchange.unheard.signed(call.origin, order)
            outcome = await self._exchange.deliver(
                Delivery(
                    call,
                    purchase.request,
                    channel,
                    order,
                    attempt,
                    earlier,
                    is_shared=purchase.is_shared,
                    streams=purchase.streams,
                    source=purchase.source,
                )
            )
            if isinstance(outcome, PaidResponse):
                if outcome.payment is None:
                    purchase.is_unknown = channel.is_open(order.digest)
                    self._prices.forget(call)
                return outcome
            following = await self._reconsider(purchase, channel, order, outcome, challenge)
            if following is None or attempt == MAX_ATTEMPTS:
                raise refused(outcome.code, gateway=str(offer.gateway), digest=order.digest, attempts=attempt)
            challenge = following
            if attempt > 1:
                await pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    # ---- the agent's rules

    async def _approve(self, purchase: Purchase, offer: Offer) -> None:
        """Ask once per call, and again when the price has risen since. Raises `ApprovalDeniedError`."""
        call, approve = purchase.call, self._budgets.approve
        if approve is None or offer.amount <= purchase.approved_atomic:
            return
        proposal = Proposal(call.url, call.method, offer.amount, str(offer.gateway), str(offer.vendor))
        answer = approve(proposal)
        if inspect.isawaitable(answer):
            answer = await answer
        # Only a plain True pays: a callback that forgot to return anything has not approved.
        if answer is not True:
            raise ApprovalDeniedError(call.url, offer.amount)
        purchase.approved_atomic = offer.amount

    # ---- one signature

    async def _place(self, channel: Channel, challenge: Challenge, purchase: Purchase) -> Order:
        """Sign; when too much is unproven, wait a little for receipts of payments in flight first."""
        for wait in range(1, EXPOSURE_WAITS + 1):
            try:
                return self._sign(channel, challenge, purchase)
            except GatewayExposureError:
                before = channel.totals
                channel.settled(await self._book.watermark(channel))
                if channel.totals == before and not channel.unresolved:
                    raise
            await pause(wait + 2)
        return self._sign(channel, challenge, purchase)

    def _sign(self, channel: Channel, challenge: Challenge, purchase: Purchase) -> Order:
        now, vendor = time.time(), str(challenge.offer.vendor)
        if purchase.is_shared and not challenge.knows_identifiers:
            raise GatewayMismatchError(
                purchase.call.url, "it knows no payment identifiers: payment_id is lost on it"
            )

        def grant(least: int, wanted: int) -> int:
            return self._spending.take(
                vendor, least=least, wanted=wanted, spent_in_call=purchase.growth, now=now
            )

        order = place(self._config.key, channel, challenge, purchase.call, purchase.identifier, now, grant)
        purchase.growth += order.growth
        return order

    async def _reconsider(
        self, purchase: Purchase, channel: Channel, order: Order, refusal: Refusal, challenge: Challenge
    ) -> Challenge | None:
        """What to sign next after a refusal; None when signing again cannot help."""
        if refusal.code == RefusalCode.CUMULATIVE_TOO_LOW:
            channel.too_low(order.digest)
            await self._correct(channel, refusal)
            purchase.growth -= self._spending.forgive(channel, order, time.time())
            return challenge
        channel.refused(order.digest)
        self._prices.forget(purchase.call)
        if not may_retry(refusal.code) or refusal.required is None:
            return None
        following = self._prices.accept(refusal.required, purchase.call)
        if (following.offer.amount, following.offer.binding) == (order.offer.amount, order.offer.binding):
            return None
        return following

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


def _check_identifier(payment_id: str) -> None:
    """Raises `ConfigError` for one that no gateway takes."""
    try:
        read_identifier({EXTENSION: {"info": {"id": payment_id}}})
    except MalformedError as error:
        raise ConfigError(f"payment_id: {error.detail}") from error
