"""A completed payment in the form that travels: what `/settlements` takes, files hold, and events tell."""

from machpay.protocol.settlements import SettlementItem, wire_item
from machpay_gateway.log.join import OpenPayment
from machpay_gateway.settings import Settings


def settlement_item(settings: Settings, payment: OpenPayment, seq: int) -> SettlementItem:
    """The wire form of a payment with an outcome; `seq` is its place in this gateway's order. Nothing is hashed for
    it: what the log holds is what travels."""
    accept, outcome = payment.accept, payment.outcome
    if outcome is None:
        raise ValueError("the payment has no outcome")
    return wire_item(
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
        seq=seq,
    )
