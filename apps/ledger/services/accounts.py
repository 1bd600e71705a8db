"""Locked account rows, and what may be taken from them. Shared by `post` and the holds; the lock order is here.

Accounts are created in the order of their names and locked in id order, which every caller keeps. Locking a sharded
account for a debit takes all its shards, for a credit only the connection's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.transaction import TransactionManagementError

from apps.core.arrays import integers, texts
from apps.ledger.chart import MAY_BE_NEGATIVE, SHARDED, SHARDS
from apps.ledger.errors import InsufficientFunds
from apps.ledger.types import AccountRef

_CREATE: Final = """
INSERT INTO ledger_account (kind, owner, sub, currency, book, shard, balance_atomic, version)
SELECT n.kind, n.owner, n.sub, n.currency, n.book, n.shard, 0, 0
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::smallint[])
    AS n (kind, owner, sub, currency, book, shard)
WHERE NOT EXISTS (
    SELECT FROM ledger_account a
    WHERE (a.owner, a.kind, a.sub, a.currency, a.book, a.shard)
        = (n.owner, n.kind, n.sub, n.currency, n.book, n.shard)
)
ON CONFLICT DO NOTHING
"""
_LOCK: Final = """
SELECT a.id, a.kind, a.owner, a.sub, a.currency, a.book, a.shard, a.balance_atomic, a.held_atomic, a.version
FROM ledger_account a
JOIN unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::smallint[], %s::smallint[])
    AS n (kind, owner, sub, currency, book, first, last)
    ON (a.owner, a.kind, a.sub, a.currency, a.book) = (n.owner, n.kind, n.sub, n.currency, n.book)
    AND a.shard BETWEEN n.first AND n.last
ORDER BY a.id
FOR NO KEY UPDATE OF a
"""


class Balance:
    """A locked row while transfers and holds are applied to it."""

    __slots__ = ("balance", "held", "id", "may_be_negative", "ref", "version")

    def __init__(self, id_: int, ref: AccountRef, balance: int, held: int, version: int) -> None:
        self.id, self.ref, self.balance, self.held, self.version = id_, ref, balance, held, version
        self.may_be_negative = ref.kind in MAY_BE_NEGATIVE

    @property
    def spendable(self) -> int:
        return self.balance - self.held

    def apply(self, amount: int) -> None:
        """Add one entry. Raises `InsufficientFunds`."""
        self.balance += amount
        self.version += 1
        if amount < 0 and self.balance < self.held and not self.may_be_negative:
            raise InsufficientFunds(
                f"{self.ref.kind} of {self.ref.owner} would have {self.spendable} atomic units to spend"
            )

    def hold(self, amount: int) -> None:
        """Set `amount` aside. Raises `InsufficientFunds`."""
        if amount > self.spendable:
            raise InsufficientFunds(
                f"{self.ref.kind} of {self.ref.owner} has {self.spendable} atomic units to spend"
            )
        self.held += amount


@dataclass(slots=True)
class Accounts:
    """Locked rows: the one that a credit of an account goes to, the one that its debits and holds come from, and the
    shards that can be folded into the latter."""

    credit: dict[AccountRef, Balance] = field(default_factory=dict)
    debit: dict[AccountRef, Balance] = field(default_factory=dict)
    others: dict[AccountRef, list[Balance]] = field(default_factory=dict)


def require_transaction() -> None:
    """The reason for moving money commits with it. Raises `TransactionManagementError`."""
    if not connection.in_atomic_block:
        raise TransactionManagementError("the ledger writes inside its caller's transaction only")


def lock_accounts(cursor: CursorWrapper, wanted: Mapping[AccountRef, tuple[bool, bool]]) -> Accounts:
    """Lock every account of `wanted`, creating what is missing; per account, whether it is credited and debited."""
    own = _own_shard(cursor)
    create: list[tuple[str | int, ...]] = []
    lock: list[tuple[str | int, ...]] = []
    for ref in sorted(wanted):
        credited, debited = wanted[ref]
        if ref.kind not in SHARDED:
            create.append((*ref, 0))
            lock.append((*ref, 0, 0))
            continue
        create += [
            (*ref, shard) for shard in sorted(({own} if credited else set()) | ({0} if debited else set()))
        ]
        lock.append((*ref, 0, SHARDS - 1) if debited else (*ref, own, own))
    names = set(create)
    if not names <= _existing:
        # Creating comes before any lock and in the order of the names: callers that create the same accounts wait
        # for each other while they hold nothing else that another could want.
        cursor.execute(_CREATE, _columns(create))
    cursor.execute(_LOCK, _columns(lock))
    rows = cursor.fetchall()
    found = {row[1:7] for row in rows}
    if not names <= found:
        # Remembered from a transaction that was rolled back, or from another database.
        _existing.clear()
        cursor.execute(_CREATE, _columns(create))
        cursor.execute(_LOCK, _columns(lock))
        rows = cursor.fetchall()
    _remember(rows)
    return _arranged(rows, own)


_REMEMBERED_MAX: Final = 100_000
_existing: set[tuple[str | int, ...]] = set()
"""Names of rows that this process has seen with a history. Rows are never deleted, so they need no creating."""


def _remember(rows: Sequence[tuple[Any, ...]]) -> None:
    if len(_existing) > _REMEMBERED_MAX:
        _existing.clear()
    _existing.update(row[1:7] for row in rows if row[9])


def _columns(rows: Sequence[tuple[str | int, ...]]) -> list[str]:
    """Five columns of text, then numbers."""
    columns: list[tuple[Any, ...]] = list(zip(*rows, strict=True))
    return [*(texts(column) for column in columns[:5]), *(integers(column) for column in columns[5:])]


def _own_shard(cursor: CursorWrapper) -> int:
    """Where this connection pays in. Its server process is nobody else's, so its number spreads connections."""
    pid: int = cursor.connection.info.backend_pid
    return pid % SHARDS


def _arranged(rows: Iterable[tuple[int, str, str, str, str, str, int, int, int, int]], own: int) -> Accounts:
    accounts = Accounts()
    for id_, kind, owner, sub, currency, book, shard, balance, held, version in rows:
        ref = AccountRef(kind, owner, sub, currency, book)
        row = Balance(id_, ref, int(balance), int(held), version)
        if kind not in SHARDED:
            accounts.credit[ref] = accounts.debit[ref] = row
            continue
        if shard == own:
            accounts.credit[ref] = row
        if shard == 0:
            accounts.debit[ref] = row
        else:
            accounts.others.setdefault(ref, []).append(row)
    return accounts
