"""One paid exchange, from the payment header to the last byte.

    admission, reserved (accept record) -> upstream -> outcome record -> fsync -> first byte -> sent record

What was charged is settled before the first byte, because the receipt travels in the headers. An answer that is whole
by then is charged or not for good. A longer one is charged when it starts; if the upstream breaks it off, the charge is
taken back and the connection is aborted, so that a truncated answer neither costs nor looks complete.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from machpay.protocol.events import PAYMENT_AUTHORIZED
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.screening import Reject
from machpay.protocol.x402 import PaymentResponse
from machpay_gateway import headers as names
from machpay_gateway.admission import RETRY_AFTER, Admission, Asked
from machpay_gateway.answers import respond_problem
from machpay_gateway.challenge import encode
from machpay_gateway.decide import is_charged
from machpay_gateway.delivery import settlement_item
from machpay_gateway.errors import LogUnavailable, RequestError, UpstreamError
from machpay_gateway.events import Events
from machpay_gateway.metrics import Metrics
from machpay_gateway.payments import Payments, Ticket
from machpay_gateway.request import ClientGone, Request, Send
from machpay_gateway.routes import Route
from machpay_gateway.settings import Settings
from machpay_gateway.solvency import Solvency
from machpay_gateway.upstream import Upstream, UpstreamAnswer

WHOLE_ANSWER_BYTES: Final = 64 * 1024
"""An answer of a declared length up to this is read whole before anything is charged."""
DRAIN_S: Final = 30.0
"""How long an answer is still read from the upstream after its client hung up."""
CLIENT_WRITE_S: Final = 60.0
"""How long one piece of an answer may wait for a client that does not read."""
CLIENT_GONE_STATUS: Final = 499
"""The status in the receipt of a payment whose client hung up before its request was complete."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The upstream's answer as far as it was read: `body` is all of it if `whole`, else its first piece."""

    answer: UpstreamAnswer
    body: bytes
    rest: AsyncIterator[bytes] | None

    @property
    def whole(self) -> bool:
        return self.rest is None


