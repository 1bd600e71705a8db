"""Raises the channel totals of this gateway's log to what exported payments, or another folder's log, prove.

For a gateway that lost its log: with the totals it asks agents for the right sums from the first request on, it refuses
nonces that were used, and `claim` finds the vouchers also when no relayer is there to give them back. Payments
themselves are not written into the log: they were complete once, and are handed to the relayer by `import`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from solders.pubkey import Pubkey

from machpay.protocol.intents import Voucher
from machpay.protocol.nonces import CLOCK_SKEW_S
from machpay.protocol.receipts import SignedReceipt
from machpay_gateway.bindings import Bindings
from machpay_gateway.book import Book
from machpay_gateway.log.journal import Journal
from machpay_gateway.log.records import NONCES_PER_RECORD, ChannelTotals, Identity, Nonces, Record
from machpay_gateway.settings import Settings
from machpay_gateway.transfer.importing import Good


@dataclass(slots=True)
class Proven:
    """What is proven of one agent: its highest voucher, the highest sum of charges, and the receipt that shows it."""

    voucher: Voucher | None = None
    served: int = 0
    receipt: SignedReceipt | None = None


@dataclass(slots=True)
class Evidence:
    """Everything that can be restored. `nonces`: (agent 32 || nonce 16) -> deadline, of those still valid."""

    channels: dict[Pubkey, Proven] = field(default_factory=dict)
    nonces: dict[bytes, int] = field(default_factory=dict)

    def add(self, agent: Pubkey, voucher: Voucher | None, served: int, receipt: SignedReceipt | None) -> None:
        """Take one more proof in; the higher one counts."""
        proven = self.channels.setdefault(agent, Proven())
        if voucher is not None and (proven.voucher is None or voucher.cumulative > proven.voucher.cumulative):
            proven.voucher = voucher
        if served >= proven.served:
            proven.served, proven.receipt = served, receipt

    def add_log(self, book: Book) -> None:
        """Take in what another log of this gateway proves."""
        for totals in book.totals([]):
            channel = book.channels[totals.agent]
            self.add(totals.agent, channel.voucher, totals.served, channel.receipt)
        self.nonces |= book.guard.snapshot()


@dataclass(frozen=True, slots=True)
class Raised:
    """One channel before and after, in atomic units."""

    agent: Pubkey
    highest_before: int
    highest: int
    served_before: int
    served: int


def evidence_of(goods: Iterable[Good], now: int) -> Evidence:
    """What judged lines prove at `now` (unix seconds)."""
    evidence = Evidence()
    for good in goods:
        payment = good.payment
        evidence.add(payment.agent, payment.voucher, payment.served_total or 0, payment.receipt)
        if payment.intent.deadline + CLOCK_SKEW_S > now:
            evidence.nonces[bytes(payment.agent) + payment.intent.nonce.bytes] = payment.intent.deadline
    return evidence


async def restore(settings: Settings, evidence: Evidence, *, dry_run: bool) -> list[Raised]:
    """Raise what is below the evidence; the channels that changed (or would). Nothing falls, so it can be repeated.

    The gateway must not run. Raises `LogError` and its kinds, `LogUnavailable` if the disk does not take it.
    """
    network, key = settings.network, settings.key
    responses = settings.responses
    # With the limits it serves with: segments that still hold identifiers are kept by them.
    book = Book(network, key.public, Bindings(responses.identifiers_s, responses.max_identifiers))
    identity = Identity(key.public, network.program_id, network.mint, bytes(network.domain))
    journal = Journal(settings.data_dir / "log", book, identity, segment_bytes=settings.gateway.segment_bytes)
    try:
        journal.recover()
        raised, records = _plan(book, evidence)
        if records and not dry_run:
            await journal.start()
            for record in records:
                journal.append(record)
            await journal.durable()
    finally:
        await journal.close()
    return raised


def _plan(book: Book, evidence: Evidence) -> tuple[list[Raised], list[Record]]:
    raised: list[Raised] = []
    records: list[Record] = []
    for agent, proven in evidence.channels.items():
        channel = book.channel(agent)
        voucher = proven.voucher
        highest = max(channel.highest, 0 if voucher is None else voucher.cumulative)
        if voucher is None and channel.voucher is None:
            highest = max(highest, proven.served)
        # Charges above every voucher that is left cannot be claimed, and to follow them would give the voucher away.
        served = max(channel.served, min(proven.served, highest))
        if (highest, served) == (channel.highest, channel.served):
            continue
        raised.append(Raised(agent, channel.highest, highest, channel.served, served))
        covers = voucher is not None and voucher.cumulative == highest
        records.append(
            ChannelTotals(
                agent=agent,
                highest=highest,
                context=voucher.context if covers and voucher is not None else None,
                signature=voucher.signature if covers and voucher is not None else None,
                served=served,
                receipt=proven.receipt if served == proven.served else None,
            )
        )
    known = book.guard.snapshot()
    missing = [(key, at) for key, at in evidence.nonces.items() if key not in known]
    records.extend(
        Nonces(dict(missing[start : start + NONCES_PER_RECORD]))
        for start in range(0, len(missing), NONCES_PER_RECORD)
    )
    return raised, records
