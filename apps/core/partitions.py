"""Range partitions by hour, day or month, created ahead of time.

An app declares `PartitionedTable`s, registers them in `AppConfig.ready()` and creates the parent with
`apps.core.partitioned_models.CreatePartitionedModel`. What exists is read from PostgreSQL's catalogue, never
assumed, and there is no DEFAULT partition: rows in one would block the creation of the partition they belong
to. All bounds are UTC.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from django.db import connection, transaction
from psycopg import sql

Period = Literal["hour", "day", "month"]
_SUFFIX: Final[dict[Period, str]] = {"hour": "%Y%m%d%H", "day": "%Y%m%d", "month": "%Y%m"}
_LOCK_NAMESPACE: Final = 0x70617274  # "part": keeps our advisory locks apart from others'


@dataclass(frozen=True, slots=True)
class PartitionedTable:
    """A table partitioned by range of a timestamp; `behind` and `ahead` count periods kept ready around now."""

    table: str
    period: Period
    ahead: int
    behind: int = 0


_registered: dict[str, PartitionedTable] = {}


def register(table: PartitionedTable) -> None:
    """Have `core.ensure_partitions` look after `table`."""
    _registered[table.table] = table


def registered() -> list[PartitionedTable]:
    return list(_registered.values())


def start_of(period: Period, moment: datetime) -> datetime:
    """The beginning of the period that holds `moment`, in UTC."""
    floor = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if period == "hour":
        return floor
    floor = floor.replace(hour=0)
    return floor if period == "day" else floor.replace(day=1)


def shift(period: Period, start: datetime, count: int) -> datetime:
    """`count` periods after (or, negative, before) the period that begins at `start`."""
    if period == "month":
        months = start.year * 12 + start.month - 1 + count
        return start.replace(year=months // 12, month=months % 12 + 1)
    return start + count * (timedelta(hours=1) if period == "hour" else timedelta(days=1))


def partition_name(table: PartitionedTable, start: datetime) -> str:
    return f"{table.table}_p{start.strftime(_SUFFIX[table.period])}"


def existing(table: str) -> set[str]:
    """Names of the attached partitions, from the catalogue."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = to_regclass(%s)",
            [f'"{table}"'],
        )
        return {name for (name,) in cursor.fetchall()}


def covered(table: PartitionedTable) -> tuple[datetime, datetime] | None:
    """From the start of the first partition to the end of the last one; None if there is none."""
    prefix = f"{table.table}_p"
    suffixes = [name.removeprefix(prefix) for name in existing(table.table) if name.startswith(prefix)]
    starts = [datetime.strptime(suffix, _SUFFIX[table.period]).replace(tzinfo=UTC) for suffix in suffixes]
    return (min(starts), shift(table.period, max(starts), 1)) if starts else None


def ensure(table: PartitionedTable, *, now: datetime | None = None) -> list[str]:
    """Create the partitions from `behind` periods before now to `ahead` after it that do not exist yet.

    Returns the names created. A new partition is built beside the parent and then attached, which does not block
    writers of the parent; processes that do this at the same time wait for each other.
    """
    current = start_of(table.period, now or datetime.now(UTC))
    wanted = [shift(table.period, current, offset) for offset in range(-table.behind, table.ahead + 1)]
    have = existing(table.table)
    if all(partition_name(table, start) in have for start in wanted):
        return []
    created = []
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK_NAMESPACE, table.table])
        have = existing(table.table)
        for start in wanted:
            name = partition_name(table, start)
            if name in have:
                continue
            names = {"child": sql.Identifier(name), "parent": sql.Identifier(table.table)}
            bounds = {
                "start": sql.Literal(start.isoformat()),
                "end": sql.Literal(shift(table.period, start, 1).isoformat()),
            }
            cursor.execute(sql.SQL("CREATE TABLE {child} (LIKE {parent} INCLUDING ALL)").format(**names))
            cursor.execute(
                sql.SQL(
                    "ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES FROM ({start}) TO ({end})"
                ).format(**names, **bounds)
            )
            created.append(name)
    return created
