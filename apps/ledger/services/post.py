"""Posting transfers: in bulk, with a number of SQL statements that does not depend on how many.

Inside the caller's transaction: create missing accounts, lock all accounts in id order, look the keys up,
compute the running balances, and write balances, transfers and entries with one statement, at whose end the
database checks all of it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import IntegrityError, connection
from django.db.backends.utils import CursorWrapper
from psycopg import errors as pg

from apps.core.arrays import binaries, integers, texts
from apps.ledger.chart import TransferKind
from apps.ledger.errors import HoldResolved, IdempotencyConflict, InvalidTransfer
from apps.ledger.services.accounts import Accounts, Balance, lock_accounts, require_transaction
from apps.ledger.services.open_holds import OpenHold, open_holds
from apps.ledger.types import AccountRef, Leg, Posted, Transfer

_STORED: Final = "SELECT id, key, input_hash FROM ledger_transfer WHERE key = ANY(%s::text[])"
# Entries and holds name their transfer by its place in the batch.
_WRITE: Final = """
WITH numbered AS MATERIALIZED (
    SELECT nextval('ledger_transfer_id_seq') AS id, n.*
    FROM unnest(%s::text[], %s::text[], %s::bytea[], %s::smallint[]) WITH ORDINALITY
        AS n (key, kind, input_hash, entry_count, place)
), moved AS (
    UPDATE ledger_account a SET balance_atomic = n.balance, held_atomic = n.held, version = n.version
    FROM unnest(%s::bigint[], %s::numeric[], %s::numeric[], %s::bigint[]) AS n (id, balance, held, version)
    WHERE a.id = n.id
), written AS (
    INSERT INTO ledger_transfer (id, key, kind, input_hash, entry_count)
    SELECT id, key, kind, input_hash, entry_count FROM numbered
), entered AS (
    INSERT INTO ledger_entry
        (transfer_id, account_id, account_version, amount_atomic, previous_atomic, balance_atomic)
    SELECT numbered.id, n.account_id, n.version, n.amount, n.balance - n.amount, n.balance
    FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::numeric[], %s::numeric[])
        AS n (place, account_id, version, amount, balance)
    JOIN numbered USING (place)
){resolving}
SELECT id FROM numbered ORDER BY place
"""
_RESOLVING: Final = """, resolved AS (
    UPDATE ledger_hold h
    SET state = 'POSTED', posted_atomic = n.posted, transfer_id = numbered.id, resolved_at = now()
    FROM unnest(%s::bigint[], %s::bigint[], %s::numeric[]) AS n (place, id, posted)
    JOIN numbered USING (place)
    WHERE h.id = n.id
)"""
_WRITE_PLAIN: Final = _WRITE.format(resolving="")
_WRITE_RESOLVING: Final = _WRITE.format(resolving=_RESOLVING)


def post(transfers: Sequence[Transfer]) -> list[Posted]:
    """Store `transfers` in order, all or none, and return them in that order.

    A key that is stored already with the same content is returned as it is (`replayed=True`) and moves
    nothing; accounts that do not exist yet begin at zero. A transfer that names a hold resolves it. Must run inside
    the caller's transaction, whose other writes then commit with it, and takes row locks on the accounts in id order:
    lock nothing that another caller locks before calling `post`.

    Raises `InvalidTransfer`, `IdempotencyConflict`, `InsufficientFunds`, `HoldNotFound`, `HoldResolved`; after any of
    them roll the transaction back.
    """
    require_transaction()
    wanted = _distinct(transfers)
    if not wanted:
        return []
    with connection.cursor() as cursor:
        accounts = lock_accounts(cursor, _sides(transfers))
        cursor.execute(_STORED, [texts(wanted)])
        stored: dict[str, Posted] = {}
        for id_, key, input_hash in cursor.fetchall():
            if bytes(input_hash) != wanted[key].hash:
                raise IdempotencyConflict(f"transfer {key} is stored with other content")
            stored[key] = Posted(id_, key, replayed=True)
        new = [each for key, each in wanted.items() if key not in stored]
        if new:
            stored.update(_write(cursor, new, accounts))
    return [stored[transfer.key] for transfer in transfers]


@dataclass(frozen=True, slots=True)
class _Checked:
    """A transfer that is well formed, and its hash, which is dear enough to be computed once."""

    transfer: Transfer
    hash: bytes


def _distinct(transfers: Sequence[Transfer]) -> dict[str, _Checked]:
    """The transfers by key, each checked on its own."""
    wanted: dict[str, _Checked] = {}
    for transfer in transfers:
        legs = transfer.legs
        if len(legs) < 2 or len({leg.account for leg in legs}) != len(legs):
            raise InvalidTransfer(f"{transfer.key}: a transfer has two or more legs, one per account")
        if sum(leg.amount_atomic for leg in legs) or not all(leg.amount_atomic for leg in legs):
            raise InvalidTransfer(f"{transfer.key}: the legs do not sum to zero, or one of them is zero")
        first = legs[0].account
        if any(leg.account[3:] != first[3:] for leg in legs):
            raise InvalidTransfer(f"{transfer.key}: the legs are of several currencies or books")
        checked = _Checked(transfer, transfer.input_hash)
        if wanted.setdefault(transfer.key, checked).hash != checked.hash:
            raise IdempotencyConflict(f"transfer {transfer.key} is given twice with different content")
    return wanted


def _sides(transfers: Sequence[Transfer]) -> Mapping[AccountRef, tuple[bool, bool]]:
    """Which accounts are credited, and which are debited."""
    credited = {leg.account for transfer in transfers for leg in transfer.legs if leg.amount_atomic > 0}
    debited = {leg.account for transfer in transfers for leg in transfer.legs if leg.amount_atomic < 0}
    return {account: (account in credited, account in debited) for account in credited | debited}


@dataclass(slots=True)
class Rows:
    """What the statement writes. Entries and holds come before the header of their transfer is added, and name it by
    its place, from 1."""

    headers: list[tuple[str, str, bytes, int]] = field(default_factory=list)
    entries: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    resolved: list[tuple[int, int, int]] = field(default_factory=list)
    touched: dict[int, Balance] = field(default_factory=dict)

    @property
    def place(self) -> int:
        return len(self.headers) + 1

    def enter(self, place: int, row: Balance, amount: int) -> None:
        row.apply(amount)
        self.touched[row.id] = row
        self.entries.append((place, row.id, row.version, amount, row.balance))


def _write(cursor: CursorWrapper, new: Sequence[_Checked], accounts: Accounts) -> dict[str, Posted]:
    holds = open_holds(cursor, [each.transfer.hold for each in new if each.transfer.hold])
    credit, debit = accounts.credit, accounts.debit
    rows = Rows()
    for each in new:
        transfer = each.transfer
        released = _release(transfer, holds.pop(transfer.hold, None), accounts) if transfer.hold else None
        for leg in transfer.legs:
            row = debit.get(leg.account)
            if (
                leg.amount_atomic < 0
                and leg.account in accounts.others
                and row is not None
                and row.spendable + leg.amount_atomic < 0
            ):
                fold(rows, row, accounts.others[leg.account])
        place = rows.place
        if released is not None:
            rows.resolved.append((place, *released))
        for leg in transfer.legs:
            amount = leg.amount_atomic
            rows.enter(place, credit[leg.account] if amount > 0 else debit[leg.account], amount)
        rows.headers.append((transfer.key, transfer.kind, each.hash, len(transfer.legs)))
    written = write_rows(cursor, rows)
    return {
        each.transfer.key: Posted(written[each.transfer.key], each.transfer.key, replayed=False)
        for each in new
    }


def _release(transfer: Transfer, hold: OpenHold | None, accounts: Accounts) -> tuple[int, int]:
    """Give back what was held, so that the transfer can take its part of it: the hold's id and that part."""
    if hold is None:
        raise HoldResolved(f"hold {transfer.hold} resolves once, by one transfer")
    for leg in transfer.legs:
        row = accounts.debit.get(leg.account)
        if row is not None and row.id == hold.account_id and leg.amount_atomic < 0:
            if -leg.amount_atomic > hold.amount_atomic:
                raise InvalidTransfer(f"{transfer.key}: takes more than hold {transfer.hold} has")
            row.held -= hold.amount_atomic
            return hold.id, -leg.amount_atomic
    raise InvalidTransfer(f"{transfer.key}: does not debit the account of hold {transfer.hold}")


