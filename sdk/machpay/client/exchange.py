"""One signed payment over HTTP until something is known about it: served, refused, lost with proof, or
unresolved.

The bytes of an order may be sent any number of times, because a gateway accepts them at most once. Nothing is
signed here.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence
from typing import Final

import httpx
import msgspec

from machpay.client.book import ChannelBook
from machpay.client.channels import Channel
from machpay.client.config import MachPayConfig
from machpay.client.errors import (
    BodySpentError,
    ClientError,
    GatewayMismatchError,
    GatewayUnreachableError,
    ReceiptError,
    ResponseLostError,
    UnresolvedPaymentError,
)
from machpay.client.orders import (
    Order,
    Refusal,
    check_receipt,
    check_status,
    read_outcome,
    read_refusal,
)
from machpay.client.payments import PaidResponse, Payment
from machpay.client.store import state_path
from machpay.client.streams import hand_on, hand_on_free
from machpay.client.terms import Call
from machpay.client.transport import Lost, Transport
from machpay.client.unheard import Unheard
from machpay.client.uploads import Source
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.nonces import nonce_unix_ms
from machpay.protocol.offers import LOOKUP_PREFIX, PaymentLookup, decode_lookup
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.x402 import RESPONSE_HEADER

LOOK_UP_TRIES: Final = 5
MAX_PAUSE_S: Final = 0.5
GONE_STATUS: Final = 409
"""With a receipt: paid and served before, and the answer is no longer kept."""
BETWEEN_US: Final = frozenset({502, 503, 504})
"""Answers that something in front of the gateway may give while the gateway serves."""

logger = logging.getLogger(__name__)


class Delivery(msgspec.Struct, frozen=True):
    """One signed payment that goes with one request. `number` counts the signatures of its call, `earlier` are those
    made before under the call's identifier; `is_shared` says that other processes may use that identifier too. With
    `streams` an answer of success comes unread; its caller must close it."""

    call: Call
    request: httpx.Request
    channel: Channel
    order: Order
    number: int
    earlier: Sequence[Order] = ()
    is_shared: bool = False
    streams: bool = False
    source: Source | None = None

    @property
    def can_go_again(self) -> bool:
        """Whether the whole request can be sent once more."""
        return self.source is None or self.source.can_repeat


class Exchange:
    """Sends what was signed; how often and for how long is the configuration's."""

    def __init__(self, transport: Transport, book: ChannelBook, config: MachPayConfig) -> None:
        self._transport = transport
        self._book = book
        self._resends = config.resends
        self._busy_resends = config.busy_resends
        self._busy_wait_s = config.busy_wait_s
        folder, suffix = config.state_dir, "sent.jsonl"
        noted = None if folder is None else state_path(folder, config.key.pubkey, config.network, suffix)
        self.unheard = Unheard(book, self.look_up, noted)

    async def deliver(self, sent: Delivery) -> PaidResponse | Refusal:
        """Send the order's bytes until something is known about it. Raises what `errors` says of answers that
        do not come."""
        maybe_sent = False
        breaks = busy = 0
        waited_s = 0.0
        while True:
            answer = await self._send(sent)
            if isinstance(answer, Lost):
                maybe_sent = maybe_sent or answer.sent
                is_last = answer.timed_out or breaks == self._resends or not sent.can_go_again
                if answer.headers is not None or is_last:
                    if not maybe_sent:
                        sent.channel.not_sent(sent.order.digest)
                        raise GatewayUnreachableError(sent.call.url, answer.detail)
                    return await self._recover(sent, answer)
                breaks += 1
                await pause(breaks)
                continue
            if answer.status_code == 402:
                return await self._refusal(sent, answer, maybe_sent)
            wait_s = _retry_after(answer)
            if wait_s is not None and busy < self._busy_resends and self._has_time(sent, waited_s + wait_s):
                # Nothing was taken, and the same bytes are taken at most once. But behind another process's 503 the
                # payment may have been on its way.
                maybe_sent = maybe_sent or (sent.order.is_named and answer.status_code != 429)
                busy, waited_s = busy + 1, waited_s + wait_s
                await asyncio.sleep(wait_s)
                continue
            return await self._accounted(sent, answer)

    def _has_time(self, sent: Delivery, waiting_s: float) -> bool:
        """Whether the same bytes may still go after `waiting_s` of waiting in all, and arrive before their deadline."""
        left_s = sent.order.intent.deadline - time.time()
        return sent.can_go_again and waiting_s <= min(self._busy_wait_s, left_s)

    async def _send(self, sent: Delivery) -> httpx.Response | Lost:
        body = None
        if sent.source is not None:
            try:
                body = sent.source.upload(sent.call.url, waits=not sent.channel.is_fresh)
            except BodySpentError:
                sent.channel.not_sent(sent.order.digest)
                raise
        return await self._transport.send(sent.request, sent.order.headers, streams=sent.streams, body=body)

    async def look_up(self, origin: str, digest: bytes) -> tuple[PaymentLookup, SignedReceipt | None]:
        """Ask a gateway what became of a payment; the receipt is not checked yet. Raises
        `GatewayUnreachableError`, `MalformedError`."""
        request = self._transport.build("GET", origin + LOOKUP_PREFIX + digest.hex())
        answer = await self._transport.ask(request)
        if answer.status_code in (429, *BETWEEN_US):
            raise GatewayUnreachableError(str(request.url), f"HTTP {answer.status_code}")
        return decode_lookup(answer.content)

    async def _refusal(self, sent: Delivery, answer: httpx.Response, maybe_sent: bool) -> Refusal:
        """What a 402 says, unless another copy of the same bytes was accepted before it."""
        try:
            refusal = read_refusal(answer.headers)
        except MalformedError as error:
            raise GatewayMismatchError(sent.call.url, error.detail) from error
        is_replay = refusal.code == RefusalCode.NONCE_REPLAYED
        if is_replay and refusal.receipt is not None:
            with contextlib.suppress(MalformedError):
                check_receipt(refusal.receipt, sent.order)
                raise self._without_answer(sent, refusal.code, refusal.receipt)
        if is_replay or maybe_sent:
            answered, receipt = await self._ask_outcome(sent)
            if is_replay or receipt is not None or not answered:
                raise self._without_answer(sent, refusal.code, receipt)
        return refusal

    async def _accounted(self, sent: Delivery, answer: httpx.Response) -> PaidResponse:
        try:
            return await self._account(sent, answer)
        except BaseException:
            await answer.aclose()
            raise

    async def _account(self, sent: Delivery, answer: httpx.Response) -> PaidResponse:
        """Take what an answer says about its payment into account. Raises `ReceiptError`."""
        order = sent.order
        try:
            outcome = read_outcome(answer.headers, order, sent.earlier, is_shared=sent.is_shared)
            if outcome is not None and outcome.receipt is not None and answer.status_code != GONE_STATUS:
                check_status(outcome.receipt, answer.status_code)
        except MalformedError as error:
            raise ReceiptError(error.detail, digest=order.digest, response=answer) from error
        if outcome is None:
            return await self._account_unnamed(sent, answer)
        of, receipt = outcome.of, outcome.receipt
        if of is not order:
            # The gateway took this payment for nothing: what it stands for was paid before.
            sent.channel.refused(order.digest)
        if receipt is not None and answer.status_code == GONE_STATUS != receipt.receipt.http_status:
            # It was served before, and the answer is no longer kept.
            raise self._without_answer(sent, "the answer is no longer kept", receipt, of)
        paid = PaidResponse.of(answer, _payment(sent, of, receipt))
        if not answer.is_closed:
            self._hand_on(sent, paid, of, receipt)
        elif receipt is not None:
            self._count(sent, of, receipt)
        else:
            await self._finish(sent, paid)
        return paid

    async def _account_unnamed(self, sent: Delivery, answer: httpx.Response) -> PaidResponse:
        """An answer without a word on money: the gateway could not take payments now, the payment before it is still
        being served, the route became free, or something else than the gateway answered."""
        answered, receipt = await self._ask_outcome(sent)
        if receipt is None and not answered and answer.status_code == GONE_STATUS:
            raise self._without_answer(sent, "an earlier payment of this call is still being served", None)
        # A stock server knows no look-up and takes nothing for a failure. A gateway's word is needed, and every
        # gateway knows identifiers.
        if receipt is None and not answered and sent.order.is_named:
            if answer.status_code in BETWEEN_US:
                raise self._without_answer(
                    sent, f"HTTP {answer.status_code}, and it cannot be looked up", None
                )
            if answer.is_success:
                raise ReceiptError(
                    "the answer says nothing of it, and it cannot be looked up",
                    digest=sent.order.digest,
                    response=answer,
                )
        if receipt is None:
            if answered:
                sent.channel.refused(sent.order.digest)
            if not answer.is_closed:
                hand_on_free(answer, sent.call.url)
            return PaidResponse.of(answer, None)
        paid = PaidResponse.of(answer, _payment(sent, sent.order, receipt))
        if answer.is_closed:
            self._count(sent, sent.order, receipt)
        else:
            self._hand_on(sent, paid, sent.order, receipt)
        return paid

    def _hand_on(
        self, sent: Delivery, paid: PaidResponse, of: Order | None, receipt: SignedReceipt | None
    ) -> None:
        """Make an unread answer account for itself at its end."""

        async def ended() -> None:
            if receipt is None:
                await self._finish(sent, paid)
            else:
                self._count(sent, of, receipt)

        async def broken(detail: str) -> ClientError:
            # The receipt in the headers counts only if the gateway cannot be asked: it takes a charge back when the
            # answer it was for does not get through.
            known = (await self._ask_outcome(sent))[1] if of is sent.order else None
            return self._without_answer(sent, detail, known or receipt, of)

        hand_on(paid, ended, broken)

    async def _finish(self, sent: Delivery, paid: PaidResponse) -> None:
        """A metered stream is at its end: what it cost. Without an answer the payment stays as it is."""
        _answered, receipt = await self._ask_outcome(sent)
        if receipt is not None:
            paid.payment = _payment(sent, sent.order, receipt)
            self._count(sent, sent.order, receipt)
        else:
            self.unheard.given_up(sent.call.origin, sent.order)

    def _count(self, sent: Delivery, of: Order | None, receipt: SignedReceipt) -> None:
        if of is None or (of is not sent.order and not sent.channel.is_open(of.digest)):
            # Another process's payment, or one that was counted already: its total is news, its receipt is not.
            sent.channel.resolved(receipt)
        else:
            self._book.count(sent.channel, receipt)

    async def _recover(self, sent: Delivery, lost: Lost) -> PaidResponse:
        """An answer that did not come. If it was paid for, the gateway has kept it for these very bytes; else the error
        for what is known of the payment."""
        _answered, receipt = await self._ask_outcome(sent)
        was_named = receipt is not None and receipt.receipt.http_status == GONE_STATUS and bool(sent.earlier)
        if receipt is not None and (receipt.receipt.charged or was_named) and sent.can_go_again:
            answer = await self._send(sent)
            if isinstance(answer, httpx.Response):
                if RESPONSE_HEADER in answer.headers and answer.status_code != 402:
                    return await self._accounted(sent, answer)
                await answer.aclose()
        if was_named:
            # This payment was taken for nothing, because one before it is served: the answer to that one is missing.
            sent.channel.refused(sent.order.digest)
            raise self._unresolved(sent, sent.earlier[-1], lost.detail)
        if receipt is None and lost.headers is not None:
            with contextlib.suppress(MalformedError):
                outcome = read_outcome(lost.headers, sent.order)
                receipt = None if outcome is None else outcome.receipt
        raise self._without_answer(sent, lost.detail, receipt)

    def _without_answer(
        self, sent: Delivery, detail: str, receipt: SignedReceipt | None, of: Order | None = None
    ) -> ClientError:
        if receipt is None:
            return self._unresolved(sent, sent.order, detail)
        self._count(sent, of or sent.order, receipt)
        return ResponseLostError(sent.call.url, digest=receipt.receipt.digest, receipt=receipt)

    def _unresolved(self, sent: Delivery, order: Order, detail: str) -> UnresolvedPaymentError:
        return UnresolvedPaymentError(
            sent.call.url, digest=order.digest, deadline=order.intent.deadline, detail=detail
        )

    async def _ask_outcome(self, sent: Delivery) -> tuple[bool, SignedReceipt | None]:
        """Look a payment up, waiting a little while it is in flight: whether the gateway has given its last
        word, and its valid receipt if it has one. Its last word without a receipt: it never had such a
        payment."""
        try:
            return await self._asked(sent)
        except asyncio.CancelledError:
            self.unheard.given_up(sent.call.origin, sent.order)
            raise

    async def _asked(self, sent: Delivery) -> tuple[bool, SignedReceipt | None]:
        call, order = sent.call, sent.order
        for attempt in range(1, LOOK_UP_TRIES + 1):
            try:
                lookup, receipt = await self.look_up(call.origin, order.digest)
                if receipt is not None:
                    check_receipt(receipt, order)
                if not lookup.in_flight:
                    return lookup.settles(time.time() - nonce_unix_ms(order.intent.nonce) / 1000), receipt
            except GatewayUnreachableError:
                pass
            except MalformedError as error:
                logger.warning("looking payment %s up at %s: %s", order.digest.hex(), call.origin, error)
                return False, None
            await pause(attempt + 2)
        return False, None


