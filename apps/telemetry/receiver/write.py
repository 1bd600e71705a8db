"""One batch of events -> one transaction: COPY into a staging table, insert what is new, COPY the typed rows.

Sending an event again finds its key and changes nothing, neither the raw row nor the typed one, because typed rows
are written only for keys that were new in this very transaction.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import psycopg
import structlog
from psycopg import AsyncConnection, sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from apps.telemetry.receiver.errors import StorageDown
from apps.telemetry.receiver.route import Blocked, Event, Payment

Stored = Literal["new", "duplicate", "refused"]
Connection = AsyncConnection[Any]

_KEY: Final = ("event_time", "source", "id")
_EVENT: Final = (*_KEY, "type", "subject", "data", "extensions")
_TYPED: Final[dict[type[Payment] | type[Blocked], tuple[str, tuple[str, ...]]]] = {
    Payment: ("payment_authorized", tuple(Payment.__slots__)),
    Blocked: ("request_blocked", tuple(Blocked.__slots__)),
}
_STAGING: Final = "incoming_events"
_CONNECTION_WAIT_S: Final = 2.0
_STATEMENT_TIMEOUT_MS: Final = 30_000

log = structlog.get_logger(__name__)


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _copy(table: str, columns: Sequence[str]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), _names(columns))


_COPY_EVENTS: Final = _copy(_STAGING, _EVENT)
_COPY_TYPED: Final = {kind: _copy(table, (*_KEY, *columns)) for kind, (table, columns) in _TYPED.items()}
# In key order, so that two writers which hold the same events wait for each other instead of deadlocking.
_INSERT_NEW: Final = sql.SQL(
    "INSERT INTO telemetry_events ({columns}) SELECT {columns} FROM {staging} ORDER BY {key}"
    " ON CONFLICT DO NOTHING RETURNING {key}"
).format(columns=_names(_EVENT), staging=sql.Identifier(_STAGING), key=_names(_KEY))


def create_pool(database_url: str, *, size: int) -> AsyncConnectionPool[Connection]:
    """A pool for `Writer`, not yet open. Connections are checked before use, so a restarted server costs one try."""
    return AsyncConnectionPool(
        database_url,
        connection_class=AsyncConnection[Any],
        kwargs={"options": f"-c timezone=UTC -c statement_timeout={_STATEMENT_TIMEOUT_MS}"},
        min_size=1,
        max_size=size,
        open=False,
        timeout=_CONNECTION_WAIT_S,
        check=AsyncConnectionPool.check_connection,
        configure=_create_staging,
        name="receiver",
    )


async def _create_staging(connection: Connection) -> None:
    """The temporary table that every batch passes through; it lives as long as the connection."""
    await connection.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE {} ON COMMIT DELETE ROWS AS SELECT {} FROM telemetry_events WITH NO DATA"
        ).format(sql.Identifier(_STAGING), _names(_EVENT))
    )
    await connection.commit()


class Writer:
    """Stores batches. Holds no state but the pool; several batches may be written at once."""

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self._pool = pool

    async def write(self, events: Sequence[Event]) -> list[Stored]:
        """Commit `events` and say of each, in order, what became of it. Raises `StorageDown`: nothing was stored.

        Should PostgreSQL refuse a value that our checks let through, the batch is halved until the event that it
        refuses stands alone: that one is `refused` and every other one is stored.
        """
        try:
            return await self._transaction(events)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if len(events) == 1:
                log.warning(
                    "event_refused_by_database", id=events[0].id, type=events[0].type, error=str(error)
                )
                return ["refused"]
            middle = len(events) // 2
            return [*await self.write(events[:middle]), *await self.write(events[middle:])]
        except (psycopg.Error, PoolTimeout) as error:
            log.error("storage_down", error=str(error))
            detail = "the database cannot store events now; send them again"
            raise StorageDown(detail, retry_after_s=2) from error

    async def _transaction(self, events: Sequence[Event]) -> list[Stored]:
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            async with cursor.copy(_COPY_EVENTS) as copy:
                for event in events:
                    await copy.write_row(
                        (*event.key, event.type, event.subject, event.data, event.extensions)
                    )
            await cursor.execute(_INSERT_NEW)
            new = set(await cursor.fetchall())
            outcomes: list[Stored] = []
            typed: dict[type[Payment] | type[Blocked], list[tuple[Any, ...]]] = {}
            for event in events:
                if event.key not in new:
                    outcomes.append("duplicate")
                    continue
                # The same event twice in one batch is new once.
                new.discard(event.key)
                outcomes.append("new")
                if event.typed is not None:
                    values = (getattr(event.typed, column) for column in _TYPED[type(event.typed)][1])
                    typed.setdefault(type(event.typed), []).append((*event.key, *values))
            for kind, rows in typed.items():
                async with cursor.copy(_COPY_TYPED[kind]) as copy:
                    for row in rows:
                        await copy.write_row(row)
        # Leaving the connection's block committed the transaction.
        return outcomes

    async def is_reachable(self) -> bool:
        """True if the database answers now."""
        try:
            async with self._pool.connection(timeout=1.0) as connection:
                await connection.execute("SELECT 1")
        except (psycopg.Error, PoolTimeout):
            return False
        return True