def fold(rows: Rows, main: Balance, others: Sequence[Balance]) -> None:
    """Move what the other shards of an account have into its first one, by a transfer of its own."""
    full = [(row, row.spendable) for row in others if row.spendable > 0]
    if not full:
        return
    # A row is at each version once, so the key is nobody else's.
    key, total = f"fold:{main.id}:{main.version + 1}", sum(amount for _, amount in full)
    place = rows.place
    for row, amount in full:
        rows.enter(place, row, -amount)
    rows.enter(place, main, total)
    moved = Transfer(key, TransferKind.FOLD, (Leg(main.ref, total),))
    rows.headers.append((key, TransferKind.FOLD, moved.input_hash, len(full) + 1))


def write_rows(cursor: CursorWrapper, rows: Rows) -> dict[str, int]:
    """The one statement; returns the transfers' ids by key. Raises `IdempotencyConflict` if somebody else has stored
    one of the keys meanwhile."""
    touched = rows.touched.values()
    columns = [
        *_columns(rows.headers, texts, texts, binaries, integers),
        integers([row.id for row in touched]),
        integers([row.balance for row in touched]),
        integers([row.held for row in touched]),
        integers([row.version for row in touched]),
        *_columns(rows.entries, *[integers] * 5),
    ]
    if rows.resolved:
        columns += _columns(rows.resolved, integers, integers, integers)
    try:
        cursor.execute(_WRITE_RESOLVING if rows.resolved else _WRITE_PLAIN, columns)
    except IntegrityError as error:
        if isinstance(error.__cause__, pg.UniqueViolation):
            # Same content means same accounts, and those are locked: whoever stored this key meanwhile moved others.
            raise IdempotencyConflict(
                "a transfer with one of these keys was stored with other content"
            ) from error
        raise
    return {header[0]: id_ for header, (id_,) in zip(rows.headers, cursor.fetchall(), strict=True)}


def _columns(rows: Sequence[tuple[Any, ...]], *forms: Callable[[Iterable[Any]], str]) -> list[str]:
    return [form(column) for form, column in zip(forms, zip(*rows, strict=True), strict=True)]
