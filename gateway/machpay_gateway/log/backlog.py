"""Completed payments that wait for the relayer, in order: from memory while delivery keeps up, else from the log.

A relayer that is away for hours therefore costs disk and nothing else. Only what is durable is given out.
"""

import asyncio

from machpay_gateway.log.join import OpenPayment
from machpay_gateway.log.journal import Journal
from machpay_gateway.log.reader import LogReader


class Backlog:
    """Starts behind the first `delivered` payments and only moves forward. For one reader."""

    def __init__(self, journal: Journal, delivered: int) -> None:
        self._journal = journal
        self._next = delivered + 1
        self._reader: LogReader | None = None

    async def read(self, limit: int) -> list[OpenPayment]:
        """The next payments, at most `limit`; empty when there is no more for now. Raises `LogDamaged`, `OSError`."""
        found = self._from_memory(limit) or await self._from_disk(limit)
        if found:
            self._next = found[-1].seq + 1
        return found

    def _from_memory(self, limit: int) -> list[OpenPayment]:
        latest = self._journal.latest
        while latest and latest[0].seq < self._next:
            # Read from the disk meanwhile.
            latest.popleft()
        if not latest or latest[0].seq > self._next:
            return []
        self._reader = None
        return [latest.popleft() for _ in range(min(limit, len(latest)))]

    async def _from_disk(self, limit: int) -> list[OpenPayment]:
        if self._next > self._journal.completed:
            return []
        # Whoever is interrupted here has not been given what was found, and a reader never goes back: the next attempt
        # begins with a new one.
        reader, self._reader = self._reader or LogReader(self._journal, self._next - 1), None
        found: list[OpenPayment] = []
        while len(found) < limit:
            if not reader.step(found, limit):
                break
            await asyncio.sleep(0)
        self._reader = reader
        return found