class PaidExchanges:
    """Serves requests for priced routes."""

    def __init__(
        self,
        settings: Settings,
        payments: Payments,
        solvency: Solvency,
        upstream: Upstream,
        events: Events,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._network = settings.network.caip2
        self._admission = Admission(settings, payments, solvency, events, metrics)
        self._payments = payments
        self._upstream = upstream
        self._events = events
        self._metrics = metrics

    async def serve(self, route: Route, request: Request, send: Send) -> None:
        """Answer one request for a priced route. Raises `RequestError` for what is answered with a problem."""
        started = time.perf_counter()
        payment_header = request.header(names.SIGNATURE)
        if request.method == "HEAD":
            # Nothing could be delivered for a HEAD, so a payment on it is not even looked at.
            request.is_whole = True
            await self._admission.challenge(self._admission.asked(route, request), send)
            return
        if payment_header is None:
            if request.header(names.V1_PAYMENT) is not None:
                raise RequestError(
                    400, "x402_version", "X-PAYMENT is x402 version 1; send PAYMENT-SIGNATURE (version 2)"
                )
            await request.read_head()
            await self._admission.challenge(self._admission.asked(route, request), send)
            return
        if self._payments.journal.failure is not None:
            raise self._unavailable()
        attempt = self._admission.parse(payment_header)
        await request.read_head()
        asked = self._admission.asked(route, request)
        admitted = await self._admission.admit(attempt, asked)
        if isinstance(admitted, Reject):
            await self._admission.refuse(admitted, attempt, asked, send)
            return
        await self._serve_accepted(admitted, asked, request, send)
        latency_s = time.perf_counter() - started
        self._metrics.paid_seconds.observe(latency_s)
        self._announce(admitted, route, latency_s)

    async def _serve_accepted(self, ticket: Ticket, asked: Asked, request: Request, send: Send) -> None:
        """From here on the payment ends in exactly one outcome, whatever happens."""
        try:
            async with asyncio.timeout(self._settings.upstream.answer_timeout_s):
                fetched = await self._fetch(asked.route, request)
        except UpstreamError as error:
            await self._fail(ticket, RequestError(error.status, error.code, error.detail), asked, send)
        except TimeoutError:
            problem = RequestError(504, "upstream_timeout", "the upstream did not answer in time")
            await self._fail(ticket, problem, asked, send)
        except RequestError as error:
            await self._fail(ticket, error, asked, send)
        except ClientGone:
            self._void(ticket, CLIENT_GONE_STATUS)
            self._payments.sent(ticket)
        except Exception:
            self._void(ticket, 500)
            self._payments.sent(ticket)
            raise
        else:
            try:
                await self._answer(ticket, asked, fetched, request, send)
            finally:
                fetched.answer.close()

    async def _fetch(self, route: Route, request: Request) -> Fetched:
        """Forward and read as much as the charge depends on."""
        answer = await self._upstream.open(request)
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
        self, ticket: Ticket, asked: Asked, fetched: Fetched, request: Request, send: Send
    ) -> None:
        status, payments = fetched.answer.status, self._payments
        charged = ticket.price if is_charged(status, request.method, charge_4xx=asked.route.charge_4xx) else 0
        if charged == 0:
            # Not waited for: what is not durable is void after a crash, which is what the receipt says.
            receipt = self._void(ticket, status)
        else:
            receipt = payments.resolve(ticket, status, charged, final=fetched.whole)
            try:
                await payments.durable()
            except LogUnavailable:
                await self._fail(ticket, self._unavailable(), asked, send)
                return
        self._metrics.requests.labels("paid" if charged else "void", asked.route.label).inc()
        lines = names.to_client(fetched.answer.headers, paid=True)
        lines.append((names.RESPONSE, self._response(ticket, receipt)))
        if fetched.whole and not fetched.answer.has_no_body and fetched.answer.length is None:
            lines.append((b"content-length", str(len(fetched.body)).encode()))
        try:
            await send({"type": "http.response.start", "status": status, "headers": lines})
        except Exception:
            self._void(ticket, 502)
            raise
        finally:
            payments.sent(ticket)
        if fetched.rest is None:
            self._metrics.charged_atomic.inc(charged)
            await send({"type": "http.response.body", "body": fetched.body})
            return
        try:
            await self._stream(fetched.body, fetched.rest, request, send)
        except UpstreamError as error:
            logger.info(
                "payment %s: the upstream broke off its answer: %s", receipt.receipt.digest.hex(), error
            )
            if charged:
                self._void(ticket, error.status)
            return
        except Exception:
            if charged:
                self._void(ticket, 502)
            raise
        outcome = ticket.payment.outcome
        if charged and outcome is not None:
            payments.confirm(ticket, outcome)
            self._metrics.charged_atomic.inc(charged)

    async def _stream(self, first: bytes, rest: AsyncIterator[bytes], request: Request, send: Send) -> None:
        """Pass the answer on. A client that hung up or stopped reading does not end it before `DRAIN_S`."""
        gone = asyncio.ensure_future(request.gone()) if request.is_whole else None
        gone_at: float | None = None
        try:
            if first:
                await _send_piece(send, first)
            async for chunk in rest:
                if gone_at is None and gone is not None and gone.done():
                    gone_at = time.monotonic()
                if gone_at is not None and time.monotonic() - gone_at > DRAIN_S:
                    return
                await _send_piece(send, chunk)
            await send({"type": "http.response.body", "body": b""})
        except ClientStalled:
            return
        finally:
            if gone is not None:
                gone.cancel()

    async def _fail(self, ticket: Ticket, problem: RequestError, asked: Asked, send: Send) -> None:
        """Answer an accepted payment with a problem, for nothing."""
        self._metrics.requests.labels("failed", asked.route.label).inc()
        receipt = self._void(ticket, problem.status)
        await respond_problem(send, problem, [(names.RESPONSE, self._response(ticket, receipt))])
        self._payments.sent(ticket)

    def _void(self, ticket: Ticket, status: int) -> SignedReceipt:
        """Release the reservation, or take the charge of a broken answer back."""
        self._metrics.voided.inc()
        return self._payments.resolve(ticket, status, 0, final=True)

    def _response(self, ticket: Ticket, receipt: SignedReceipt) -> bytes:
        charged = receipt.receipt.charged
        return encode(
            PaymentResponse(
                success=charged > 0,
                payer=ticket.channel.agent_text,
                network=self._network,
                amount=str(charged),
                extra={
                    "commitmentId": receipt.receipt.digest.hex(),
                    "servedTotal": str(receipt.receipt.served_total),
                    "receipt": receipt.to_json(),
                },
            )
        )

    def _unavailable(self) -> RequestError:
        return RequestError(503, "log_unavailable", "payments cannot be recorded now", (RETRY_AFTER,))

    def _announce(self, ticket: Ticket, route: Route, latency_s: float) -> None:
        """Tell the receiver about a charge."""
        if ticket.payment.is_complete and ticket.payment.charged:
            event_id = self._payments.book.digest(ticket.payment).hex()
            data = partial(self._authorized, ticket, route, latency_s)
            self._events.emit(PAYMENT_AUTHORIZED, ticket.channel.agent_text, data, event_id)

    def _authorized(self, ticket: Ticket, route: Route, latency_s: float) -> dict[str, Any]:
        item: dict[str, Any] = msgspec.to_builtins(
            settlement_item(self._settings, self._payments, ticket.payment, 0)
        )
        latency_ms = round(latency_s * 1000, 3)
        return {
            **item,
            "service": self._settings.gateway.name,
            "route": route.label,
            "latency_ms": latency_ms,
        }


class ClientStalled(Exception):
    """The client stopped reading its answer."""


async def _send_piece(send: Send, piece: bytes) -> None:
    try:
        async with asyncio.timeout(CLIENT_WRITE_S):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except TimeoutError as error:
        raise ClientStalled from error
