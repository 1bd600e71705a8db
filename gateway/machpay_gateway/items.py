"""A completed payment in the form that travels: what `/settlements` takes, files hold, and events tell."""

from machpay.protocol.settlements import ResolvedPayment, SettlementItem, to_item
from machpay_gateway.book import Book
from machpay_gateway.log.join import OpenPayment
from machpay_gateway.settings import Settings


def settlement_item(settings: Settings, book: Book, payment: OpenPayment, seq: int) -> SettlementItem:
    """The wire form of a payment with an outcome; `seq` is its place in this gateway's order."""
    accept, outcome = payment.accept, payment.outcome
    if outcome is None:
        raise ValueError("the payment has no outcome")
    return to_item(
        ResolvedPayment(
            agent=accept.agent,
            gateway=settings.key.public,
            vendor=settings.vendor,
            intent=book.intent(accept),
            signature=accept.signature,
            charged=outcome.charged,
            http_status=outcome.http_status,
            served_total=outcome.served_total,
            served_at=outcome.time,
            receipt=book.receipt(payment, outcome),
            seq=seq,
        )
    )
