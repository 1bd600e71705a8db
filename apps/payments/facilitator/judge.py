"""Judging what a seller's server forwarded, before anything is looked up. Pure: no database, no clock of its own."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec
from solders.pubkey import Pubkey

from apps.payments.facilitator.keys import HostedKeys
from machpay.chain.network import Network
from machpay.protocol.encoding import parse_hex, parse_pubkey, parse_u64
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.facilitator import FacilitatorRequest
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import nonce_time
from machpay.protocol.screening import Attempt, Offer, screen
from machpay.protocol.x402 import VERSION, PaymentPayload, parse_terms

SETTLE_GRACE_S: Final = 600
"""How long after its deadline a payment may still be settled: the deadline says when the seller has to begin, and
work that began in time may take this long."""
MAX_TIMEOUT_S: Final = 600

_payload_decoder = msgspec.json.Decoder(PaymentPayload)


@dataclass(frozen=True, slots=True)
class Judged:
    """A payment that is in order by itself. `price_atomic` is what the seller charges for it."""

    attempt: Attempt
    vendor: Pubkey
    hosted: SigningKey
    price_atomic: int

    @property
    def nonce_time(self) -> datetime:
        return nonce_time(self.attempt.intent.nonce)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a payment is not valid. `payer` is None if the payload was too malformed to name one; `extra` is what helps
    to make a better one."""

    reason: str
    message: str
    payer: str | None = None
    extra: dict[str, object] = field(default_factory=dict)


def judge(
    request: FacilitatorRequest, *, network: Network, keys: HostedKeys, now: float, settling: bool
) -> Judged | Refusal:
    """Judge the payload against the seller's requirements; `now` is unix seconds.

    `settling` allows for the time that the seller's work took: see `SETTLE_GRACE_S`. Raises `MalformedError` if the
    requirements themselves are wrong, which is the seller's mistake and not the payer's.
    """
    required = request.payment_requirements
    vendor = parse_pubkey(required.pay_to, "paymentRequirements.payTo")
    price = parse_u64(required.amount, "paymentRequirements.amount")
    if not 0 < required.max_timeout_seconds <= MAX_TIMEOUT_S:
        raise MalformedError(f"paymentRequirements.maxTimeoutSeconds must be 1 to {MAX_TIMEOUT_S}")
    if required.network != network.caip2 or required.asset != str(network.mint):
        raise MalformedError("paymentRequirements name a network or asset that is not this facilitator's")
    hosted = keys.of(vendor)
    try:
        if request.x402_version != VERSION:
            raise MalformedError(
                f"x402 version {request.x402_version} is not supported, version {VERSION} is"
            )
        payload = _payload_decoder.decode(request.payment_payload)
        terms = parse_terms(payload.payload)
        asked = required.extra.get("requestHash", payload.accepted.extra.get("requestHash"))
        request_hash = parse_hex(asked, "accepted.extra.requestHash", 32)
    except MalformedError as error:
        return Refusal("invalid_payload", error.detail)
    except (ValueError, RecursionError) as error:
        return Refusal("invalid_payload", f"paymentPayload: {error}")
    attempt = Attempt(
        agent=terms.agent,
        gateway=terms.gateway,
        intent=terms.intent(network.channel(terms.agent, hosted.public)),
        signature=terms.signature,
        scheme=payload.accepted.scheme,
        network=payload.accepted.network,
        asset=payload.accepted.asset,
    )
    offer = Offer(
        price=price,
        gateway=hosted.public,
        network=network.caip2,
        asset=str(network.mint),
        max_timeout_s=required.max_timeout_seconds,
        request_hash=request_hash,
    )
    if settling and now <= terms.deadline + SETTLE_GRACE_S:
        now = min(now, terms.deadline - 1)
    payer = str(terms.agent)
    if payload.accepted.pay_to != required.pay_to:
        return Refusal(RefusalCode.REQUEST_MISMATCH, "the payment was made out to another vendor", payer)
    if (rejection := screen(attempt, offer, now)) is not None:
        return Refusal(rejection.code, rejection.detail, payer)
    return Judged(attempt, vendor, hosted, price)
