"""Completed payments of the log as lines that `manage.py import_settlements` and `machpay-gateway import` read."""

from collections.abc import Callable
from dataclasses import dataclass

from solders.pubkey import Pubkey

from machpay.protocol.settlements import ItemStatus
from machpay_gateway.items import settlement_item
from machpay_gateway.log.join import OpenPayment
from machpay_gateway.settings import Settings
from machpay_gateway.transfer.reading import replay


@dataclass(frozen=True, slots=True)
class Choice:
    """Which payments to export. Times are unix seconds of the outcome, `since` included, `until` not; `seq` is the
    place in the gateway's order, both ends included. None and an empty set choose everything."""

    agents: frozenset[Pubkey] = frozenset()
    status: ItemStatus | None = None
    since: int | None = None
    until: int | None = None
    seq_from: int | None = None
    seq_to: int | None = None

    def includes(self, seq: int, payment: OpenPayment) -> bool:
        outcome = payment.outcome
        if outcome is None or (self.agents and payment.accept.agent not in self.agents):
            return False
        if self.status is not None and self.status != ("charged" if outcome.charged else "void"):
            return False
        return _within(outcome.time, self.since, self.until) and _within(
            seq, self.seq_from, None if self.seq_to is None else self.seq_to + 1
        )


@dataclass(slots=True)
class Summary:
    """What was in the log and what was written. `open` payments are under way, or were when the gateway was killed: its
    next start decides about them. The log keeps delivered payments only for a while."""

    read: int = 0
    written: int = 0
    charged_atomic: int = 0
    seq_first: int | None = None
    seq_last: int | None = None
    delivered: int = 0
    open: int = 0


def export(
    settings: Settings, choice: Choice, write: Callable[[bytes], object], *, undelivered: bool
) -> Summary:
    """Give `write` one line per chosen payment, in the gateway's order; with `undelivered` only those that the relayer
    did not have when this began. Nothing that was written counts if this raises.

    Raises `LogError` and its kinds, and what `write` raises.
    """
    summary = Summary()
    book = replay(settings)
    # The cursor stands behind the payments it speaks of, so it has to be known first.
    after = book.delivered if undelivered else 0

    def take(seq: int, payment: OpenPayment) -> None:
        summary.read += 1
        if seq <= after or not choice.includes(seq, payment):
            return
        write(settlement_item(settings, payment) + b"\n")
        summary.written += 1
        summary.charged_atomic += payment.charged
        summary.seq_first = summary.seq_first or seq
        summary.seq_last = seq

    last = replay(settings, take)
    summary.delivered, summary.open = last.delivered, len(last.join.open)
    return summary


def _within(value: int, least: int | None, end: int | None) -> bool:
    return (least is None or value >= least) and (end is None or value < end)
