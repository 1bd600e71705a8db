"""Events for the receiver, in order: from memory while it takes them, over the disk while it does not.

Money never depends on an event. A kill loses those of the last moments that were in memory; those on disk are sent by
the next process. What there is no room for, or what the receiver refuses for good, is dropped, counted and logged.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar
from uuid import uuid4

import msgspec

from machpay.protocol.encoding import decode_json, to_rfc3339
from machpay.protocol.errors import MalformedError
from machpay.protocol.events import BATCH_CONTENT_TYPE, CloudEvent, EventData
from machpay_gateway.backoff import Backoff
from machpay_gateway.errors import RelayerError
from machpay_gateway.metrics import Metrics
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings
from machpay_gateway.telemetry.spill import Spill

QUEUE_EVENTS: Final = 20_000
MAX_BATCH: Final = 500
MAX_BATCH_BYTES: Final = 1024 * 1024
LINGER_S: Final = 0.2
_SLICE: Final = 32
"""Events built between two turns of the event loop."""
_REFUSED: Final = frozenset({400, 413, 422})
"""Statuses that sending the same events again cannot change."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class _Queued(NamedTuple):
    """An event before its data is built. `at` is unix seconds."""

    kind: str
    subject: str | None
    data: Callable[[], EventData]
    event_id: str
    at: int


class _Answer(msgspec.Struct):
    """What the receiver says of a batch, as far as it matters here."""

    rejected: int = 0
    errors: list[dict[str, Any]] = []


_answer_decoder = msgspec.json.Decoder(_Answer)


