"""One signed payment on its way, and what the gateway's answers to it mean. Pure.

An order is signed once and its bytes are sent as they are, as often as it takes: a gateway accepts them at
most once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec.structs import replace
from solders.pubkey import Pubkey

from machpay.client.channels import Channel
from machpay.client.terms import Call, Challenge
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.identifiers import with_identifier
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import MAX_LIFETIME_S, new_nonce
from machpay.protocol.offers import Offer
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.x402 import (
    REQUIRED_HEADER,
    RESPONSE_HEADER,
    SIGNATURE_HEADER,
    Correction,
    PaymentRequired,
    build_payload,
    decode_required,
    decode_response,
    encode_header,
    parse_correction,
)

REPEATED_HEADER: Final = "MachPay-Repeated"
"""`true` on an answer that the gateway has given before."""


class Order(msgspec.Struct, frozen=True):
    """A signed payment. `headers` carries it; `digest` is its id; `growth` is what it authorises on top of
    everything signed before it. `is_named` says that the gateway knows it under its call's identifier too: it charges
    only one of the payments that share one."""

    intent: PaymentIntent
    digest: bytes
    offer: Offer
    headers: Mapping[str, str]
    growth: int
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 402 in answer to a payment: why, the offer as it stands now, and what helps against
    `cumulative_too_low`."""

    code: str
    required: PaymentRequired | None
    correction: Correction | None
    receipt: SignedReceipt | None


Grant = Callable[[int, int], int]
"""Given the least and the wanted growth of the signed cumulative, how much is allowed; or raises."""


def place(
    key: SigningKey,
    channel: Channel,
    challenge: Challenge,
    call: Call,
    identifier: str,
    now: float,
    grant: Grant = lambda least, wanted: wanted,
) -> Order:
    """Sign a payment for `call`, named `identifier` if the gateway understands that. The channel counts it from here
    on. Raises `GatewayExposureError`, `MalformedError` for an identifier that cannot be one, what `grant` raises."""
    offer = challenge.offer
    extensions = with_identifier(challenge.extensions, identifier)
    order = authorise(channel, offer, call.hash(offer), now, grant)
    payload = build_payload(challenge.accepted, key, offer.gateway, order.intent, extensions)
    headers = {SIGNATURE_HEADER: encode_header(payload)}
    return replace(order, headers=headers, is_named=challenge.knows_identifiers)


def authorise(channel: Channel, offer: Offer, bound: bytes, now: float, grant: Grant) -> Order:
    """A payment for the request whose hash is `bound`, counted by the channel but not signed yet. Raises as
    `place`."""
    quote = channel.quote(offer.amount, now)
    wanted = max(0, quote.cumulative - channel.signed)
    growth = grant(max(0, quote.least - channel.signed), wanted)
    if growth < wanted:
        # A budget cuts the headroom; the payment itself fits.
        quote = replace(quote, cumulative=max(quote.least, channel.signed + growth))
    intent = PaymentIntent(
        channel=channel.address,
        cumulative=quote.cumulative,
        nonce=new_nonce(int(now * 1000)),
        amount=offer.amount,
        deadline=int(now) + min(offer.max_timeout_s, MAX_LIFETIME_S),
        request_hash=bound,
    )
    return Order(intent, channel.opened(intent, quote), offer, {}, growth)