def _payment(sent: Delivery, of: Order | None, receipt: SignedReceipt | None) -> Payment:
    """What a call cost. `of` is the payment that was charged; None for one of another process."""
    offer, intent = sent.order.offer, (of or sent.order).intent
    return Payment(
        digest=sent.order.digest if receipt is None else receipt.receipt.digest,
        gateway=str(offer.gateway),
        vendor=str(offer.vendor),
        amount=intent.amount,
        charged=intent.amount if receipt is None else receipt.receipt.charged,
        served_total=0 if receipt is None else receipt.receipt.served_total,
        receipt=receipt,
        attempts=sent.number,
        is_repeated=of is not sent.order,
    )


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds to wait before the same bytes may go again; None unless a busy gateway asks for it.

    An answer with a `PAYMENT-RESPONSE` is an outcome, not a request to wait. 409: this payment, or one of the same
    identifier, is still being served.
    """
    if answer.status_code not in (409, 429, 503) or RESPONSE_HEADER in answer.headers:
        return None
    text = answer.headers.get("retry-after", "")
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        return None
    return float(text)


async def pause(attempt: int) -> None:
    """Wait a random time that grows with the attempts, so that processes on one key do not meet again."""
    await asyncio.sleep(random.uniform(0, min(MAX_PAUSE_S, 0.005 * 2**attempt)))  # noqa: S311 - no secret
