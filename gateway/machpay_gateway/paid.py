"""Requests for priced routes: is a payment offered, was it offered before, is it admitted?

What is admitted is served by `exchange`.
"""

import time
from functools import partial
from typing import Final

import msgspec

from machpay.protocol.events import PAYMENT_AUTHORIZED
from machpay.protocol.screening import Attempt, Reject
from machpay_gateway import headers as names
from machpay_gateway.admission import RETRY_AFTER, Admission, Asked
from machpay_gateway.errors import RequestError
from machpay_gateway.events import Events
from machpay_gateway.exchange import Exchanges
from machpay_gateway.items import settlement_item
from machpay_gateway.metering import Metering
from machpay_gateway.metrics import Metrics
from machpay_gateway.payments import Payments, Ticket
from machpay_gateway.repeats import Repeats
from machpay_gateway.reply import Reply
from machpay_gateway.request import Request
from machpay_gateway.responses import Responses
from machpay_gateway.routes import Route
from machpay_gateway.settings import Settings
from machpay_gateway.solvency import Solvency
from machpay_gateway.upstream import Upstream

MAX_TURNS: Final = 3
"""How often a payment waits for another one under its identifier that then comes to nothing."""


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
        self._payments = payments
        self._events = events
        self._metrics = metrics
        kept = settings.responses
        self.responses = Responses(kept.keep_s, kept.max_bytes, kept.total_bytes)
        self._admission = Admission(settings, payments, solvency, events, metrics)
        self._repeats = Repeats(settings, payments, self.responses, metrics)
        self._exchanges = Exchanges(settings, payments, self.responses, upstream, Metering(upstream), metrics)

    async def serve(self, route: Route, request: Request, reply: Reply) -> None:
        """Answer one request for a priced route. Raises `RequestError` for what is answered with a problem."""
        started = time.perf_counter()
        payment_header = request.header(names.SIGNATURE)
        if request.method == "HEAD":
            # Nothing could be delivered for a HEAD, so a payment on it is not even looked at.
            request.is_whole = True
            await self._admission.challenge(self._admission.asked(route, request), reply)
            return
        if payment_header is None:
            if request.header(names.V1_PAYMENT) is not None:
                raise RequestError(
                    400, "x402_version", "X-PAYMENT is x402 version 1; send PAYMENT-SIGNATURE (version 2)"
                )
            await request.read_head()
            await self._admission.challenge(self._admission.asked(route, request), reply)
            return
        attempt = self._admission.parse(payment_header)
        await request.read_head()
        asked = self._admission.asked(route, request)
        ticket = await self._admit(attempt, asked, reply)
        if ticket is None:
            return
        await self._exchanges.serve(ticket, asked, request, reply)
        latency_s = time.perf_counter() - started
        self._metrics.paid_seconds.add(latency_s)
        self._announce(ticket, route, latency_s)

    async def _admit(self, attempt: Attempt, asked: Asked, reply: Reply) -> Ticket | None:
        """A reservation; None if the request was answered without one."""
        digest = attempt.intent.digest
        if await self._repeats.answer_known(digest, attempt, asked, reply):
            return None
        if self._payments.journal.failure is not None:
            raise RequestError(503, "log_unavailable", "payments cannot be recorded now", (RETRY_AFTER,))
        for _ in range(MAX_TURNS):
            admitted = await self._admission.admit(attempt, asked, digest)
            if isinstance(admitted, Ticket):
                return admitted
            if isinstance(admitted, Reject):
                await self._admission.refuse(admitted, attempt, asked, reply)
                return None
            if await self._repeats.answer_earlier(admitted.earlier, attempt, asked, reply):
                return None
        raise RequestError(409, "payment_pending", "payments under this identifier keep failing")

    def _announce(self, ticket: Ticket, route: Route, latency_s: float) -> None:
        """Tell the receiver about a charge."""
        if ticket.payment.is_complete and ticket.payment.charged:
            event_id = ticket.digest.hex()
            data = partial(self._authorized, ticket, route, latency_s)
            self._events.emit(PAYMENT_AUTHORIZED, ticket.channel.agent_text, data, event_id)

    def _authorized(self, ticket: Ticket, route: Route, latency_s: float) -> msgspec.Raw:
        item = settlement_item(self._settings, ticket.payment)
        more = msgspec.json.encode(
            {
                "service": self._settings.gateway.name,
                "route": route.label,
                "latency_ms": round(latency_s * 1000, 3),
            }
        )
        # Two objects made one: the item's fields need not be written a second time.
        return msgspec.Raw(item[:-1] + b"," + more[1:])
