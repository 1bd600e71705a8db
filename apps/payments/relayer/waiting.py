"""Long polls: whoever waits for changes holds no thread and no connection, and one look at the database serves all."""

import asyncio
from typing import Final

import structlog

from apps.payments.relayer.threads import DatabaseUnavailable, Threads
from apps.payments.selectors.changes import anything_since, now_cursor

WAIT_S: Final = 5.0
"""How long a poll is held open; short enough for every proxy, and for a process that is told to stop."""
LOOK_S: Final = 0.25
"""How late a change is noticed at most, as long as the database answers."""

log = structlog.get_logger(__name__)


class Followers:
    """`wait(cursor)` in a request; `run()` for as long as the process serves."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._waiting = 0
        self._changed = asyncio.Event()

    async def wait(self, cursor: str) -> None:
        """Return when something changed since `cursor`, or after `WAIT_S`."""
        self._waiting += 1
        try:
            # Registered before looking, so that nothing falls between the look and the wait.
            changed = self._changed
            if await self._threads.database(anything_since, cursor):
                return
            async with asyncio.timeout(WAIT_S):
                await changed.wait()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    async def run(self) -> None:
        """Look for changes while anybody waits, for ever."""
        cursor: str | None = None
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._waiting:
                continue
            try:
                if cursor is not None and not await self._threads.database(anything_since, cursor):
                    continue
                cursor = await self._threads.database(now_cursor)
            except DatabaseUnavailable as error:
                log.warning("changes_unavailable", error=error.detail)
                continue
            except Exception:
                log.exception("changes_failed")
                continue
            # Waiters look again with their own cursors, so one wake too many does no harm.
            self._changed.set()
            self._changed = asyncio.Event()
