"""Settlement transactions as rows: which channels are due, what was signed, and how far each transaction got.

Recon plans, signs and sends; these services keep its work safe to repeat. Every transition is one conditional
UPDATE that says by its row count whether it happened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.db.models.functions import Coalesce, Now
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.payments.locks import lock_channels
from apps.payments.models import Channel, Settlement, SettlementItem
from apps.payments.selectors.due import DuePolicy, due_channels
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
    *, policy: DuePolicy, limit: int, vendor: str | None = None, now: datetime | None = None
) -> list[DueChannel]:
    """Lock up to `limit` due channels (`due_channels`), the longest unsettled first.

    Rows that another worker has claimed are skipped. The claim lasts as long as the caller's transaction
    (required): build and sign inside it, without I/O, and call `store_settlement` for what was signed.
    """
    if not transaction.get_connection().in_atomic_block:
        raise transaction.TransactionManagementError("claiming channels needs the caller's transaction")
    due = due_channels(policy, now=now or timezone.now())
    if vendor is not None:
        due = due.filter(vendor=vendor)
    claimed = due.order_by("unsettled_since").select_for_update(skip_locked=True, no_key=True, of=("self",))
    return [
        DueChannel(
            address=row.address,
            agent=row.agent_id,
            gateway=row.gateway_id,
            vendor=row.vendor,
            cumulative_atomic=row.highest_cumulative_atomic,
            context=bytes(row.highest_context or b""),
            signature=bytes(row.highest_signature or b""),
            up_to_atomic=row.charged_total_atomic,
            settled_atomic=row.settled_atomic,
            failures=row.settle_failures,
            on_chain=row.slot > 0,
        )
        for row in claimed[:limit]
    ]


def store_settlement(
    *, channels: Sequence[DueChannel], raw_transaction: bytes, signature: str, last_valid_block_height: int
) -> int:
    """Store one signed transaction over `channels` of one vendor and mark them as under way; returns its id.

    Call it in the transaction that claimed the channels; send only after that has committed. Raises
    `IntegrityError` if one of the channels is under way already.
    """
    (vendor,) = {channel.vendor for channel in channels}
    with transaction.atomic():
        settlement = Settlement.objects.create(
            vendor=vendor,
            signature=signature,
            raw_transaction=raw_transaction,
            last_valid_block_height=last_valid_block_height,
            channel_count=len(channels),
            planned_atomic=sum(channel.payable_atomic for channel in channels),
        )
        SettlementItem.objects.bulk_create(
            SettlementItem(
                settlement=settlement,
                channel_id=channel.address,
                cumulative_atomic=channel.cumulative_atomic,
                context=channel.context,
                signature=channel.signature,
                up_to_atomic=channel.up_to_atomic,
                settled_before_atomic=channel.settled_atomic,
            )
            for channel in channels
        )
        addresses = [channel.address for channel in channels]
        marked = Channel.objects.filter(address__in=addresses, in_flight=None).update(in_flight=settlement)
        if marked != len(channels):
            raise IntegrityError("a channel of this settlement is under way already")
    return settlement.id


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


def begin_send(settlement_id: int, *, send_count: int) -> bool:
    """Record that the stored bytes are about to be sent, for the first time (`send_count` 0) or again; commit
    before sending.

    `send_count` is how many sends the caller knows of. False if another worker has begun one since, or the
    outcome is known: then do not send.
    """
    return bool(
        _in(settlement_id, State.PENDING, State.SENT, State.UNKNOWN)
        .filter(send_count=send_count)
        .update(state=State.SENT, sent_at=Coalesce("sent_at", Now()), send_count=send_count + 1)
    )


def mark_unknown(settlement_id: int, *, error: str) -> bool:
    """A send ended without an answer: the bytes may or may not have arrived."""
    return bool(_in(settlement_id, State.SENT).update(state=State.UNKNOWN, error=error[:200]))


def mark_confirmed(settlement_id: int, *, slot: int) -> bool:
    """The transaction is in a confirmed block and succeeded."""
    return bool(
        _in(settlement_id, State.PENDING, State.SENT, State.UNKNOWN).update(
            state=State.CONFIRMED, slot=slot, confirmed_at=Now(), error=""
        )
    )


def mark_finalized(settlement_id: int, *, slot: int) -> bool:
    """The transaction is final and succeeded. Its channels stay under way until `apply_chain_snapshot` has
    seen a slot that contains it, so that what it paid is never planned again."""
    return bool(
        _in(settlement_id, *OPEN_STATES).update(
            state=State.FINALIZED,
            slot=slot,
            confirmed_at=Coalesce("confirmed_at", Now()),
            ended_at=Now(),
            error="",
        )
    )


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


def release(channels: Sequence[Channel], *, progressed: bool) -> None:
    """Let locked channels be planned again: at once if their settlement paid something, else after a growing delay."""
    now = timezone.now()
    for channel in channels:
        channel.in_flight = None
        channel.settle_failures = 0 if progressed else min(channel.settle_failures + 1, 1000)
        delay = min(_BACKOFF_FIRST * 2 ** min(channel.settle_failures - 1, 20), _BACKOFF_LIMIT)
        channel.settle_after = None if progressed else now + delay
    Channel.objects.bulk_update(channels, ["in_flight", "settle_failures", "settle_after"])


def _in(settlement_id: int, *states: Settlement.State) -> QuerySet[Settlement]:
    return Settlement.objects.filter(id=settlement_id, state__in=states)
