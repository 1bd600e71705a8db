"""Events for the receiver: what was authorised and what was refused. Lossy by design, and the loss is counted.

Money never depends on an event. A full queue drops the newest, counts it and says so in the log.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from uuid import uuid4

from machpay.protocol.encoding import to_rfc3339
from machpay.protocol.events import BATCH_CONTENT_TYPE, CloudEvent, encode_batch
from machpay_gateway.backoff import Backoff
from machpay_gateway.errors import RelayerError
from machpay_gateway.metrics import Metrics
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings

QUEUE_EVENTS: Final = 20_000
MAX_BATCH: Final = 500
LINGER_S: Final = 0.2
_SLICE: Final = 32
"""Events built between two turns of the event loop."""
_REFUSED: Final = frozenset({400, 413, 422})
"""Statuses that sending the same events again cannot change."""

logger = logging.getLogger(__name__)


class _Queued(NamedTuple):
    """An event before its data is built. `at` is unix seconds."""

    kind: str
    subject: str
    data: Callable[[], dict[str, Any]]
    event_id: str
    at: int


class Events:
    """A bounded queue and its sender."""

    def __init__(self, settings: Settings, peers: Peers, metrics: Metrics) -> None:
        self._source = f"gateway:{settings.key.pubkey}"
        self._receiver_url = settings.receiver_url
        self._peers = peers
        self._metrics = metrics
        self._queue: deque[_Queued] = deque()
        self._waiting: list[CloudEvent] = []
        self._progress = asyncio.Event()
        self._backoff = Backoff()
        self._dropped = 0
        self.failure: str | None = None
        """Why the last attempt failed; None while the receiver takes events."""

    @property
    def queued(self) -> int:
        return len(self._queue) + len(self._waiting)

    def emit(
        self, kind: str, subject: str, data: Callable[[], dict[str, Any]], event_id: str | None = None
    ) -> None:
        """Queue one event about `subject` (the counterparty); never waits. `data` is called when it is sent, so that
        building it costs the request nothing."""
        if len(self._queue) >= QUEUE_EVENTS:
            self._drop(1, "the queue is full")
            return
        self._queue.append(_Queued(kind, subject, data, event_id or str(uuid4()), int(time.time())))
        self._progress.set()

    async def run(self) -> None:
        while True:
            await self._progress.wait()
            self._progress.clear()
            await asyncio.sleep(LINGER_S)
            while await self._take():
                try:
                    await self.send_once()
                except RelayerError as error:
                    await asyncio.sleep(error.retry_after_s or self._backoff.next_s())

    async def drain(self, timeout_s: float) -> None:
        """Send what is left if the receiver takes it in time; the rest is dropped and counted."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self._take():
                    await self.send_once()
        except (TimeoutError, RelayerError) as error:
            self._drop(self.queued, str(error) or "the gateway stops")

    async def send_once(self) -> None:
        """Send the batch that is waiting. Raises `RelayerError` if it should be sent again."""
        try:
            await self._peers.post(
                self._receiver_url, "/v1/ingest", encode_batch(self._waiting), BATCH_CONTENT_TYPE
            )
        except RelayerError as error:
            if self.failure is None:
                logger.warning("events: %s", error)
            self.failure = str(error)
            if error.status not in _REFUSED:
                raise
            self._drop(len(self._waiting), str(error))
        else:
            self.failure = None
        self._backoff.reset()
        self._waiting = []

    async def _take(self) -> bool:
        """Build the next batch, if none is waiting; False if there is nothing to send."""
        if not self._waiting:
            for number in range(min(MAX_BATCH, len(self._queue))):
                if number % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)
                self._waiting.append(self._event(self._queue.popleft()))
        return bool(self._waiting)

    def _event(self, queued: _Queued) -> CloudEvent:
        return CloudEvent(
            source=self._source,
            type=queued.kind,
            time=to_rfc3339(queued.at),
            data=queued.data(),
            subject=queued.subject,
            id=queued.event_id,
        )

    def _drop(self, count: int, why: str) -> None:
        if count == 0:
            return
        self._metrics.events_dropped.inc(count)
        # One line per power of two: a receiver that is away for an hour must not fill the disk with its absence.
        before, self._dropped = self._dropped, self._dropped + count
        if before.bit_length() != self._dropped.bit_length():
            logger.warning("%d events dropped so far: %s", self._dropped, why)
