"""Delivery inside one process: bounded queues by topic and a replay buffer. Pure: it knows neither Redis nor HTTP."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from apps.telemetry.live import metrics

REPLAY_MESSAGES: Final = 5_000
QUEUE_MESSAGES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Message:
    """One event of one topic, already in the bytes that every stream sends."""

    topic: str
    id: str
    frame: bytes


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


class Exchange:
    """Delivers every message to the subscriptions of its topic, and remembers the last `replay_messages`."""

    def __init__(self, *, replay_messages: int = REPLAY_MESSAGES) -> None:
        self._by_topic: dict[str, set[Subscription]] = {}
        self._replay: deque[Message] = deque(maxlen=replay_messages)
        self._count = 0
        self._position_of: dict[str, int] = {}

    @contextlib.contextmanager
    def subscribe(self, topics: frozenset[str], last_event_id: str | None = None) -> Iterator[Subscription]:
        """A queue of what is published on `topics` while inside, starting after `last_event_id` if it is known
        here; if it is not, the subscription starts with a gap."""
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
        """Messages may have been lost: tell every stream, and promise nobody to go on from before."""
        self._replay.clear()
        self._position_of.clear()
        for subscriptions in self._by_topic.values():
            for subscription in subscriptions:
                subscription.mark_gap()

    def _resume(self, subscription: Subscription, last_event_id: str) -> None:
        position = self._position_of.get(last_event_id)
        if position is None:
            subscription.mark_gap()
            return
        oldest = self._count - len(self._replay)
        for message in islice(self._replay, position + 1 - oldest, None):
            if message.topic in subscription.topics:
                subscription.put(message)
