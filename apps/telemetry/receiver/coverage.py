"""Which days have partitions. An event outside of them is judged before it can fail a whole batch."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from django.db import Error, connection

from apps.core import partitions
from apps.telemetry import tables
from apps.telemetry.receiver.errors import EventRefused, StorageDown

_REFRESH_S: Final = 60.0
log = structlog.get_logger(__name__)


class Coverage:
    """The range of event times that every table can hold, read from the catalogue once a minute."""

    def __init__(self) -> None:
        self._range: tuple[datetime, datetime] | None = None

    async def run(self) -> None:
        """Refresh until cancelled. While the database is down the last known range stays."""
        while True:
            try:
                self._range = await asyncio.to_thread(_read)
            except Error as error:
                log.warning("partitions_not_read", error=str(error))
            await asyncio.sleep(_REFRESH_S if self._range else 1.0)

    def check(self, time: datetime) -> None:
        """Raise `EventRefused` for a day that is already gone, `StorageDown` for one that should be there."""
        if self._range is None:
            return
        first, end = self._range
        if time < first:
            raise EventRefused("time_out_of_range", "the day of this event is no longer kept")
        if time >= end:
            raise StorageDown("there is no partition for today yet; send the events again", retry_after_s=30)

    def health(self) -> dict[str, Any]:
        if self._range is None:
            return {"status": "degraded", "until": None}
        end = self._range[1]
        return {"status": "ok" if end > datetime.now(UTC) else "down", "until": end.isoformat()}


def _read() -> tuple[datetime, datetime] | None:
    """The days that all tables have, or None before the first partition exists."""
    try:
        ranges = [partitions.covered(table) for table in tables.TABLES]
    finally:
        connection.close()
    known = [span for span in ranges if span is not None]
    if len(known) < len(ranges):
        return None
    return max(first for first, _ in known), min(end for _, end in known)
