"""Setting money aside: reserve, void, expire. Posting is a transfer that names its hold (`services.post`).

What is held can be neither spent nor held again; a hold resolves once. All of it runs inside the caller's transaction
and takes the same locks in the same order as `post`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from django.db import IntegrityError, connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg import errors as pg

from apps.ledger.errors import HoldNotFound, HoldResolved, IdempotencyConflict, InvalidTransfer
from apps.ledger.services.accounts import Accounts, lock_accounts, require_transaction
from apps.ledger.services.post import Rows, fold, write_rows
from apps.ledger.types import Held, Hold

_STORED: Final = "SELECT id, key, input_hash, state FROM ledger_hold WHERE key = ANY(%s)"
_RESERVE: Final = """
WITH moved AS (
    UPDATE ledger_account a SET held_atomic = n.held
    FROM unnest(%s::bigint[], %s::numeric[]) AS n (id, held)
    WHERE a.id = n.id
)
INSERT INTO ledger_hold (key, input_hash, account_id, amount_atomic, expires_at)
SELECT n.key, n.input_hash, n.account_id, n.amount, n.expires_at
FROM unnest(%s::text[], %s::bytea[], %s::bigint[], %s::numeric[], %s::timestamptz[])
    AS n (key, input_hash, account_id, amount, expires_at)
RETURNING id, key
"""
# The accounts first and in id order, as everybody locks them; then what became of the holds meanwhile.
_LOCK_ACCOUNTS_OF: Final = """
SELECT a.id FROM ledger_account a
WHERE a.id IN (SELECT h.account_id FROM ledger_hold h WHERE h.key = ANY(%s))
ORDER BY a.id FOR NO KEY UPDATE OF a
"""
_RESOLVE: Final = """
WITH resolved AS (
    UPDATE ledger_hold h SET state = %s, resolved_at = now()
    WHERE h.key = ANY(%s) AND h.state = 'OPEN'
    RETURNING h.key, h.account_id, h.amount_atomic
), moved AS (
    UPDATE ledger_account a SET held_atomic = a.held_atomic - r.amount
    FROM (SELECT account_id, sum(amount_atomic) AS amount FROM resolved GROUP BY account_id) r
    WHERE a.id = r.account_id
)
SELECT key FROM resolved
"""
_DUE: Final = """
SELECT key FROM ledger_hold WHERE state = 'OPEN' AND expires_at <= %s ORDER BY expires_at, id LIMIT %s
"""


def reserve(holds: Sequence[Hold]) -> list[Held]:
    """Set aside what `holds` name, all or none, in order.

    A key that is stored already with the same content is returned as it is, whatever became of it. Raises
    `InvalidTransfer`, `IdempotencyConflict`, `InsufficientFunds`; after any of them roll the transaction back.
    """
    require_transaction()
    wanted = _distinct(holds)
    if not wanted:
        return []
    with connection.cursor() as cursor:
        accounts = lock_accounts(cursor, {hold.account: (False, True) for hold in wanted.values()})
        cursor.execute(_STORED, [list(wanted)])
        stored: dict[str, Held] = {}
        for id_, key, input_hash, state in cursor.fetchall():
            if bytes(input_hash) != wanted[key].input_hash:
                raise IdempotencyConflict(f"hold {key} is stored with other content")
            stored[key] = Held(id_, key, state, replayed=True)
        new = [hold for key, hold in wanted.items() if key not in stored]
        if new:
            stored.update(_write(cursor, new, accounts))
    return [stored[hold.key] for hold in holds]


def void(keys: Sequence[str]) -> None:
    """Give back what the holds set aside. Voiding a voided hold changes nothing; after `HoldNotFound` or `HoldResolved`
    (posted, or expired) roll the transaction back."""
    require_transaction()
    with connection.cursor() as cursor:
        voided = _resolve(cursor, keys, "VOIDED")
        rest = [key for key in keys if key not in voided]
        if not rest:
            return
        cursor.execute(_STORED, [rest])
        states = {key: state for _, key, _, state in cursor.fetchall()}
    for key in rest:
        if key not in states:
            raise HoldNotFound(f"there is no hold {key}")
        if states[key] != "VOIDED":
            raise HoldResolved(f"hold {key} is {states[key].lower()}")


def expire(*, now: datetime, limit: int = 500) -> int:
    """End the holds whose time is over, at most `limit` of them; returns how many. Several workers may run it."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_DUE, [now, limit])
        return len(_resolve(cursor, [key for (key,) in cursor.fetchall()], "EXPIRED"))


def _distinct(holds: Sequence[Hold]) -> dict[str, Hold]:
    wanted: dict[str, Hold] = {}
    for hold in holds:
        if hold.amount_atomic <= 0:
            raise InvalidTransfer(f"{hold.key}: a hold sets a positive amount aside")
        if wanted.setdefault(hold.key, hold).input_hash != hold.input_hash:
            raise IdempotencyConflict(f"hold {hold.key} is given twice with different content")
    return wanted


def _write(cursor: CursorWrapper, new: Sequence[Hold], accounts: Accounts) -> dict[str, Held]:
    folded = Rows()
    for hold in new:
        row = accounts.debit[hold.account]
        if row.spendable < hold.amount_atomic and hold.account in accounts.others:
            fold(folded, row, accounts.others[hold.account])
    if folded.headers:
        write_rows(cursor, folded)
    rows = []
    for hold in new:
        row = accounts.debit[hold.account]
        row.hold(hold.amount_atomic)
        rows.append((hold.key, hold.input_hash, row.id, hold.amount_atomic, hold.expires_at))
    touched = {accounts.debit[hold.account].id: accounts.debit[hold.account].held for hold in new}
    columns = [list(column) for table in (touched.items(), rows) for column in zip(*table, strict=True)]
    try:
        cursor.execute(_RESERVE, columns)
    except IntegrityError as error:
        if isinstance(error.__cause__, pg.UniqueViolation):
            raise IdempotencyConflict(
                "a hold with one of these keys was stored with other content"
            ) from error
        raise
    return {key: Held(id_, key, "OPEN", replayed=False) for id_, key in cursor.fetchall()}


def _resolve(cursor: CursorWrapper, keys: Sequence[str], state: str) -> set[str]:
    """Resolve those of `keys` that are open; returns which."""
    if not keys:
        return set()
    cursor.execute(_LOCK_ACCOUNTS_OF, [list(keys)])
    cursor.execute(_RESOLVE, [state, list(keys)])
    return {key for (key,) in cursor.fetchall()}
