"""Posting transfers: in bulk, with a number of SQL statements that does not depend on how many.

Inside the caller's transaction: create missing accounts, lock all accounts in id order, look the keys up,
compute the running balances, and write balances, transfers and entries with one statement, at whose end the
database checks all of it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from django.db import IntegrityError, connection
from django.db.backends.utils import CursorWrapper
from django.db.transaction import TransactionManagementError
from psycopg import errors as pg

from apps.ledger.chart import MAY_BE_NEGATIVE
from apps.ledger.errors import IdempotencyConflict, InsufficientFunds, InvalidTransfer
from apps.ledger.types import AccountRef, Posted, Transfer

_CREATE_ACCOUNTS: Final = """
INSERT INTO ledger_account (kind, owner, sub, currency, balance_atomic, version)
SELECT n.kind, n.owner, n.sub, n.currency, 0, 0
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS n (kind, owner, sub, currency)
WHERE NOT EXISTS (
    SELECT FROM ledger_account a
    WHERE (a.owner, a.kind, a.sub, a.currency) = (n.owner, n.kind, n.sub, n.currency)
)
ON CONFLICT DO NOTHING
"""
_LOCK_ACCOUNTS: Final = """
SELECT a.id, a.kind, a.owner, a.sub, a.currency, a.balance_atomic, a.version
FROM ledger_account a
JOIN unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS n (kind, owner, sub, currency)
    ON (a.owner, a.kind, a.sub, a.currency) = (n.owner, n.kind, n.sub, n.currency)
