"""Judging an offered payment by itself: is it the agent's, for this seller, this request and this price, and in time?

Pure: facts in, a refusal or nothing out. What the agent may still spend is not looked at here.
"""

from dataclasses import dataclass

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.errors import RefusalCode
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.nonces import CLOCK_SKEW_S, lifetime_is_allowed
from machpay.protocol.x402 import SCHEME


class Offer(msgspec.Struct, frozen=True):
    """What a seller asks for one request. Amounts in atomic units.

    `gateway` is the identity that the payment must name. `request_hash` is what the seller asked to be signed:
    a gateway computes it from the request as it arrived, never takes it from the client.
    """

    price: int
    gateway: Pubkey
    network: str
    asset: str
    max_timeout_s: int
    request_hash: bytes


class Attempt(msgspec.Struct, frozen=True):
    """What the client sent: a parsed payment, the requirements it says it accepted, and its own name for the payment
    (see `identifiers`)."""

    agent: Pubkey
    gateway: Pubkey
    intent: PaymentIntent
    signature: bytes
    scheme: str
    network: str
    asset: str
    identifier: str | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer 402 with this code. `detail` is for people."""

    code: RefusalCode
    detail: str


def screen(attempt: Attempt, offer: Offer, now: float) -> Reject | None:
    """Judge the payment by itself, cheapest checks first; None if nothing is wrong with it.

    `now` is unix seconds."""
    intent = attempt.intent
    if attempt.gateway != offer.gateway:
        return Reject(RefusalCode.WRONG_GATEWAY, "the payment is for another gateway")
    if attempt.scheme != SCHEME or attempt.network != offer.network or attempt.asset != offer.asset:
        return Reject(RefusalCode.REQUEST_MISMATCH, "the payment is for another scheme, network or asset")
    if intent.deadline <= now:
        return Reject(RefusalCode.INTENT_EXPIRED, "the deadline has passed")
    if intent.deadline > now + offer.max_timeout_s + CLOCK_SKEW_S:
        return Reject(
            RefusalCode.INTENT_EXPIRED, f"the deadline may be at most {offer.max_timeout_s} s from now"
        )
    if not lifetime_is_allowed(intent.nonce, intent.deadline):
        return Reject(RefusalCode.NONCE_REPLAYED, "the nonce's time does not fit the deadline")
    if intent.request_hash != offer.request_hash:
        return Reject(RefusalCode.REQUEST_MISMATCH, "the payment was signed for another request")
    if intent.amount < offer.price:
        return Reject(
            RefusalCode.AMOUNT_TOO_LOW, f"the price is {offer.price}, the payment allows {intent.amount}"
        )
    if not intent.is_signed_by(attempt.agent, attempt.signature):
        return Reject(RefusalCode.INVALID_SIGNATURE, "the signature is not the agent's over this payment")
    return None
