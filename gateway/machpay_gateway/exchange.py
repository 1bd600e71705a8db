"""An accepted payment's exchange with the upstream, from forwarding to the last byte. It ends in exactly one outcome.

    reserved (accept record) -> upstream -> outcome record -> first byte -> sent record
                            `-> fsync, while the upstream works ---^

What was charged is settled before the first byte, because the receipt travels in the headers. An answer that is whole
by then is charged or not for good. A longer one is charged when it starts; if the upstream breaks it off, the charge is
taken back and the connection is aborted, so that a truncated answer neither costs nor looks complete. What a metered
stream costs is known at its end: its price stays reserved until then, and the look-up by digest has the receipt.

Every answer is kept for whoever offers the same payment again (`responses`), also when its client hung up.
"""

import logging
import time
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from machpay.protocol.receipts import SignedReceipt
from machpay_gateway import headers as names
from machpay_gateway.admission import RETRY_AFTER, Asked
from machpay_gateway.answers import outcome_header, pending_header, problem
from machpay_gateway.decide import is_charged
from machpay_gateway.errors import LogUnavailable, RequestError, UpstreamError
from machpay_gateway.headers import Headers
from machpay_gateway.metering import Metering
from machpay_gateway.metrics import Metrics
from machpay_gateway.patience import Patience
from machpay_gateway.payments import Payments, Ticket
from machpay_gateway.reply import ClientStalled, Reply
from machpay_gateway.request import ClientGone, Request
from machpay_gateway.responses import Responses
from machpay_gateway.routes import Route
from machpay_gateway.settings import Settings
from machpay_gateway.upstream import Upstream, UpstreamAnswer

WHOLE_ANSWER_BYTES: Final = 64 * 1024
"""An answer of a declared length up to this is read whole before anything is charged."""
DRAIN_S: Final = 30.0
"""How long an answer is still read from the upstream after its client hung up."""
CLIENT_GONE_STATUS: Final = 499
"""The status in the receipt of a payment whose client hung up before its request was complete."""

logger = logging.getLogger(__name__)


class Fetched(msgspec.Struct, frozen=True):
    """The upstream's answer as far as it was read: `body` is all of it if `whole`, else its first piece."""

    answer: UpstreamAnswer
    body: bytes
    rest: AsyncIterator[bytes] | None

    @property
    def whole(self) -> bool:
        return self.rest is None