def read_refusal(headers: Mapping[str, str]) -> Refusal:
    """What a 402 says. Both headers may carry the reason and the correction; either is enough.

    Raises `MalformedError` if neither can be read.
    """
    required = decode_required(headers[REQUIRED_HEADER]) if REQUIRED_HEADER in headers else None
    response = decode_response(headers[RESPONSE_HEADER]) if RESPONSE_HEADER in headers else None
    extras: list[Mapping[str, object]] = [] if response is None else [response.extra]
    code: str | None = None
    if response is not None and isinstance(response.error_reason, str):
        code = response.error_reason
    if required is not None:
        code = code or required.error
        extras += [entry.extra for entry in required.accepts]
    if code is None:
        raise MalformedError("a 402 must say why in PAYMENT-REQUIRED or PAYMENT-RESPONSE")
    for extra in extras:
        correction = parse_correction(extra)
        if correction is not None:
            raw = extra.get("receipt")
            return Refusal(code, required, correction, None if raw is None else SignedReceipt.from_json(raw))
    if code == RefusalCode.NONCE_REPLAYED:
        # A stock server's facilitator shows what became of the payment; a gateway is asked.
        raw = next((extra["receipt"] for extra in extras if "receipt" in extra), None)
        return Refusal(code, required, None, None if raw is None else SignedReceipt.from_json(raw))
    return Refusal(code, required, None, None)


class Outcome(msgspec.Struct, frozen=True):
    """What a `PAYMENT-RESPONSE` says, checked. `of` is the payment that it is about: None for one of another process
    under an identifier that both were given. `receipt` is None while a metered stream is not at its end."""

    of: Order | None
    receipt: SignedReceipt | None


def read_outcome(
    headers: Mapping[str, str], order: Order, earlier: Sequence[Order] = (), *, is_shared: bool = False
) -> Outcome | None:
    """The outcome in an answer to `order`, or to an `earlier` payment of the same call under the same identifier; None
    when there is no such header.

    With `is_shared` the identifier may have been used by another process: an answer that the gateway marks as repeated
    is taken with its receipt for a payment that we do not know. Raises `MalformedError` saying what is wrong.
    """
    told = headers.get(RESPONSE_HEADER)
    if told is None:
        return None
    extra = decode_response(told).extra
    if extra.get("pending") is True and "receipt" not in extra:
        if extra.get("commitmentId") != order.digest.hex():
            raise MalformedError("the pending answer is for another payment")
        return Outcome(order, None)
    receipt = SignedReceipt.from_json(extra.get("receipt"))
    digest = receipt.receipt.digest
    of = next((one for one in (order, *earlier) if one.digest == digest), None)
    if of is not None and (of is order or of.is_named):
        check_receipt(receipt, of)
        return Outcome(of, receipt)
    if not (is_shared and order.is_named and headers.get(REPEATED_HEADER) == "true"):
        raise MalformedError("the receipt is for another payment")
    if not receipt.is_signed_by(order.offer.gateway):
        raise MalformedError("the receipt is not signed by the gateway")
    return Outcome(None, receipt)


def check_status(receipt: SignedReceipt, http_status: int) -> None:
    """Raises `MalformedError` unless receipt and answer agree on whether the request was served. A server that settles
    before it knows the exact status names another one of the same kind."""
    if receipt.receipt.http_status // 100 != http_status // 100:
        raise MalformedError(
            f"the receipt is for status {receipt.receipt.http_status}, the answer has {http_status}"
        )


def check_receipt(receipt: SignedReceipt, order: Order) -> None:
    """Raises `MalformedError` unless the receipt is the gateway's valid word on this very payment."""
    check_word(receipt, order.digest, order.offer.gateway, order.intent.amount)


def check_word(receipt: SignedReceipt, digest: bytes, gateway: Pubkey, amount: int) -> None:
    """The same for a payment of which only this is known."""
    if receipt.receipt.digest != digest:
        raise MalformedError("the receipt is for another payment")
    if not receipt.is_signed_by(gateway):
        raise MalformedError("the receipt is not signed by the gateway")
    if receipt.receipt.charged > amount:
        raise MalformedError("the receipt charges more than was signed")
    if receipt.receipt.charged > receipt.receipt.served_total:
        raise MalformedError("the receipt's total is below its charge")


def may_retry(code: str) -> bool:
    """Whether a new signature can help: the total was stale, the price or the binding changed."""
    return code in (RefusalCode.CUMULATIVE_TOO_LOW, RefusalCode.AMOUNT_TOO_LOW, RefusalCode.REQUEST_MISMATCH)
