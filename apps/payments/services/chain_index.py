"""The index of the program's events as rows: what is stored, what waits, and how far it reaches.

Recon reads the chain and hands in what it found; storing it again changes nothing. Nothing here moves money.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from django.db import transaction
from django.db.models import Case, F, Max, Min, Value, When
from django.db.models.functions import Greatest, Now
from solders.pubkey import Pubkey

from apps.payments.models import ChainEvent, ChainIndex, ChainTransaction
from machpay.chain import events as program_events
from machpay.chain.client import SignatureSeen
from machpay.chain.traces import Recorded

State = ChainTransaction.State
_ZERO_KEY: Final = str(Pubkey(bytes(32)))


@dataclass(frozen=True, slots=True)
class IndexedEvent:
    """One stored event. `data` has the event's fields: keys and amounts as strings, other numbers as they are."""

    signature: str
    slot: int
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReadTransaction:
    """A transaction with what it recorded, as the chain showed it."""

    seen: SignatureSeen
    events: Sequence[Recorded]


def position() -> ChainIndex:
    """How far the index reaches; a copy."""
    ChainIndex.objects.bulk_create([ChainIndex()], ignore_conflicts=True)
    return ChainIndex.objects.get()


def newest_known_slot(*, below: int) -> int | None:
    """The slot of the newest stored transaction at or below slot `below`: a complete listing has to meet it."""
    found: int | None = ChainTransaction.objects.filter(slot__lte=below).aggregate(newest=Max("slot"))[
        "newest"
    ]
    return found


def not_read(signatures: Iterable[str]) -> set[str]:
    """Those of `signatures` whose events are not stored yet."""
    wanted = set(signatures)
    read = ChainTransaction.objects.filter(signature__in=wanted, state__in=[State.READ, State.APPLIED])
    return wanted - set(read.values_list("signature", flat=True))


def waiting(*, limit: int) -> list[SignatureSeen]:
    """Transactions that were listed and not shown, the least often asked for first."""
    rows = ChainTransaction.objects.filter(state=State.LISTED).order_by("attempts", "slot")[:limit]
    return [SignatureSeen(row.signature, row.slot, row.block_time, failed=False) for row in rows]


def store(read: Sequence[ReadTransaction]) -> int:
    """Store transactions with their events; returns how many events are new."""
    if not read:
        return 0
    with transaction.atomic():
        # What a whole snapshot has seen is taken over already.
        snapshot_slot = position().snapshot_slot
        signatures = [each.seen.signature for each in read]
        _insert([each.seen for each in read], State.LISTED)
        # Of several workers one takes a row on; the others write the same events, which the unique key leaves out.
        waiting_ones = ChainTransaction.objects.filter(
            signature__in=signatures, state__in=[State.LISTED, State.UNREADABLE]
        )
        # In one order, so that workers wait for each other instead of failing.
        list(waiting_ones.order_by("signature").select_for_update().values_list("signature"))
        waiting_ones.filter(slot__lte=snapshot_slot).update(state=State.APPLIED, error="")
        waiting_ones.update(state=State.READ, error="")
        rows = [row for each in read for row in _rows(each)]
        before = ChainEvent.objects.filter(transaction__in=signatures).count()
        ChainEvent.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)
        return ChainEvent.objects.filter(transaction__in=signatures).count() - before


def store_listed(seen: Sequence[SignatureSeen]) -> None:
    """Remember transactions to be read later; `waiting` names them until they are."""
    _insert(seen, State.LISTED)


def store_missing(seen: Sequence[SignatureSeen]) -> None:
    """Remember transactions that the server listed and did not show; `waiting` names them until it does."""
    _insert(seen, State.LISTED)
    ChainTransaction.objects.filter(
        signature__in=[each.signature for each in seen], state=State.LISTED
    ).update(attempts=F("attempts") + 1)


def store_unreadable(seen: SignatureSeen, *, error: str) -> None:
    """Remember a transaction that was shown and not understood: all accounts have to be read instead."""
    with transaction.atomic():
        _insert([seen], State.UNREADABLE)
        ChainTransaction.objects.filter(signature=seen.signature, state=State.LISTED).update(
            state=State.UNREADABLE, error=error[:200]
        )
        want_snapshot(f"transaction {seen.signature} cannot be read", slot=seen.slot)


def advance(slot: int) -> None:
    """Everything up to finalised `slot` has been listed. The index never goes back."""
    position()
    ChainIndex.objects.update(slot=Greatest(F("slot"), slot), updated_at=Now())


