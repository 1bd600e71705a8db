"""Before the upstream: what a request is asked to pay, whether its payment is admitted, and the 402s.

Acts on the decisions of `decide`; a payment that is admitted is reserved in the same step.
"""

import time
from typing import Any, Final

import msgspec

from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.events import REQUEST_BLOCKED
from machpay.protocol.identifiers import read_identifier
from machpay.protocol.requests import MAX_BOUND_BODY_BYTES, Binding
from machpay.protocol.screening import Attempt, Offer, Reject
from machpay.protocol.x402 import PaymentResponse, correction_json, decode_payload, parse_terms
from machpay_gateway import decide
from machpay_gateway import headers as names
from machpay_gateway.answers import respond_payment_required
from machpay_gateway.challenge import Challenges, encode, header
from machpay_gateway.decide import Credit, Forward, LookUp, Repeat
from machpay_gateway.errors import RequestError
from machpay_gateway.events import Events
from machpay_gateway.metrics import Metrics
from machpay_gateway.payments import Payments, Ticket
from machpay_gateway.reply import Reply
from machpay_gateway.request import Request
from machpay_gateway.routes import Route
from machpay_gateway.settings import Settings
from machpay_gateway.solvency import Solvency

RECHECK_S: Final = 0.5
"""An agent that is refused for lack of bond is asked about again if the answer is older than this."""
RETRY_AFTER_S: Final = 1
RETRY_AFTER: Final = (b"retry-after", str(RETRY_AFTER_S).encode())


class Asked(msgspec.Struct, frozen=True):
    """What one request is asked to pay, and for what exactly."""

    route: Route
    request: Request
    binding: Binding
    request_hash: bytes


class Admission:
    """Challenges, admits and refuses."""

    def __init__(
        self, settings: Settings, payments: Payments, solvency: Solvency, events: Events, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._network = settings.network.caip2
        self._asset = str(settings.network.mint)
        self._payments = payments
        self._solvency = solvency
        self._challenges = Challenges(settings)
        self._events = events
        self._metrics = metrics

    def asked(self, route: Route, request: Request) -> Asked:
        """What `request` is asked to pay; after its head was read. Raises 413 if it cannot be bound as the route wants
        it."""
        binding, request_hash = request.binding()
        if binding == "route" and route.binding == "request":
            raise RequestError(
                413, "body_too_large", f"a payment here covers a body of up to {MAX_BOUND_BODY_BYTES} bytes"
            )
        return Asked(route, request, binding, request_hash)

    async def challenge(self, asked: Asked, reply: Reply) -> None:
        """Answer a request that offers no payment."""
        self._metrics.requests.add(1, "unpaid", asked.route.label)
        body = self._challenges.plain(asked.route, self._url(asked), asked.binding, asked.request_hash)
        await respond_payment_required(reply, body, [(names.REQUIRED, header(body))])

    def _url(self, asked: Asked) -> str:
        request = asked.request
        return self._challenges.url(request.scheme, request.host, request.raw_path, asked.route)

    def parse(self, payment_header: bytes) -> Attempt:
        """The payment in a PAYMENT-SIGNATURE header. Raises 400 if it does not parse."""
        try:
            payload = decode_payload(payment_header)
            terms = parse_terms(payload.payload)
            identifier = read_identifier(payload.extensions) if payload.extensions else None
        except MalformedError as error:
            raise RequestError(400, "malformed_payment", error.detail) from error
        channel = self._settings.network.channel(terms.agent, self._settings.key.public)
        accepted = payload.accepted
        return Attempt(
            agent=terms.agent,
            gateway=terms.gateway,
            intent=terms.intent(channel),
            signature=terms.signature,
            scheme=accepted.scheme,
            network=accepted.network,
            asset=accepted.asset,
            identifier=identifier,
        )

    async def admit(self, attempt: Attempt, asked: Asked, digest: bytes) -> Ticket | Reject | Repeat:
        """Decide, and reserve in the same step. `digest` is the attempt's. Raises 503 if the agent's credit cannot be
        known in time."""
        price = asked.route.price_atomic
        offer = Offer(
            price=price,
            gateway=self._settings.key.public,
            network=self._network,
            asset=self._asset,
            max_timeout_s=self._settings.gateway.max_timeout_s,
            request_hash=asked.request_hash,
        )
        credit = self._solvency.credit(attempt.agent)
        decision = decide.decide(attempt, offer, self._payments.standing(attempt, credit), time.time())
        if isinstance(decision, LookUp) or self._is_stale_refusal(decision, credit):
            known = await self._solvency.look_up(attempt)
            if known is None:
                raise RequestError(
                    503, "solvency_unknown", "the agent's bond cannot be looked up now", (RETRY_AFTER,)
                )
            standing = self._payments.standing(attempt, known)
            decision = decide.admit(attempt.intent.cumulative, price, standing, asked=True)
        if isinstance(decision, Forward):
            ticket = self._payments.accept(attempt, decision.price, digest)
            self._solvency.accepted(attempt)
            return ticket
        if isinstance(decision, Reject | Repeat):
            return decision
        raise AssertionError("a payment was offered and its credit is known")

    def _is_stale_refusal(self, decision: object, credit: Credit | None) -> bool:
        """A refusal for lack of bond by an answer that may be older than the agent's top-up."""
        return (
            isinstance(decision, Reject)
            and decision.code is RefusalCode.INSUFFICIENT_BOND
            and credit is not None
            and time.monotonic() - credit.read_at > RECHECK_S
        )

    async def refuse(self, rejection: Reject, attempt: Attempt, asked: Asked, reply: Reply) -> None:
        """Answer a payment that was not admitted: the code, and what helps to make a better one."""
        route, code = asked.route, rejection.code
        self._metrics.requests.add(1, "refused", route.label)
        self._metrics.refusals.add(1, code.value)
        extra: dict[str, object] = {}
        if code is RefusalCode.CUMULATIVE_TOO_LOW:
            extra = correction_json(*self._payments.correction(attempt.agent))
        elif code is RefusalCode.REQUEST_MISMATCH:
            # A stock client's scheme sees this header only, not the new 402.
            extra = {"requestHash": asked.request_hash.hex(), "binding": asked.binding}
        body = self._challenges.refused(
            route, self._url(asked), asked.binding, asked.request_hash, code.value, extra
        )
        response = PaymentResponse(
            success=False,
            payer=str(attempt.agent),
            network=self._network,
            amount="0",
            error_reason=code.value,
            extra={**extra, "detail": rejection.detail},
        )
        payer = response.payer
        credit = self._solvency.credit(attempt.agent) if code is RefusalCode.INSUFFICIENT_BOND else None
        blocked: dict[str, Any] = {
            "agent_id": payer,
            "reason": code.value,
            "required_amount": str(route.price_atomic),
            "route": route.label,
        }
        if credit is not None:
            blocked["current_balance"] = str(credit.bond)
        self._events.emit(REQUEST_BLOCKED, payer, lambda: blocked)
        await respond_payment_required(
            reply, body, [(names.REQUIRED, header(body)), (names.RESPONSE, encode(response))]
        )
