"""One signed payment on its way, and what the gateway's answers to it mean. Pure.

An order is signed once and its bytes are sent as they are, as often as it takes: a gateway accepts them at
most once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from machpay.client.channels import Channel
from machpay.client.terms import Call
from machpay.protocol.errors import MalformedError, RefusalCode
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


@dataclass(frozen=True, slots=True)
class Order:
    """A signed payment. `headers` carries it; `digest` is its id; `growth` is what it authorises on top of
    everything signed before it."""

    intent: PaymentIntent
    digest: bytes
    offer: Offer
    headers: Mapping[str, str]
    growth: int


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
    offer: Offer,
    call: Call,
    now: float,
    grant: Grant = lambda least, wanted: wanted,
) -> Order:
    """Sign a payment for `call`. The channel counts it from here on. Raises `GatewayExposureError`, and what
    `grant` raises."""
    order = authorise(channel, offer, call.hash(offer), now, grant)
    payload = build_payload(offer.to_requirements(), key, offer.gateway, order.intent)
    return replace(order, headers={SIGNATURE_HEADER: encode_header(payload)})


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
    return Refusal(code, required, None, None)


def read_receipt(headers: Mapping[str, str], order: Order, http_status: int | None) -> SignedReceipt | None:
    """The receipt for `order` in a `PAYMENT-RESPONSE`, checked; None when there is no such header.

    Raises `MalformedError` saying what is wrong with it.
    """
    if RESPONSE_HEADER not in headers:
        return None
    response = decode_response(headers[RESPONSE_HEADER])
    receipt = SignedReceipt.from_json(response.extra.get("receipt"))
    check_receipt(receipt, order)
    if http_status is not None and receipt.receipt.http_status != http_status:
        raise MalformedError(
            f"the receipt is for status {receipt.receipt.http_status}, the answer has {http_status}"
        )
    return receipt


def check_receipt(receipt: SignedReceipt, order: Order) -> None:
    """Raises `MalformedError` unless the receipt is the gateway's valid word on this very payment."""
    if receipt.receipt.digest != order.digest:
        raise MalformedError("the receipt is for another payment")
    if not receipt.is_signed_by(order.offer.gateway):
        raise MalformedError("the receipt is not signed by the gateway")
    if receipt.receipt.charged > order.intent.amount:
        raise MalformedError("the receipt charges more than was signed")
    if receipt.receipt.charged > receipt.receipt.served_total:
        raise MalformedError("the receipt's total is below its charge")


def may_retry(code: str) -> bool:
    """Whether a new signature can help: the total was stale, the price or the binding changed."""
    return code in (RefusalCode.CUMULATIVE_TOO_LOW, RefusalCode.AMOUNT_TOO_LOW, RefusalCode.REQUEST_MISMATCH)
