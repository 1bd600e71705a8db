"""Settlement transactions as rows: which channels are due, what was signed, and how far each transaction got.

Recon plans, signs and sends; these services keep its work safe to repeat. Every transition is one conditional
UPDATE that says by its row count whether it happened.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import IntegrityError, connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.payments.locks import lock_channels
from apps.payments.models import Channel, Settlement, SettlementItem
from apps.payments.selectors.due import DuePolicy, due_channels
from machpay.protocol.encoding import U64_MAX
from machpay.protocol.intents import Voucher

State = Settlement.State
OPEN_STATES: Final = (State.PENDING, State.SENT, State.UNKNOWN, State.CONFIRMED)
_BACKOFF_FIRST: Final = timedelta(seconds=5)
_BACKOFF_LIMIT: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class DueChannel:
    """A channel to settle: its highest voucher, and `up_to_atomic`, the charges recorded for it. `failures`
    counts its settlements that failed or paid nothing since the last one that paid; `on_chain` says that the account
    exists."""

    address: str
    agent: str
    gateway: str
    vendor: str
    cumulative_atomic: int
    context: bytes
    signature: bytes
    up_to_atomic: int
    settled_atomic: int
    failures: int = 0
    on_chain: bool = False

    @property
    def payable_atomic(self) -> int:
        """What the chain will pay if the bond covers it."""
        return min(self.cumulative_atomic, self.up_to_atomic) - self.settled_atomic

    @property
    def voucher(self) -> Voucher:
        return Voucher(Pubkey.from_string(self.address), self.cumulative_atomic, self.context, self.signature)


@dataclass(frozen=True, slots=True)
class OpenSettlement:
    """A settlement whose end is not known yet, with the only bytes that may ever be sent for it."""

    id: int
    state: str
    vendor: str
    signature: str
    raw_transaction: bytes
    last_valid_block_height: int
    send_count: int
    created_at: datetime
    sent_at: datetime | None


def claim_due_channels(
    *,
    policy: DuePolicy,
    limit: int,
    vendors: Collection[str] | None = None,
    without: Collection[str] = (),
    now: datetime | None = None,
) -> list[DueChannel]:
    """Lock up to `limit` due channels (`due_channels`), of `vendors` if given and `without` these addresses, the
    longest unsettled first.

    Rows that another worker has claimed are skipped. The claim lasts as long as the caller's transaction
    (required): build and sign inside it, without I/O, and call `store_settlement` for what was signed.
    """
    if not transaction.get_connection().in_atomic_block:
        raise transaction.TransactionManagementError("claiming channels needs the caller's transaction")
    due = due_channels(policy, now=now or timezone.now())
    if vendors is not None:
        due = due.filter(vendor__in=vendors)
    if without:
        due = due.exclude(address__in=without)
    claimed = due.order_by("unsettled_since").select_for_update(skip_locked=True, no_key=True, of=("self",))
    return [as_due(row) for row in claimed[:limit]]


def as_due(row: Channel) -> DueChannel:
    """A channel's row as what is to be settled."""
    return DueChannel(
        address=row.address,
        agent=row.agent_id,
        gateway=row.gateway_id,
        vendor=row.vendor,
        cumulative_atomic=row.highest_cumulative_atomic,
        context=bytes(row.highest_context or b""),
        signature=bytes(row.highest_signature or b""),
        # A dishonest gateway's charges can pass 64 bits, which no instruction holds; no voucher does.
        up_to_atomic=min(row.charged_total_atomic, U64_MAX),
        settled_atomic=row.settled_atomic,
        failures=row.settle_failures,
        on_chain=row.slot > 0,
    )


@dataclass(frozen=True, slots=True)
class SignedSettlement:
    """One signed transaction over `channels` of one vendor."""

    channels: Sequence[DueChannel]
    raw_transaction: bytes
    signature: str
    last_valid_block_height: int