class Exchanges:
    """Serves accepted payments."""

    def __init__(
        self,
        settings: Settings,
        payments: Payments,
        responses: Responses,
        upstream: Upstream,
        metering: Metering,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._answer_patience = Patience(settings.upstream.answer_timeout_s)
        self._network = settings.network.caip2
        self._payments = payments
        self._responses = responses
        self._upstream = upstream
        self._metering = metering
        self._metrics = metrics

    async def serve(self, ticket: Ticket, asked: Asked, request: Request, reply: Reply) -> None:
        """Forward, charge and answer. Whoever waits for this payment is woken at the end."""
        try:
            await self._serve(ticket, asked, request, reply)
        finally:
            self._responses.ended(ticket.digest)

    async def _serve(self, ticket: Ticket, asked: Asked, request: Request, reply: Reply) -> None:
        try:
            with self._answer_patience.limit():
                fetched = await self._fetch(ticket, asked.route, request)
        except UpstreamError as error:
            await self._fail(ticket, RequestError(error.status, error.code, error.detail), asked, reply)
        except TimeoutError:
            late = RequestError(504, "upstream_timeout", "the upstream did not answer in time")
            await self._fail(ticket, late, asked, reply)
        except RequestError as error:
            await self._fail(ticket, error, asked, reply)
        except ClientGone:
            self._void(ticket, CLIENT_GONE_STATUS)
            self._payments.sent(ticket)
        except Exception:
            self._void(ticket, 500)
            self._payments.sent(ticket)
            raise
        else:
            try:
                await self._answer(ticket, asked, fetched, request, reply)
            finally:
                fetched.answer.close()

    async def _fetch(self, ticket: Ticket, route: Route, request: Request) -> Fetched:
        """Forward and read as much as the charge depends on."""
        self._payments.hasten()
        answer = await self._upstream.open(request, names.paid_by(ticket.digest, ticket.channel.agent_text))
        try:
            if answer.status == 402:
                raise UpstreamError(502, "upstream_payment_required", "the upstream wants to be paid itself")
            if not is_charged(answer.status, request.method, charge_4xx=route.charge_4xx):
                return Fetched(answer, b"", answer.chunks())
            if answer.has_no_body or (answer.length is not None and answer.length <= WHOLE_ANSWER_BYTES):
                return Fetched(answer, await answer.read(), None)
            chunks = answer.chunks()
            first = await anext(chunks, b"")
            return Fetched(answer, first, None if answer.is_at_end else chunks)
        except BaseException:
            answer.close()
            raise

    async def _answer(
        self, ticket: Ticket, asked: Asked, fetched: Fetched, request: Request, reply: Reply
    ) -> None:
        route, answer, payments = asked.route, fetched.answer, self._payments
        status = answer.status
        charged_status = is_charged(status, request.method, charge_4xx=route.charge_4xx)
        receipt: SignedReceipt | None = None
        try:
            if not charged_status:
                # Not waited for: what is not durable is void after a crash, which is what the receipt says.
                receipt = self._void(ticket, status)
            else:
                if fetched.whole or not route.metered:
                    price = ticket.price
                    if route.metered:
                        price = await self._metering.amount(answer, ticket, asked.route, ticket.digest)
                    receipt = payments.resolve(ticket, status, price, final=fetched.whole)
                # After a crash its nonce must be known. What it came to counts with its `sent` record, never before.
                await payments.durable(ticket)
        except LogUnavailable:
            await self._fail(ticket, _unavailable(), asked, reply)
            return
        self._metrics.requests.add(1, "paid" if charged_status else "void", route.label)
        lines = names.to_client(answer.headers, paid=True)
        lines.append((names.RESPONSE, self._header(ticket, receipt)))
        try:
            if fetched.rest is None:
                await reply.whole(status, lines, fetched.body)
            else:
                await reply.start(status, lines)
        except Exception:
            self._void(ticket, 502)
            raise
        finally:
            payments.sent(ticket)
        if fetched.rest is not None:
            pieces = Pieces(fetched.body, fetched.rest, self._responses.max_bytes)
            await self._stream(ticket, asked, lines, fetched.answer, pieces, request, reply)
            return
        self._keep(ticket, asked, status, lines, fetched.body)
        self._metrics.charged_atomic.add(ticket.payment.charged)

    async def _stream(
        self,
        ticket: Ticket,
        asked: Asked,
        lines: Headers,
        answer: UpstreamAnswer,
        pieces: "Pieces",
        request: Request,
        reply: Reply,
    ) -> None:
        """Pass a long answer on, then make its charge final."""
        held = ticket.payment
        open_charge = held.outcome is None or not held.outcome.final
        try:
            is_whole = await self._pass_on(pieces, request, reply)
            if open_charge:
                lines = await self._finish(ticket, asked, answer, lines, is_whole=is_whole)
            if is_whole:
                self._keep(ticket, asked, answer.status, lines, bytes(pieces.copy))
                await reply.end()
            else:
                request.abort()
        except UpstreamError as error:
            digest = ticket.digest.hex()
            logger.info("payment %s: the upstream broke off its answer: %s", digest, error)
            if open_charge:
                self._void(ticket, error.status)
        except Exception:
            if open_charge and not held.is_complete:
                self._void(ticket, 502)
            raise

    async def _finish(
        self, ticket: Ticket, asked: Asked, answer: UpstreamAnswer, lines: Headers, *, is_whole: bool
    ) -> Headers:
        """Make the charge of a stream final; the headers for a repeated answer."""
        payments, outcome = self._payments, ticket.payment.outcome
        if outcome is not None:
            payments.confirm(ticket, outcome)
        else:
            # Who hangs up on a metered stream that goes on pays its ceiling: nothing else was named.
            amount = ticket.price
            if is_whole:
                amount = await self._metering.amount(answer, ticket, asked.route, ticket.digest)
            receipt = payments.resolve(ticket, answer.status, amount, final=True)
            lines = [(name, value) for name, value in lines if name != names.RESPONSE]
            lines.append((names.RESPONSE, self._header(ticket, receipt)))
            try:
                await payments.durable()
            except LogUnavailable:
                # Complete in memory and written with the next segment; a crash before that makes it free.
                logger.warning("payment %d is not on the disk yet", ticket.number)
        self._metrics.charged_atomic.add(ticket.payment.charged)
        return lines

    async def _pass_on(self, pieces: "Pieces", request: Request, reply: Reply) -> bool:
        """Pass the answer on; False if it was left before its end because the client hung up or stopped reading."""
        gone_at: float | None = None
        try:
            async for piece in pieces:
                if gone_at is None and request.is_gone:
                    gone_at = time.monotonic()
                if gone_at is not None and time.monotonic() - gone_at > DRAIN_S:
                    return False
                await reply.piece(piece, self._settings.limits.write_timeout_s)
            return True
        except ClientStalled:
            return False

    async def _fail(self, ticket: Ticket, error: RequestError, asked: Asked, reply: Reply) -> None:
        """Answer an accepted payment with a problem, for nothing."""
        self._metrics.requests.add(1, "failed", asked.route.label)
        receipt = self._void(ticket, error.status)
        status, lines, body = problem(error, [(names.RESPONSE, self._header(ticket, receipt))])
        self._keep(ticket, asked, status, lines, body)
        try:
            await reply.whole(status, lines, body)
        finally:
            self._payments.sent(ticket)

    def _void(self, ticket: Ticket, status: int) -> SignedReceipt:
        """Release the reservation, or take the charge of a broken answer back."""
        self._metrics.voided.add(1)
        return self._payments.resolve(ticket, status, 0, final=True)

    def _keep(self, ticket: Ticket, asked: Asked, status: int, headers: Headers, body: bytes) -> None:
        self._responses.keep(
            ticket.digest,
            signature=ticket.payment.accept.signature,
            request_hash=asked.request_hash,
            status=status,
            headers=headers,
            body=body,
        )

    def _header(self, ticket: Ticket, receipt: SignedReceipt | None) -> bytes:
        channel = ticket.channel
        if receipt is not None:
            return outcome_header(self._network, channel.agent_text, receipt)
        return pending_header(self._network, channel.agent_text, ticket.digest, ticket.price, channel.served)


class Pieces:
    """A long answer in pieces, with a copy of it in `copy` that ends behind what may be kept."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes], limit: int) -> None:
        self._first = first
        self._rest = rest
        self._limit = limit
        self.copy = bytearray()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._first:
            self.copy += self._first
            yield self._first
        async for piece in self._rest:
            if len(self.copy) <= self._limit:
                self.copy += piece
            yield piece


def _unavailable() -> RequestError:
    return RequestError(503, "log_unavailable", "payments cannot be recorded now", (RETRY_AFTER,))