def want_snapshot(reason: str, *, slot: int) -> None:
    """Have all accounts read by the next sync, as of `slot` or later, because the index may lack something. Nothing if
    that was done: several looks meet the same transaction."""
    position()
    ChainIndex.objects.filter(snapshot_slot__lt=slot).update(
        snapshot_wanted=reason[:200], snapshot_wanted_slot=Greatest(F("snapshot_wanted_slot"), slot)
    )


def snapshot_taken(slot: int) -> None:
    """All accounts were taken over as of `slot`, inside the caller's transaction. What another worker wants read at a
    later slot is wanted still."""
    position()
    answered = When(snapshot_wanted_slot__lte=slot, then=Value(""))
    ChainIndex.objects.update(
        snapshot_slot=Greatest(F("snapshot_slot"), slot),
        snapshot_wanted=Case(answered, default=F("snapshot_wanted")),
    )


def unapplied() -> list[str]:
    """Signatures of transactions whose effects are not taken over yet, the oldest first."""
    rows = ChainTransaction.objects.filter(state=State.READ).order_by("slot", "signature")
    return list(rows.values_list("signature", flat=True))


def events_of(signatures: Collection[str]) -> list[IndexedEvent]:
    """The stored events of these transactions, the oldest first."""
    rows = ChainEvent.objects.filter(transaction__in=signatures).order_by("slot", "id")
    return [IndexedEvent(row.transaction_id, row.slot, row.kind, row.data) for row in rows]


def slots_of(signatures: Collection[str]) -> list[int]:
    """The slots of these transactions."""
    return list(ChainTransaction.objects.filter(signature__in=signatures).values_list("slot", flat=True))


def least_asked_missing() -> int | None:
    """How often the transaction that was asked for the least of those that are listed, not shown, and newer than the
    last whole snapshot, was asked for. None if nothing is missing: what events touched is then all that moved."""
    newer = ChainTransaction.objects.filter(state=State.LISTED, slot__gt=position().snapshot_slot)
    found: int | None = newer.aggregate(least=Min("attempts"))["least"]
    return found


def mark_applied(signatures: Collection[str]) -> None:
    """Their effects are in mirrors and ledger, inside the caller's transaction."""
    if signatures:
        ChainTransaction.objects.filter(signature__in=signatures, state=State.READ).update(
            state=State.APPLIED
        )


def mark_applied_through(slot: int) -> None:
    """As `mark_applied`, for everything that is stored up to `slot`."""
    ChainTransaction.objects.filter(slot__lte=slot, state=State.READ).update(state=State.APPLIED)


def differing(read: ReadTransaction) -> bool:
    """Whether the stored events of a transaction are not those that the chain shows (now)."""
    stored = ChainEvent.objects.filter(transaction=read.seen.signature).order_by("instruction", "position")
    shown = _rows(read)
    return [(row.instruction, row.position, row.kind, row.data) for row in stored] != [
        (row.instruction, row.position, row.kind, row.data) for row in shown
    ]


def _insert(seen: Sequence[SignatureSeen], state: ChainTransaction.State) -> None:
    rows = [
        ChainTransaction(signature=each.signature, slot=each.slot, block_time=each.block_time, state=state)
        for each in sorted(seen, key=lambda each: each.signature)
    ]
    ChainTransaction.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)


def _rows(read: ReadTransaction) -> list[ChainEvent]:
    rows, positions = [], dict[int, int]()
    for recorded in read.events:
        position_ = positions.get(recorded.instruction, 0)
        positions[recorded.instruction] = position_ + 1
        rows.append(
            ChainEvent(
                transaction_id=read.seen.signature,
                instruction=recorded.instruction,
                position=position_,
                slot=read.seen.slot,
                kind=type(recorded.event).__name__,
                keys=sorted(_keys(recorded.event)),
                data=_plain(recorded.event),
            )
        )
    return rows


def _plain(event: Any) -> dict[str, Any]:
    """An event's fields as JSON holds them."""
    # mypy takes a class whose instances may not be hashed for one that cannot be either.
    described = program_events.fields(type(event))  # type: ignore[arg-type]
    return {name: _value(getattr(event, name), type_) for name, type_ in described}


def _value(value: Any, kind: str | type) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Pubkey) or kind == "u64":
        return str(value)
    if isinstance(value, str):
        # Strangers choose it, and PostgreSQL's JSON has no zero character.
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return value.hex() if isinstance(value, bytes) else value


def _keys(event: Any) -> set[str]:
    found = set()
    for field in fields(event):
        value = getattr(event, field.name)
        if isinstance(value, Pubkey):
            found.add(str(value))
        elif isinstance(value, tuple):
            for each in value:
                found |= _keys(each) if is_dataclass(each) else set()
    return found - {_ZERO_KEY}