def store_settlements(signed: Sequence[SignedSettlement]) -> list[int]:
    """Store signed transactions and mark their channels as under way; returns their ids, in this order.

    Call it in the transaction that claimed the channels; send only after that has committed. Raises
    `IntegrityError` if one of the channels is under way already, or in two of the transactions.
    """
    with transaction.atomic():
        rows = Settlement.objects.bulk_create(
            Settlement(
                vendor=_vendor_of(each.channels),
                signature=each.signature,
                raw_transaction=each.raw_transaction,
                last_valid_block_height=each.last_valid_block_height,
                channel_count=len(each.channels),
                planned_atomic=sum(channel.payable_atomic for channel in each.channels),
            )
            for each in signed
        )
        SettlementItem.objects.bulk_create(
            SettlementItem(
                settlement=row,
                channel_id=channel.address,
                cumulative_atomic=channel.cumulative_atomic,
                context=channel.context,
                signature=channel.signature,
                up_to_atomic=channel.up_to_atomic,
                settled_before_atomic=channel.settled_atomic,
            )
            for row, each in zip(rows, signed, strict=True)
            for channel in each.channels
        )
        pairs = [
            (channel.address, row.id)
            for row, each in zip(rows, signed, strict=True)
            for channel in each.channels
        ]
        if mark_under_way(pairs) != len(pairs):
            raise IntegrityError("a channel of these settlements is under way already")
    return [row.id for row in rows]


def store_settlement(
    *, channels: Sequence[DueChannel], raw_transaction: bytes, signature: str, last_valid_block_height: int
) -> int:
    """`store_settlements` for one."""
    one = SignedSettlement(channels, raw_transaction, signature, last_valid_block_height)
    return store_settlements([one])[0]


def _vendor_of(channels: Sequence[DueChannel]) -> str:
    (vendor,) = {channel.vendor for channel in channels}
    return vendor


_UNDER_WAY: Final = """
UPDATE payments_channel c SET in_flight_id = n.settlement
FROM unnest(%s::text[], %s::bigint[]) AS n (address, settlement)
WHERE c.address = n.address AND c.in_flight_id IS NULL
"""


def mark_under_way(pairs: Sequence[tuple[str, int]]) -> int:
    """Mark channels (address, settlement) that are free as under way; returns how many were."""
    with connection.cursor() as cursor:
        cursor.execute(_UNDER_WAY, [[pair[0] for pair in pairs], [pair[1] for pair in pairs]])
        return int(cursor.rowcount)


def store_distribution(
    *, vendor: str, owed_atomic: int, raw_transaction: bytes, signature: str, last_valid_block_height: int
) -> int | None:
    """Store the signed transaction that pays out what channels of a vendor are owed; None if one is under way, by
    another worker."""
    try:
        with transaction.atomic():
            row = Settlement.objects.create(
                kind=Settlement.Kind.DISTRIBUTE,
                vendor=vendor,
                signature=signature,
                raw_transaction=raw_transaction,
                last_valid_block_height=last_valid_block_height,
                channel_count=0,
                planned_atomic=owed_atomic,
            )
    except IntegrityError:
        return None
    return row.id


def open_settlements(*, limit: int = 200) -> list[OpenSettlement]:
    """Settlements whose end is not known, the oldest first."""
    rows = Settlement.objects.filter(state__in=OPEN_STATES).order_by("id")[:limit]
    return [
        OpenSettlement(
            id=row.id,
            state=row.state,
            vendor=row.vendor,
            signature=row.signature,
            raw_transaction=bytes(row.raw_transaction),
            last_valid_block_height=row.last_valid_block_height,
            send_count=row.send_count,
            created_at=row.created_at,
            sent_at=row.sent_at,
        )
        for row in rows
    ]


# Rows are locked in id order, since workers send and follow at the same time.
_BEGIN: Final = """
WITH turn AS (
    SELECT s.id FROM payments_settlement s
    JOIN unnest(%s::bigint[], %s::int[]) AS n (id, send_count) ON s.id = n.id AND s.send_count = n.send_count
    WHERE s.state IN ('PENDING', 'SENT', 'UNKNOWN') ORDER BY s.id FOR NO KEY UPDATE OF s
)
UPDATE payments_settlement s
SET state = 'SENT', sent_at = coalesce(s.sent_at, now()), send_count = s.send_count + 1
FROM turn WHERE s.id = turn.id
RETURNING s.id
"""


def begin_sends(send_counts: Mapping[int, int]) -> set[int]:
    """Record that the stored bytes of these settlements are about to be sent, for the first time (0) or again; commit
    before sending.

    The value is how many sends the caller knows of. Returns the ids whose turn it is: of the others another worker
    has begun a send since, or the outcome is known.
    """
    with connection.cursor() as cursor:
        cursor.execute(_BEGIN, [list(send_counts), list(send_counts.values())])
        return {row[0] for row in cursor.fetchall()}


