"""A completed payment in the form that travels: what `/settlements` takes, files hold, and events tell."""

import msgspec

from machpay.protocol.settlements import wire_item
from machpay_gateway.log.join import OpenPayment
from machpay_gateway.settings import Settings


def settlement_item(settings: Settings, payment: OpenPayment) -> bytes:
    """The JSON of a completed payment. Nothing is hashed for it: what the log holds is what travels. Kept with the
    payment, because delivery and the event both need it."""
    if payment.item is not None:
        return payment.item
    accept, outcome = payment.accept, payment.outcome
    if outcome is None:
        raise ValueError("the payment has no outcome")
    payment.item = msgspec.json.encode(
        wire_item(
            agent=accept.agent,
            gateway=settings.key.public,
            vendor=settings.vendor,
            amount=accept.amount,
            charged=outcome.charged,
            cumulative=accept.cumulative,
            nonce=accept.nonce,
            deadline=accept.deadline,
            request_hash=accept.request_hash,
            signature=accept.signature,
            http_status=outcome.http_status,
            served_total=outcome.served_total,
            served_at=outcome.time,
            receipt_signature=outcome.receipt_signature,
            seq=payment.seq,
        )
    )
    return payment.item
