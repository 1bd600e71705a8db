"""One subscription to Redis per process, shared by all its streams.

The hub keeps the last messages of all topics, so that a browser which lost its connection goes on where it was, at
this process or another: ids come with the messages. Whenever something may have been missed, the streams are told.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Final

import msgspec
import redis
import redis.asyncio
import structlog
from django.conf import settings

from apps.core import live
from apps.telemetry.live import metrics

REPLAY_MESSAGES: Final = 5_000
QUEUE_MESSAGES: Final = 1_000
_PING_AFTER_S: Final = 10.0
_RECONNECT_AFTER_S: Final = 0.5

log = structlog.get_logger(__name__)


class _Wire(msgspec.Struct):
    """A message as `apps.core.live.encode` writes it; `data` is passed on as it is."""

    event: str
    id: str
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Message:
    """One event of one topic, already in the bytes that every stream sends."""

    topic: str
    id: str
    frame: bytes


_decode = msgspec.json.Decoder(_Wire).decode


def read_message(channel: bytes, payload: bytes) -> Message:
    """Raises `msgspec.DecodeError` for what no publisher of ours sends."""
    wire = _decode(payload)
    topic = channel.decode().removeprefix(live.CHANNEL_PREFIX)
    data = bytes(wire.data)
    return Message(
        topic, wire.id, b"id: %b\nevent: %b\ndata: %b\n\n" % (wire.id.encode(), wire.event.encode(), data)
    )


class Subscription:
    """One stream's queue. Bounded: when it is full the oldest message goes and `has_gap` is set."""

    def __init__(self, topics: frozenset[str], *, queue_messages: int = QUEUE_MESSAGES) -> None:
        self.topics = topics
        self.has_gap = False
        self._queue: deque[Message] = deque(maxlen=queue_messages)
        self._arrived = asyncio.Event()

    def put(self, message: Message) -> None:
        if len(self._queue) == self._queue.maxlen:
            self.has_gap = True
            metrics.DROPPED.inc()
        self._queue.append(message)
        self._arrived.set()

    def mark_gap(self) -> None:
        """Messages were lost before they reached this queue."""
        self.has_gap = True
        self._arrived.set()

    async def wait(self) -> None:
        """Until there is a message or a gap to tell of."""
        await self._arrived.wait()

    def drain(self) -> tuple[bool, list[Message]]:
        """Whether messages were lost before these, and all messages that wait."""
        had_gap, messages = self.has_gap, list(self._queue)
        self.has_gap = False
        self._queue.clear()
        self._arrived.clear()
        return had_gap, messages


class Hub:
    """Delivers every message to the subscriptions of its topic, and remembers the last `replay_messages`."""

    def __init__(self, redis_url: str, *, replay_messages: int = REPLAY_MESSAGES) -> None:
        self.is_connected = False
        self._redis_url = redis_url
        self._by_topic: dict[str, set[Subscription]] = {}
        self._replay: deque[Message] = deque(maxlen=replay_messages)
        self._count = 0
        self._position_of: dict[str, int] = {}
        self._reader: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def subscribe(self, topics: frozenset[str], last_event_id: str | None = None) -> Iterator[Subscription]:
        """A queue of what is published on `topics` while inside, starting after `last_event_id` if it is known
        here; if it is not, the subscription starts with a gap. Needs a running event loop."""
        self._ensure_reading()
        subscription = Subscription(topics)
        if last_event_id is not None:
            self._resume(subscription, last_event_id)
        for topic in topics:
            self._by_topic.setdefault(topic, set()).add(subscription)
        metrics.STREAMS.inc()
        try:
            yield subscription
        finally:
            metrics.STREAMS.dec()
            for topic in topics:
                self._by_topic[topic].discard(subscription)
                if not self._by_topic[topic]:
                    del self._by_topic[topic]

    def deliver(self, message: Message) -> None:
        """Remember one message and hand it to everyone who watches its topic."""
        if len(self._replay) == self._replay.maxlen:
            self._position_of.pop(self._replay[0].id, None)
        self._replay.append(message)
        self._position_of[message.id] = self._count
        self._count += 1
        for subscription in self._by_topic.get(message.topic, ()):
            subscription.put(message)
        metrics.MESSAGES.inc()

    def mark_gap(self) -> None:
        """Redis may have had messages that never came here: tell every stream, and promise no resumption over it."""
        self._replay.clear()
        self._position_of.clear()
        for subscriptions in self._by_topic.values():
            for subscription in subscriptions:
                subscription.mark_gap()

    @property
    def is_reading(self) -> bool:
        """False until the first subscription."""
        return self._reader is not None and not self._reader.done()

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    def _resume(self, subscription: Subscription, last_event_id: str) -> None:
        position = self._position_of.get(last_event_id)
        if position is None:
            subscription.mark_gap()
            return
        oldest = self._count - len(self._replay)
        for message in islice(self._replay, position + 1 - oldest, None):
            if message.topic in subscription.topics:
                subscription.put(message)

    def _ensure_reading(self) -> None:
        if not self.is_reading:
            self._reader = asyncio.get_running_loop().create_task(self._read_forever(), name="live-hub")

    async def _read_forever(self) -> None:
        # No socket timeout: silence is normal here, and `_read` pings through it.
        client = redis.asyncio.Redis.from_url(self._redis_url, socket_timeout=None, socket_connect_timeout=2)
        try:
            while True:
                try:
                    async with client.pubsub() as pubsub:
                        await self._read(pubsub)
                except (redis.RedisError, OSError) as error:
                    if self.is_connected:
                        log.warning("live_hub_disconnected", error=str(error))
                    self.is_connected = False
                    metrics.CONNECTED.set(0)
                    self.mark_gap()
                    await asyncio.sleep(_RECONNECT_AFTER_S)
        finally:
            self.is_connected = False
            await client.aclose()

    async def _read(self, pubsub: redis.asyncio.client.PubSub) -> None:
        await pubsub.psubscribe(f"{live.CHANNEL_PREFIX}*")
        self.is_connected = True
        metrics.CONNECTED.set(1)
        clock = asyncio.get_running_loop().time
        heard, pinged = clock(), False
        while True:
            received = await pubsub.get_message(timeout=_PING_AFTER_S)
            if received is not None:
                heard, pinged = clock(), False
                if received["type"] == "pmessage":
                    self._take(received["channel"], received["data"])
            elif clock() - heard >= _PING_AFTER_S:
                if pinged:
                    raise redis.ConnectionError("Redis does not answer")
                await pubsub.ping()
                heard, pinged = clock(), True

    def _take(self, channel: bytes, payload: bytes) -> None:
        try:
            message = read_message(channel, payload)
        except msgspec.DecodeError as error:
            log.warning("live_message_malformed", channel=channel.decode(errors="replace"), error=str(error))
        else:
            self.deliver(message)


@cache
def process_hub() -> Hub:
    """The hub of this process. It connects when the first stream opens."""
    return Hub(settings.REDIS_URL)
