"""The waiting room between requests and the database.

It is bounded: a slow database costs refusals (429), not memory.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from apps.core.errors import DomainError
from apps.telemetry.receiver.errors import BufferFull
from apps.telemetry.receiver.route import Event
from apps.telemetry.receiver.write import Stored


@dataclass(slots=True)
class Submission:
    """The events of one request and the promise of what became of each."""

    events: Sequence[Event]
    outcome: asyncio.Future[list[Stored]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def settle(self, outcomes: list[Stored]) -> None:
        # A client that hung up cancelled its wait; its events are stored all the same.
        if not self.outcome.done():
            self.outcome.set_result(outcomes)

    def fail(self, error: DomainError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Buffer:
    """Submissions wait here until a writer takes `flush_rows` of them, or what there is after `linger_s`.

    `rows_max` counts rows that wait and rows that are being written: a row leaves with `release`.
    """

    def __init__(self, *, rows_max: int, flush_rows: int, linger_s: float) -> None:
        self.rows_max = rows_max
        self.rows = 0
        self._flush_rows = flush_rows
        self._linger_s = linger_s
        self._waiting: deque[Submission] = deque()
        self._waiting_rows = 0
        self._some = asyncio.Event()
        self._full_batch = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def offer(self, events: Sequence[Event]) -> Submission:
        """Queue the events of one request. Raises `BufferFull`, and then has queued none of them."""
        if self.rows + len(events) > self.rows_max:
            raise BufferFull("the receiver has as many events waiting as it can hold", retry_after_s=1)
        submission = Submission(events)
        self._waiting.append(submission)
        self._waiting_rows += len(events)
        self.rows += len(events)
        self._empty.clear()
        self._some.set()
        if self._waiting_rows >= self._flush_rows:
            self._full_batch.set()
        return submission

    async def take(self) -> list[Submission]:
        """The next batch, never empty. Waits for a first row, then at most `linger_s` for company."""
        # Again if another writer took everything while this one lingered.
        while not self._waiting:
            await self._some.wait()
            if self._waiting_rows < self._flush_rows:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full_batch.wait(), self._linger_s)
        batch: list[Submission] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0].events) <= self._flush_rows):
            submission = self._waiting.popleft()
            rows += len(submission.events)
            batch.append(submission)
        self._waiting_rows -= rows
        if not self._waiting:
            self._some.clear()
        if self._waiting_rows < self._flush_rows:
            self._full_batch.clear()
        return batch

    def release(self, batch: Sequence[Submission]) -> None:
        """The rows of a taken batch are stored or refused; their room is free again."""
        self.rows -= sum(len(submission.events) for submission in batch)
        if not self.rows:
            self._empty.set()

    async def drained(self) -> None:
        """Wait until nothing waits and nothing is being written."""
        await self._empty.wait()
