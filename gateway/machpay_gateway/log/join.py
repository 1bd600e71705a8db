"""Joins the records of one payment: accept, outcome, sent. The one definition of "complete", used when live, when
recovering and when delivering.

A payment is complete once its last outcome is final and its answer was sent; from then on nothing about it changes.
"""

from machpay_gateway.log.records import Accept, Identified, Outcome, Record, Sent


class OpenPayment:
    """An accepted payment. `digest` is its id, filled in by who first derives it; `identifier` is the client's own name
    for it, if it has one; `seq` is its place among the completed ones, counted from 1, once it is; `item` is its wire
    form, filled in by who first needs it."""

    __slots__ = ("accept", "digest", "identifier", "item", "outcome", "sent", "seq")

    def __init__(self, accept: Accept) -> None:
        self.accept = accept
        self.digest: bytes | None = None
        self.identifier: str | None = None
        self.outcome: Outcome | None = None
        self.sent = False
        self.seq = 0
        self.item: bytes | None = None

    @property
    def charged(self) -> int:
        """What it has added to the channel's `served` so far."""
        return 0 if self.outcome is None else self.outcome.charged

    @property
    def is_complete(self) -> bool:
        return self.sent and self.outcome is not None and self.outcome.final

    def records(self) -> list[Record]:
        """What to write so that a reader knows this payment from nothing."""
        records: list[Record] = [self.accept]
        if self.identifier is not None:
            records.append(Identified(self.accept.number, self.identifier))
        if self.outcome is not None:
            records.append(self.outcome)
        if self.sent:
            records.append(Sent(self.accept.number))
        return records


class Join:
    """Open payments by number."""

    def __init__(self) -> None:
        self.open: dict[int, OpenPayment] = {}

    def apply(self, record: Record) -> OpenPayment | None:
        """Take one record in; the payment it completed, if it did. Records of unknown payments change nothing."""
        if isinstance(record, Accept):
            self.open[record.number] = OpenPayment(record)
            return None
        if isinstance(record, Identified):
            payment = self.open.get(record.number)
            if payment is not None:
                payment.identifier = record.identifier
            return None
        if isinstance(record, Outcome):
            payment = self.open.get(record.number)
            if payment is None:
                return None
            payment.outcome = record
        elif isinstance(record, Sent):
            payment = self.open.get(record.number)
            if payment is None:
                return None
            payment.sent = True
        else:
            return None
        if not payment.is_complete:
            return None
        del self.open[payment.accept.number]
        return payment