ORDER BY a.id
FOR NO KEY UPDATE OF a
"""
_STORED: Final = "SELECT id, key, input_hash FROM ledger_transfer WHERE key = ANY(%s)"
_WRITE: Final = """
WITH moved AS (
    UPDATE ledger_account a SET balance_atomic = n.balance, version = n.version
    FROM unnest(%s::bigint[], %s::numeric[], %s::bigint[]) AS n (id, balance, version)
    WHERE a.id = n.id
), written AS (
    INSERT INTO ledger_transfer (key, kind, input_hash, entry_count)
    SELECT n.key, n.kind, n.input_hash, n.entry_count
    FROM unnest(%s::text[], %s::text[], %s::bytea[], %s::smallint[]) AS n (key, kind, input_hash, entry_count)
    RETURNING id, key
), entered AS (
    INSERT INTO ledger_entry
        (transfer_id, account_id, account_version, amount_atomic, previous_atomic, balance_atomic)
    SELECT written.id, n.account_id, n.version, n.amount, n.balance - n.amount, n.balance
    FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::numeric[], %s::numeric[])
        AS n (key, account_id, version, amount, balance)
    JOIN written ON written.key = n.key
)
SELECT id, key FROM written
"""


class _Balance:
    """A locked account while transfers are applied to it."""

    __slots__ = ("balance", "id", "ref", "version")

    def __init__(self, id_: int, ref: AccountRef, balance: int, version: int) -> None:
        self.id, self.ref, self.balance, self.version = id_, ref, balance, version

    def apply(self, amount: int) -> None:
        self.balance += amount
        self.version += 1
        if self.balance < 0 and self.ref.kind not in MAY_BE_NEGATIVE:
            raise InsufficientFunds(
                f"{self.ref.kind} of {self.ref.owner} would be {self.balance} atomic units"
            )


def post(transfers: Sequence[Transfer]) -> list[Posted]:
    """Store `transfers` in order, all or none, and return them in that order.

    A key that is stored already with the same content is returned as it is (`replayed=True`) and moves
    nothing; accounts that do not exist yet begin at zero. Must run inside the caller's transaction, whose
    other writes then commit with it, and takes row locks on the accounts in id order: lock nothing that
    another caller locks before calling `post`.

    Raises `InvalidTransfer`, `IdempotencyConflict`, `InsufficientFunds`; after any of them roll the transaction back.
    """
    if not connection.in_atomic_block:
        raise TransactionManagementError("apps.ledger.services.post needs the caller's transaction")
    wanted = _distinct(transfers)
    if not wanted:
        return []
    with connection.cursor() as cursor:
        accounts = _lock_accounts(cursor, wanted.values())
        cursor.execute(_STORED, [list(wanted)])
        stored: dict[str, Posted] = {}
        for id_, key, input_hash in cursor.fetchall():
            if bytes(input_hash) != wanted[key].input_hash:
                raise IdempotencyConflict(f"transfer {key} is stored with other content")
            stored[key] = Posted(id_, key, replayed=True)
        new = [transfer for key, transfer in wanted.items() if key not in stored]
        if new:
            stored.update(_write(cursor, new, accounts))
    return [stored[transfer.key] for transfer in transfers]


def _distinct(transfers: Sequence[Transfer]) -> dict[str, Transfer]:
    """The transfers by key, each checked on its own."""
    wanted: dict[str, Transfer] = {}
    for transfer in transfers:
        accounts = {leg.account for leg in transfer.legs}
        if len(transfer.legs) < 2 or len(accounts) != len(transfer.legs):
            raise InvalidTransfer(f"{transfer.key}: a transfer has two or more legs, one per account")
        if sum(leg.amount_atomic for leg in transfer.legs) or not all(
            leg.amount_atomic for leg in transfer.legs
        ):
            raise InvalidTransfer(f"{transfer.key}: the legs do not sum to zero, or one of them is zero")
        if len({account.currency for account in accounts}) != 1:
            raise InvalidTransfer(f"{transfer.key}: the legs are of several currencies")
        if wanted.setdefault(transfer.key, transfer).input_hash != transfer.input_hash:
            raise IdempotencyConflict(f"transfer {transfer.key} is given twice with different content")
    return wanted


def _lock_accounts(cursor: CursorWrapper, transfers: Iterable[Transfer]) -> dict[AccountRef, _Balance]:
    """Every account of `transfers`, created where missing and locked in id order."""
    refs = sorted({leg.account for transfer in transfers for leg in transfer.legs})
    columns = [list(column) for column in zip(*refs, strict=True)]
    # Creating comes before any lock and in the order of the names: callers that create the same accounts wait
    # for each other while they hold nothing else that another could want.
    cursor.execute(_CREATE_ACCOUNTS, columns)
    cursor.execute(_LOCK_ACCOUNTS, columns)
    rows = cursor.fetchall()
    balances = (
        _Balance(id_, AccountRef(*name), int(balance), version) for id_, *name, balance, version in rows
    )
    return {balance.ref: balance for balance in balances}


def _write(
    cursor: CursorWrapper, transfers: Sequence[Transfer], accounts: dict[AccountRef, _Balance]
) -> dict[str, Posted]:
    entries = []
    for transfer in transfers:
        for leg in transfer.legs:
            account = accounts[leg.account]
            account.apply(leg.amount_atomic)
            entries.append((transfer.key, account.id, account.version, leg.amount_atomic, account.balance))
    touched = {leg.account for transfer in transfers for leg in transfer.legs}
    moved = [(accounts[ref].id, accounts[ref].balance, accounts[ref].version) for ref in touched]
    headers = [(t.key, t.kind, t.input_hash, len(t.legs)) for t in transfers]
    columns = [list(column) for rows in (moved, headers, entries) for column in zip(*rows, strict=True)]
    try:
        cursor.execute(_WRITE, columns)
    except IntegrityError as error:
        if isinstance(error.__cause__, pg.UniqueViolation):
            # Same content means same accounts, and those are locked: whoever stored this key meanwhile moved others.
            raise IdempotencyConflict(
                "a transfer with one of these keys was stored with other content"
            ) from error
        raise
    return {key: Posted(id_, key, replayed=False) for id_, key in cursor.fetchall()}
