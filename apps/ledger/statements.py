"""An account's history with its running balance, page by page, in either direction.

A cursor is the version that each of the account's rows was read to. Rows' versions have no gaps and only grow, so no
entry is skipped or told twice, whatever is posted between two pages.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final, NamedTuple

from django.db import connection

from apps.core.errors import DomainError
from apps.ledger.chart import SHARDS, TransferKind
from apps.ledger.models import Account, Entry
from apps.ledger.types import AccountRef

LINES_MAX: Final = 500
_CURSOR: Final = re.compile(r"[0-9]{1,2}:[0-9]{1,18}(\.[0-9]{1,2}:[0-9]{1,18}){0,15}")
# One statement for all of an account's rows: what it sees of a transfer between two of them is both halves.
_BEYOND: Final = """
SELECT p.shard, e.account_version, e.transfer_id, e.amount_atomic, t.key, t.kind, t.created_at
FROM unnest(%s::bigint[], %s::smallint[], %s::bigint[]) AS p (account_id, shard, version)
CROSS JOIN LATERAL (
    SELECT * FROM ledger_entry e WHERE e.account_id = p.account_id AND e.account_version {beyond} p.version
    ORDER BY e.account_version {direction} LIMIT %s
) e
JOIN ledger_transfer t ON t.id = e.transfer_id
ORDER BY e.transfer_id {direction}, e.account_version {direction}
"""
_FORWARD: Final = _BEYOND.format(beyond=">", direction="ASC")
_BACK: Final = _BEYOND.format(beyond="<=", direction="DESC")


class InvalidCursor(DomainError):
    code = "invalid_cursor"
    status = 400


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One transfer's part of an account. `balance_atomic` is the account's balance after it; `cursor` continues behind
    this line."""

    transfer_id: int
    key: str
    kind: str
    amount_atomic: int
    balance_atomic: int
    posted_at: datetime
    cursor: str


class _Entry(NamedTuple):
    shard: int
    version: int
    transfer_id: int
    amount: int
    key: str
    kind: str
    posted_at: datetime


def statement(
    account: AccountRef, *, after: str = "", limit: int = 100, newest_first: bool = False
) -> list[StatementLine]:
    """At most `limit` lines: from the account's first on, or from its last back. `after` is the `cursor` of the last
    line of the page before; an empty page is the end. Raises `InvalidCursor`."""
    limit = max(1, min(limit, LINES_MAX))
    rows = {row.shard: row for row in Account.objects.filter(**account._asdict())}
    reached = _read(after)
    # Backwards, a row that has appeared since the first page is newer than all of it.
    start = {shard: row.version if newest_first and not after else 0 for shard, row in rows.items()}
    position = {shard: reached.get(shard, start[shard]) for shard in sorted(rows)}
    running = sum(_balance_at(row, position[shard]) for shard, row in rows.items())
    lines: list[StatementLine] = []
    while len(lines) < limit and (entries := _beyond(rows, position, limit, newest_first)):
        for transfer_id, group in groupby(entries, key=lambda entry: entry.transfer_id):
            part = list(group)
            position |= {entry.shard: entry.version - newest_first for entry in part}
            if part[0].kind == TransferKind.FOLD:
                # Between rows of this account: no line of its history.
                continue
            amount = sum(entry.amount for entry in part)
            balance = running if newest_first else running + amount
            running += -amount if newest_first else amount
            lines.append(
                StatementLine(
                    transfer_id=transfer_id,
                    key=part[0].key,
                    kind=part[0].kind,
                    amount_atomic=amount,
                    balance_atomic=balance,
                    posted_at=part[0].posted_at,
                    cursor=".".join(f"{shard}:{version}" for shard, version in position.items()),
                )
            )
            if len(lines) == limit:
                break
    return lines


def _beyond(
    rows: dict[int, Account], position: dict[int, int], limit: int, newest_first: bool
) -> list[_Entry]:
    """What comes next, in order. Transfers are numbered while their accounts are locked, so the order of the numbers
    is that of each row's versions."""
    shards = list(rows)
    most = limit + SHARDS
    columns = [[rows[shard].id for shard in shards], shards, [position[shard] for shard in shards]]
    with connection.cursor() as cursor:
        cursor.execute(_BACK if newest_first else _FORWARD, [*columns, most])
        entries = [_Entry._make((*row[:3], int(row[3]), *row[4:])) for row in cursor.fetchall()]
    # A row of which not everything was read ends the page where its reading ended.
    read: dict[int, list[int]] = {}
    for entry in entries:
        read.setdefault(entry.shard, []).append(entry.transfer_id)
    ends = [ids[-1] for ids in read.values() if len(ids) == most]
    if not ends:
        return entries
    if newest_first:
        return [entry for entry in entries if entry.transfer_id >= max(ends)]
    return [entry for entry in entries if entry.transfer_id <= min(ends)]


def _balance_at(row: Account, version: int) -> int:
    if version == row.version:
        return row.balance_atomic
    if version == 0:
        return 0
    entry = Entry.objects.filter(account_id=row.id, account_version=version).first()
    if entry is None:
        raise InvalidCursor("this cursor is of another account")
    return entry.balance_atomic


def _read(cursor: str) -> dict[int, int]:
    """The version that each shard was read to."""
    if not cursor:
        return {}
    if not _CURSOR.fullmatch(cursor):
        raise InvalidCursor("a cursor is what the last line of the page before carries")
    pairs = (part.split(":") for part in cursor.split("."))
    return {int(shard): int(version) for shard, version in pairs}