def begin_send(settlement_id: int, *, send_count: int) -> bool:
    """`begin_sends` for one: whether to send."""
    return bool(begin_sends({settlement_id: send_count}))


def mark_unknown(settlement_id: int, *, error: str) -> bool:
    """A send ended without an answer: the bytes may or may not have arrived."""
    return bool(_in(settlement_id, State.SENT).update(state=State.UNKNOWN, error=error[:200]))


_REACHED: Final = """
WITH news AS (
    SELECT s.id, n.slot FROM payments_settlement s
    JOIN unnest(%s::bigint[], %s::bigint[]) AS n (id, slot) ON s.id = n.id
    WHERE s.state IN {states} ORDER BY s.id FOR NO KEY UPDATE OF s
)
UPDATE payments_settlement s SET {change}, slot = news.slot, error = ''
FROM news WHERE s.id = news.id
RETURNING s.id
"""
_CONFIRM: Final = _REACHED.format(
    states="('PENDING', 'SENT', 'UNKNOWN')", change="state = 'CONFIRMED', confirmed_at = now()"
)
_FINALIZE: Final = _REACHED.format(
    states="('PENDING', 'SENT', 'UNKNOWN', 'CONFIRMED')",
    change="state = 'FINALIZED', confirmed_at = coalesce(s.confirmed_at, now()), ended_at = now()",
)


def mark_confirmed(slots: Mapping[int, int]) -> set[int]:
    """These transactions (id: slot) are in confirmed blocks and succeeded; returns those for which that is news."""
    return _mark(_CONFIRM, slots)


def mark_finalized(slots: Mapping[int, int]) -> set[int]:
    """These transactions (id: slot) are final and succeeded; returns those for which that is news. Their channels stay
    under way until `apply_chain_snapshot` has seen a slot that contains them, so that what they paid is never planned
    again."""
    return _mark(_FINALIZE, slots)


def _mark(statement: str, slots: Mapping[int, int]) -> set[int]:
    if not slots:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(statement, [list(slots), list(slots.values())])
        return {row[0] for row in cursor.fetchall()}


def mark_failed(settlement_id: int, *, error: str, send_count: int | None = None) -> bool:
    """The transaction is certain to have no effect: rolled back in a final block; or its last valid height is
    final and the look-up through history found nothing; or the RPC server refused its first send, and
    `send_count` 1 says that no other was begun. Frees its channels, which wait longer after every failure."""
    with transaction.atomic():
        channels = lock_channels(
            SettlementItem.objects.filter(settlement=settlement_id).values_list("channel_id", flat=True)
        )
        still_open = _in(settlement_id, *OPEN_STATES)
        if send_count is not None:
            still_open = still_open.filter(send_count=send_count)
        failed = still_open.update(state=State.FAILED, error=error[:200], ended_at=Now())
        if not failed:
            return False
        release([row for row in channels.values() if row.in_flight_id == settlement_id], progressed=False)
    return True


_RELEASE: Final = """
UPDATE payments_channel c SET in_flight_id = NULL, settle_failures = n.failures, settle_after = n.after
FROM unnest(%s::text[], %s::int[], %s::timestamptz[]) AS n (address, failures, after)
WHERE c.address = n.address
"""


def release(channels: Sequence[Channel], *, progressed: bool) -> None:
    """Let locked channels be planned again: at once if their settlement paid something, else after a growing delay."""
    if not channels:
        return
    now = timezone.now()
    for channel in channels:
        channel.in_flight = None
        channel.settle_failures = 0 if progressed else min(channel.settle_failures + 1, 1000)
        delay = min(_BACKOFF_FIRST * 2 ** min(channel.settle_failures - 1, 20), _BACKOFF_LIMIT)
        channel.settle_after = None if progressed else now + delay
    rows = [(channel.address, channel.settle_failures, channel.settle_after) for channel in channels]
    with connection.cursor() as cursor:
        cursor.execute(_RELEASE, [list(column) for column in zip(*rows, strict=True)])


def _in(settlement_id: int, *states: Settlement.State) -> QuerySet[Settlement]:
    return Settlement.objects.filter(id=settlement_id, state__in=states)
