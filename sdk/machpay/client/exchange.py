"""One signed payment over HTTP until something is known about it: served, refused, lost with proof, or
unresolved.

The bytes of an order may be sent any number of times, because a gateway accepts them at most once. Nothing is
signed here.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping
from typing import Final

import httpx

from machpay.client.book import ChannelBook
from machpay.client.channels import Channel
from machpay.client.errors import (
    ClientError,
    GatewayMismatchError,
    GatewayUnreachableError,
    ReceiptError,
    ResponseLostError,
    UnresolvedPaymentError,
)
from machpay.client.orders import Order, Refusal, check_receipt, read_receipt, read_refusal
from machpay.client.payments import PaidResponse, Payment
from machpay.client.streams import hand_on, hand_on_free
from machpay.client.terms import Call
from machpay.client.transport import Lost, Transport
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.offers import LOOKUP_PREFIX, PaymentLookup, decode_lookup
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.x402 import RESPONSE_HEADER

BUSY_RESENDS: Final = 3
MAX_RETRY_AFTER_S: Final = 2.0
LOOK_UP_TRIES: Final = 5
MAX_PAUSE_S: Final = 0.5

logger = logging.getLogger(__name__)


class Exchange:
    """`resends` is how often the same bytes go again after a broken connection."""

    def __init__(self, transport: Transport, book: ChannelBook, resends: int) -> None:
        self._transport = transport
        self._book = book
        self._resends = resends

    async def deliver(
        self,
        call: Call,
        request: httpx.Request,
        channel: Channel,
        order: Order,
        attempt: int,
        *,
        streams: bool = False,
    ) -> PaidResponse | Refusal:
        """Send the order's bytes until something is known about it. Raises what `errors` says of answers that
        do not come. With `streams` an answer of success comes unread; its caller must close it."""
        maybe_sent = False
        breaks = busy = 0
        while True:
            answer = await self._transport.send(request, order.headers, streams=streams)
            if isinstance(answer, Lost):
                maybe_sent = maybe_sent or answer.sent
                if answer.headers is not None or answer.timed_out or breaks == self._resends:
                    if not maybe_sent:
                        channel.not_sent(order.digest)
                        raise GatewayUnreachableError(call.url, answer.detail)
                    raise await self._lost(call, channel, order, answer.detail, answer.headers)
                breaks += 1
                await pause(breaks)
                continue
            if answer.status_code == 402:
                return await self._refusal(call, channel, order, answer, maybe_sent)
            retry_after = _retry_after(answer)
            if retry_after is not None and busy < BUSY_RESENDS:
                busy += 1
                await asyncio.sleep(retry_after)
                continue
            try:
                return await self._account(call, channel, order, answer, attempt)
            except BaseException:
                await answer.aclose()
                raise

    async def look_up(self, origin: str, digest: bytes) -> tuple[PaymentLookup, SignedReceipt | None]:
        """Ask a gateway what became of a payment; the receipt is not checked yet. Raises
        `GatewayUnreachableError`, `MalformedError`."""
        request = self._transport.build("GET", origin + LOOKUP_PREFIX + digest.hex())
        return decode_lookup((await self._transport.ask(request)).content)

    async def _refusal(
        self, call: Call, channel: Channel, order: Order, answer: httpx.Response, maybe_sent: bool
    ) -> Refusal:
        """What a 402 says, unless another copy of the same bytes was accepted before it."""
        try:
            refusal = read_refusal(answer.headers)
        except MalformedError as error:
            raise GatewayMismatchError(call.url, error.detail) from error
        is_replay = refusal.code == RefusalCode.NONCE_REPLAYED
        if is_replay or maybe_sent:
            answered, receipt = await self._ask_outcome(call, order)
            if is_replay or receipt is not None or not answered:
                raise self._without_answer(call, channel, order, refusal.code, receipt)
        return refusal

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
            answered, receipt = await self._ask_outcome(call, order)
            if receipt is None:
                if answered:
                    channel.refused(order.digest)
                if not answer.is_closed:
                    hand_on_free(answer, call.url)
                return PaidResponse.of(answer, None)
        if answer.is_closed:
            self._book.count(channel, receipt)
        else:
            self._hand_on(call, channel, order, answer, receipt)
        payment = Payment(
            digest=order.digest,
            gateway=str(order.offer.gateway),
            vendor=str(order.offer.vendor),
            amount=order.intent.amount,
            charged=receipt.receipt.charged,
            served_total=receipt.receipt.served_total,
            receipt=receipt,
            attempts=attempt,
        )
        return PaidResponse.of(answer, payment)

    def _hand_on(
        self, call: Call, channel: Channel, order: Order, answer: httpx.Response, receipt: SignedReceipt
    ) -> None:
        async def broken(detail: str) -> ClientError:
            return await self._lost(call, channel, order, detail, answer.headers)

        hand_on(answer, lambda: self._book.count(channel, receipt), broken)

    async def _lost(
        self, call: Call, channel: Channel, order: Order, detail: str, headers: Mapping[str, str] | None
    ) -> ClientError:
        """The error for a payment whose answer is not coming, after asking the gateway about it.

        `headers` are those of an answer whose body broke off. Their receipt counts only if the gateway cannot
        be asked: it takes a charge back when the answer it was for does not get through.
        """
        _answered, receipt = await self._ask_outcome(call, order)
        if receipt is None and headers is not None:
            with contextlib.suppress(MalformedError):
                receipt = read_receipt(headers, order, None)
        return self._without_answer(call, channel, order, detail, receipt)

    def _without_answer(
        self, call: Call, channel: Channel, order: Order, detail: str, receipt: SignedReceipt | None
    ) -> ClientError:
        if receipt is None:
            deadline = order.intent.deadline
            return UnresolvedPaymentError(call.url, digest=order.digest, deadline=deadline, detail=detail)
        self._book.count(channel, receipt)
        return ResponseLostError(call.url, digest=order.digest, receipt=receipt)

    async def _ask_outcome(self, call: Call, order: Order) -> tuple[bool, SignedReceipt | None]:
        """Look a payment up, waiting a little while it is in flight: whether the gateway has given its last
        word, and its valid receipt if it has one. Its last word without a receipt: it knows no such
        payment."""
        for attempt in range(1, LOOK_UP_TRIES + 1):
            try:
                lookup, receipt = await self.look_up(call.origin, order.digest)
                if receipt is not None:
                    check_receipt(receipt, order)
                if not lookup.in_flight:
                    return True, receipt
            except GatewayUnreachableError:
                pass
            except MalformedError as error:
                logger.warning("looking payment %s up at %s: %s", order.digest.hex(), call.origin, error)
                return False, None
            await pause(attempt + 2)
        return False, None


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds to wait before the same bytes may go again; None unless a busy gateway asks for it.

    An answer with a `PAYMENT-RESPONSE` is an outcome, not a request to wait.
    """
    if answer.status_code not in (429, 503) or RESPONSE_HEADER in answer.headers:
        return None
    text = answer.headers.get("retry-after", "")
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        return None
    return min(float(text), MAX_RETRY_AFTER_S)


async def pause(attempt: int) -> None:
    """Wait a random time that grows with the attempts, so that processes on one key do not meet again."""
    await asyncio.sleep(random.uniform(0, min(MAX_PAUSE_S, 0.005 * 2**attempt)))  # noqa: S311 - no secret