class Events:
    """The queue, its place on disk, and its sender."""

    def __init__(self, settings: Settings, peers: Peers, metrics: Metrics) -> None:
        self._source = f"gateway:{settings.key.pubkey}"
        self._receiver_url = settings.receiver_url
        self._peers = peers
        self._metrics = metrics
        self._spill = Spill(settings.data_dir / "spill", settings.telemetry.spill_bytes)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spill")
        self._queue: deque[_Queued] = deque()
        self._waiting: list[bytes] = []
        """Encoded events from memory that are being sent."""
        self._putting_away: asyncio.Task[bool] | None = None
        self._progress = asyncio.Event()
        if self._spill.waiting:
            logger.info("%d events of an earlier run wait on disk", self._spill.waiting)
            self._progress.set()
        self._backoff = Backoff()
        self._dropped = 0
        self.failure: str | None = None
        """Why the last attempt failed; None while the receiver takes events."""

    @property
    def queued(self) -> int:
        """Events that wait, on disk or not."""
        return len(self._queue) + len(self._waiting) + self._spill.waiting

    @property
    def spilled(self) -> int:
        """Those of them that are on disk."""
        return self._spill.waiting

    @property
    def spilled_bytes(self) -> int:
        return self._spill.disk_bytes

    def emit(
        self, kind: str, subject: str | None, data: Callable[[], EventData], event_id: str | None = None
    ) -> None:
        """Queue one event about `subject` (the counterparty); never waits. `data` is called when it is sent, so that
        building it costs the request nothing."""
        if len(self._queue) >= QUEUE_EVENTS:
            self._drop(1, "the queue is full")
            return
        self._queue.append(_Queued(kind, subject, data, event_id or str(uuid4()), int(time.time())))
        self._progress.set()

    async def run(self) -> None:
        """Send for ever. While the receiver is away, what comes is put on disk."""
        while True:
            await self._progress.wait()
            self._progress.clear()
            await asyncio.sleep(LINGER_S)
            while self.queued:
                try:
                    await self.send_once()
                except RelayerError as error:
                    self._failed(error)
                    await self._pause(error.retry_after_s or self._backoff.next_s())

    async def drain(self, timeout_s: float) -> None:
        """Send what is left if the receiver takes it in time; the disk keeps the rest for the next start."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.queued:
                    await self.send_once()
        except (TimeoutError, RelayerError) as error:
            await self._to_disk()
            left = len(self._queue) + len(self._waiting)
            self._drop(left, "the gateway stops and the disk does not take them")
            if self._spill.waiting:
                logger.info("%d events stay on disk for the next start: %s", self._spill.waiting, error)
        finally:
            self._disk.shutdown()

    async def send_once(self) -> None:
        """Send the next batch. Raises `RelayerError` if it should be sent again; it is on disk then, if that works."""
        if self._spill.waiting:
            # Older ones first: what is in memory goes behind them.
            await self._to_disk()
            batch = await self._from_disk()
            await self._send(batch)
            try:
                await self._on_disk(self._spill.done, batch)
            except OSError as error:
                raise RelayerError(f"events that were sent stay on disk: {error}") from error
            return
        await self._build()
        try:
            await self._send(self._waiting)
        except RelayerError:
            await self._to_disk()
            raise
        self._waiting = []

    async def _send(self, batch: Sequence[bytes]) -> None:
        """One attempt; events that are refused for good are dropped. Raises `RelayerError`."""
        if not batch:
            return
        body = b"[" + b",".join(batch) + b"]"
        try:
            answer = await self._peers.post(self._receiver_url, "/v1/ingest", body, BATCH_CONTENT_TYPE)
        except RelayerError as error:
            self._failed(error)
            if error.status not in _REFUSED:
                raise
            if len(batch) > 1:
                # One event that cannot be read may have spoilt the others.
                middle = len(batch) // 2
                await self._send(batch[:middle])
                await self._send(batch[middle:])
                return
            self._drop(1, str(error))
        else:
            self.failure = None
            self._note(answer, len(batch))
        self._backoff.reset()

    def _failed(self, error: RelayerError) -> None:
        if self.failure is None:
            logger.warning("events: %s", error)
        self.failure = str(error)

    def _note(self, answer: bytes, count: int) -> None:
        try:
            said: _Answer = decode_json(_answer_decoder, answer, "the receiver's answer")
        except MalformedError:
            said = _Answer()
        self._metrics.events_sent.add(count - said.rejected)
        codes = sorted({str(error.get("code")) for error in said.errors})
        self._drop(said.rejected, f"the receiver refused them: {', '.join(codes)}")

    async def _build(self) -> None:
        """Encode the next batch from memory, if none waits."""
        size = sum(map(len, self._waiting))
        while self._queue and len(self._waiting) < MAX_BATCH and size < MAX_BATCH_BYTES:
            if len(self._waiting) % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            line = self._encoded(self._queue.popleft())
            self._waiting.append(line)
            size += len(line)

    def _encoded(self, queued: _Queued) -> bytes:
        return msgspec.json.encode(
            CloudEvent(
                source=self._source,
                type=queued.kind,
                time=to_rfc3339(queued.at),
                data=queued.data(),
                subject=queued.subject,
                id=queued.event_id,
            )
        )

    async def _to_disk(self) -> None:
        """Move everything in memory behind what is on disk. What the disk does not take stays in memory."""
        while self._queue or self._waiting:
            await self._build()
            # Taken out first: a cancelled wait does not stop the writing.
            batch, self._waiting = self._waiting, []
            self._putting_away = asyncio.create_task(self._put_away(batch))
            if not await asyncio.shield(self._putting_away):
                return

    async def _put_away(self, batch: list[bytes]) -> bool:
        """Put a batch on disk; False if the disk does not take it. Goes on when nobody waits for it any more, so that
        what there is no room for is counted all the same."""
        try:
            dropped = await self._on_disk(self._spill.append, batch)
        except OSError as error:
            self._waiting = [*batch, *self._waiting]
            logger.warning("events cannot be put on disk: %s", error)
            return False
        self._metrics.events_spilled.add(len(batch))
        self._drop(dropped, "the receiver is away and there is no more room on disk")
        return True

    async def _from_disk(self) -> list[bytes]:
        try:
            return await self._on_disk(self._spill.read, MAX_BATCH, MAX_BATCH_BYTES)
        except OSError as error:
            raise RelayerError(f"events on disk cannot be read: {error}") from error

    async def _on_disk(self, work: Callable[..., T], *arguments: object) -> T:
        """In one thread and to its end, so that what was begun before a cancellation is over before what comes next."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments))

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt, while what comes in goes to disk."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 1.0))
            if len(self._queue) >= MAX_BATCH:
                await self._to_disk()

    def _drop(self, count: int, why: str) -> None:
        if count == 0:
            return
        self._metrics.events_dropped.add(count)
        # One line per power of two: a receiver that is away for an hour must not fill the disk with its absence.
        before, self._dropped = self._dropped, self._dropped + count
        if before.bit_length() != self._dropped.bit_length():
            logger.warning("%d events dropped so far: %s", self._dropped, why)
