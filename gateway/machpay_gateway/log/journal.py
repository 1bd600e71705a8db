"""Appending to the log: one buffer, one thread that writes and fsyncs for everybody who waits, and segments that
start with a snapshot of the book. A payment that is alone and finds a quick disk writes for itself: handing it over
would take longer.

A failed write or fsync makes the log unavailable: what the page cache holds then is unknowable, so the segment is
never written again. Everything not yet durable still is in the book, and a new segment with a fresh snapshot of it
is the way back, tried until the disk takes it.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from machpay_gateway.book import Book
from machpay_gateway.errors import LogUnavailable
from machpay_gateway.log.join import OpenPayment
from machpay_gateway.log.records import FILE_MAGIC, NONCES_PER_RECORD, Header, Identity, Nonces, Record, frame
from machpay_gateway.log.segments import Segment, lock, recover, segment_path, sync_folder, write_segment
from machpay_gateway.log.tail import Tail

LINGER_S: Final = 0.002
"""How long a record that nobody waits for stays in memory, twice that at most."""
GATHER_S: Final = 0.002
"""How long a write waits at most for records of payments that are being worked on anyway."""
GATHERED: Final = 8
"""So many payments are enough for one fsync: the others are worked on while it lasts."""
LATEST: Final = 5_000
"""How many completed payments stay in memory for delivery; behind that it reads the log."""
QUICK_S: Final = 0.0005
"""A disk whose last write took no longer is quick."""
RETRY_S: Final = 1.0
"""Pause between attempts to get back to a disk that failed."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Journal:
    """The book's log. Use: `recover()`, then `await start()`, then `append` and `durable`, at the end `close`."""

    def __init__(
        self, folder: Path, book: Book, identity: Identity, *, segment_bytes: int, retry_s: float = RETRY_S
    ) -> None:
        self._folder = folder
        self._book = book
        self._identity = identity
        self._segment_bytes = segment_bytes
        self._retry_s = retry_s
        self.segments: list[Segment] = []
        self.failure: str | None = "not started"
        self.on_progress: Callable[[], None] = lambda: None
        """Called when records became durable."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log")
        self._lock = -1
        self._tail: Tail | None = None
        self._buffer: list[bytes] = []
        self.appended = 0
        """How many records were appended so far, by which they are waited for."""
        self._durable = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        # Payments that are complete in memory while the record that completed them is not durable yet.
        self._pending: deque[tuple[int, OpenPayment]] = deque()
        self.latest: deque[OpenPayment] = deque(maxlen=LATEST)
        """The newest completed payments that are durable, oldest first, until delivery takes them out."""
        self._is_writing = False
        self._last_write_s = float("inf")
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def recover(self, on_completed: Callable[[OpenPayment], None] = lambda _payment: None) -> None:
        """Rebuild the book from the folder; blocks. Raises `LogError` and its kinds, `OSError`."""
        self._lock = lock(self._folder)

        def apply(record: Record) -> None:
            payment = self._book.apply(record)
            if payment is not None:
                on_completed(payment)

        self.segments = recover(self._folder, self._identity, apply)
        if self.segments:
            # Segments go only when all of their payments are delivered, whatever their last cursor says.
            self._book.delivered = max(self._book.delivered, self.segments[0].completed)

    async def start(self) -> None:
        """Start a new segment with the recovered book. Raises `LogUnavailable` if the disk does not take it."""
        try:
            await self._rotate()
        except OSError as error:
            raise LogUnavailable(f"cannot write to {self._folder}: {error}") from error
        self._settle(self.appended)
        self._task = asyncio.create_task(self._run(), name="log")

    @property
    def completed(self) -> int:
        """How many payments are complete and durable."""
        return self._book.completed - len(self._pending)

    def append(self, record: Record) -> OpenPayment | None:
        """Apply one record to the book and queue it for the disk; the payment it completed, if it did."""
        payment = self._book.apply(record)
        self._buffer.append(frame(record))
        self.appended += 1
        if payment is not None:
            self._pending.append((self.appended, payment))
        if self._timer is None:
            self._linger()
        return payment

    def hasten(self) -> None:
        """Somebody will wait for what was appended. If nobody else is served it is written in the next turn of the
        loop, when what the caller sends before it waits is on its way: the disk works while the other side does."""
        if self._writes_at_once():
            asyncio.get_running_loop().call_soon(self._write_early)

    async def durable(self, appended: int | None = None) -> None:
        """Return once the first `appended` records, or all so far, are on the disk. Raises `LogUnavailable`."""
        if self.failure is not None:
            raise LogUnavailable(self.failure)
        target = self.appended if appended is None else appended
        if self._durable >= target:
            return
        if self._writes_at_once():
            self._write_at_once()
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((target, waiter))
        self._wake.set()
        await waiter

    async def close(self) -> None:
        """Write what is left and stop. A record that cannot be written any more was never promised to anyone."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._leave()
        self._thread.shutdown()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _linger(self) -> None:
        """Write what is not durable by and by, unless somebody who waits has it written before."""
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._flush, self._durable + 1)

    def _flush(self, oldest: int) -> None:
        self._timer = None
        if self._durable < oldest:
            self._wake.set()
        elif self._durable < self.appended:
            self._linger()

    async def _run(self) -> None:
        while not (self._closing and (self._durable >= self.appended or self.failure is not None)):
            await self._wake.wait()
            self._wake.clear()
            if self._durable >= self.appended and self.failure is None:
                continue
            await self._gather()
            if self._durable >= self.appended and self.failure is None:
                # Written in place meanwhile.
                continue
            target, self._is_writing = self.appended, True
            try:
                if self.failure is not None or self.segments[-1].is_full(self._segment_bytes):
                    await self._rotate()
                else:
                    await self._write()
            except Exception as error:
                # Whatever it was, nobody may be left waiting and nothing may be taken as durable.
                self._fail(error)
            else:
                self._settle(target)
            finally:
                self._is_writing = False

    async def _gather(self) -> None:
        """Let what the loop is busy with join this write, while every turn of the loop brings more, up to a point. On
        an idle gateway that is one turn; on a busy one every fsync is shared by several payments."""
        loop = asyncio.get_running_loop()
        until = loop.time() + GATHER_S
        before = -1
        while before != self.appended and len(self._waiters) < GATHERED and loop.time() < until:
            before = self.appended
            await asyncio.sleep(0)

    async def _write(self) -> None:
        data, began = self._take(), time.perf_counter()
        await self._in_thread(self._open_tail().append, data)
        self._wrote(data, began)

    def _take(self) -> bytes:
        """What there is to write; from now on it has to be written, or the segment is done with."""
        data = b"".join(self._buffer)
        self._buffer.clear()
        return data

    def _wrote(self, data: bytes, began: float) -> None:
        self._last_write_s = time.perf_counter() - began
        self.segments[-1].end += len(data)

    def _open_tail(self) -> Tail:
        if self._tail is None:
            raise LogUnavailable("not started")
        return self._tail

    def _writes_at_once(self) -> bool:
        """True if nobody else is served meanwhile, so that waiting for the disk here delays nobody for long."""
        return (
            self._last_write_s <= QUICK_S
            and len(self._book.join.open) <= 1
            and not self._is_writing
            and not self.segments[-1].is_full(self._segment_bytes)
        )

    def _write_at_once(self) -> None:
        """`_write` without the thread. Raises `LogUnavailable`."""
        target, data, began = self.appended, self._take(), time.perf_counter()
        try:
            self._open_tail().append(data)
        except Exception as error:
            # As in `_run`: what was taken out of the buffer may not be followed by more.
            self._fail(error)
            raise LogUnavailable(self.failure or "") from error
        self._wrote(data, began)
        self._settle(target)

    def _write_early(self) -> None:
        if self.failure is None and self._durable < self.appended and self._writes_at_once():
            # Who waits is told by `failure`.
            with contextlib.suppress(LogUnavailable):
                self._write_at_once()

    async def _rotate(self) -> None:
        """Start a segment whose snapshot takes the place of everything that is still in the buffer."""
        number = self.segments[-1].number + 1 if self.segments else 1
        first_number = self._book.next_number
        created_at = int(time.time())
        data, completed = self._snapshot(number, created_at)
        self._buffer.clear()
        tail = await self._in_thread(write_segment, self._folder, number, data)
        await self._leave()
        self._tail = tail
        self.segments.append(
            Segment(
                number,
                segment_path(self._folder, number),
                len(data),
                completed,
                first_number,
                created_at,
                len(data),
            )
        )
        logger.info("segment %d of the log begins", number)
        self.failure = None

    async def _leave(self) -> None:
        """Close the segment that was written so far; one that failed is left as it is, for whoever wants to look."""
        tail, self._tail = self._tail, None
        if tail is None:
            return
        if self.failure is not None:
            tail.close()
            return
        try:
            await self._in_thread(tail.finish)
        except OSError as error:
            logger.warning("a segment of the log keeps room that it does not need: %s", error)

    def _snapshot(self, number: int, created_at: int) -> tuple[bytes, int]:
        """The bytes a new segment starts with, and how many payments were complete before it."""
        book = self._book
        pending = [payment for _, payment in self._pending]
        completed = self.completed
        book.guard.prune(created_at)
        header = Header(
            identity=self._identity,
            segment=number,
            previous_end=self.segments[-1].end if self.segments else 0,
            next_number=book.next_number,
            completed=completed,
            delivered=min(book.delivered, completed),
            guard_floor=book.guard.floor,
            created_at=created_at,
        )
        records: list[Record] = [header, *book.totals(pending)]
        nonces = list(book.guard.snapshot().items())
        records.extend(
            Nonces(dict(nonces[start : start + NONCES_PER_RECORD]))
            for start in range(0, len(nonces), NONCES_PER_RECORD)
        )
        for payment in (*pending, *book.join.open.values()):
            records.extend(payment.records())
        return FILE_MAGIC + b"".join(map(frame, records)), completed

    def _settle(self, target: int) -> None:
        self._durable = max(self._durable, target)
        waiters, self._waiters = self._waiters, []
        for waited_for, waiter in waiters:
            if waited_for > target:
                self._waiters.append((waited_for, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        while self._pending and self._pending[0][0] <= target:
            self.latest.append(self._pending.popleft()[1])
        self._trim()
        self.on_progress()

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            logger.error("the log cannot be written, paid traffic stops", exc_info=error)
        self.failure = f"the payment log cannot be written: {error}"
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(LogUnavailable(self.failure))
        if not self._closing:
            asyncio.get_running_loop().call_later(self._retry_s, self._wake.set)

    def _trim(self) -> None:
        """Remove old segments of which every payment is delivered and no identifier is remembered."""
        removed = []
        oldest = self._book.bindings.oldest
        while (
            len(self.segments) > 1
            and self.segments[1].completed <= self._book.delivered
            and (oldest is None or self.segments[1].first_number <= oldest)
        ):
            removed.append(self.segments.pop(0))
        if removed:
            self._thread.submit(_remove, self._folder, [segment.path for segment in removed])

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _remove(folder: Path, paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    sync_folder(folder)
