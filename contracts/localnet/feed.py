"""Who is told what, when the chain has moved: subscribers with bounded queues, and a journal of what is not final.

Runs on the chain's one thread. `publish` is called after every commit, so nobody hears of what could be lost.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Iterator

import msgspec

from contracts.localnet.ledger import Landed, Ledger
from contracts.localnet.rpc.envelope import notification
from contracts.localnet.rpc.subscriptions import Step, Subscription
from contracts.localnet.slots import Commitment

QUEUE_MESSAGES_MAX = 5_000
# WebSocket close codes (RFC 6455 and its registry).
INTERNAL_FAILURE = 1011
TRY_AGAIN_LATER = 1013
# After a jump, older slots in which nothing happened are not told of one by one.
_EMPTY_SLOTS_MAX = 512


_log = logging.getLogger(__name__)


class Subscriber:
    """One connection: its subscriptions, and what waits to be written to it.

    `closing` is the WebSocket close code and reason once the connection is to end, because more than
    QUEUE_MESSAGES_MAX messages wait or for the reason given to `close`; what waits is then never written.
    """

    def __init__(self) -> None:
        self.subscriptions: dict[int, Subscription] = {}
        self.closing: tuple[int, str] | None = None
        self._queue: deque[bytes] = deque()
        self._something = asyncio.Event()
        self._closed = asyncio.Event()

    def put(self, message: object) -> None:
        """Queue a message; never waits."""
        if len(self._queue) >= QUEUE_MESSAGES_MAX:
            self.close(TRY_AGAIN_LATER, "the subscriber reads too slowly")
        if self.closing is None:
            self._queue.append(msgspec.json.encode(message))
        self._something.set()

    def close(self, code: int, reason: str) -> None:
        """End the connection; the first reason counts."""
        self.closing = self.closing or (code, reason)
        self._queue.clear()
        self._closed.set()

    async def closed(self) -> None:
        """Wait until the connection is to end."""
        await self._closed.wait()

    async def get(self) -> bytes:
        """Wait for the next message."""
        while not self._queue:
            self._something.clear()
            await self._something.wait()
        return self._queue.popleft()


class Feed:
    """Every subscriber of one chain."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._numbers = itertools.count(1)
        # What is not final yet, in the order it landed, and how much of it the processed level was told of.
        self._journal: deque[Landed] = deque()
        self._told = 0
        self._slots = {level: ledger.slot(level) for level in Commitment}
        self.subscribers: set[Subscriber] = set()
        ledger.on_landed = self._journal.append

    def subscribe(self, subscriber: Subscriber, subscription: Subscription) -> int:
        """Add a subscription and return its number."""
        number = next(self._numbers)
        subscriber.subscriptions[number] = subscription
        return number

    def publish(self) -> None:
        """Tell every subscriber what happened since the last call."""
        steps = list(self._steps()) if self.subscribers else []
        for subscriber in self.subscribers:
            try:
                for step in steps:
                    self._tell(subscriber, step)
                self._tell_once(subscriber)
            except Exception:
                _log.exception("a subscriber could not be told")
                subscriber.close(INTERNAL_FAILURE, "internal error")
        self._slots = {level: self._ledger.slot(level) for level in Commitment}
        while self._journal and self._journal[0].slot <= self._slots[Commitment.finalized]:
            self._journal.popleft()
        self._told = len(self._journal)

    def _steps(self) -> Iterator[Step]:
        fresh = list(itertools.islice(self._journal, self._told, None))
        yield from self._processed(fresh)
        for level in (Commitment.confirmed, Commitment.finalized):
            before, now = self._slots[level], self._ledger.slot(level)
            if before == now:
                continue
            landed = [entry for entry in self._journal if before < entry.slot <= now]
            for slot in _slots_between(before, now, landed):
                yield Step(level, slot, True, [entry for entry in landed if entry.slot == slot])

    def _processed(self, fresh: list[Landed]) -> Iterator[Step]:
        level = Commitment.processed
        before, now = self._slots[level], self._ledger.slot(level)
        for entry in fresh:
            if entry.slot <= before:
                yield Step(level, entry.slot, False, [entry])
        for slot in _slots_between(before, now, fresh):
            yield Step(level, slot, True)
            for entry in fresh:
                if entry.slot == slot:
                    yield Step(level, slot, False, [entry])

    def _tell(self, subscriber: Subscriber, step: Step) -> None:
        for number, subscription in subscriber.subscriptions.items():
            if subscription.level is step.level and not subscription.once:
                for result in subscription.results(step, self._ledger):
                    subscriber.put(notification(subscription.method, number, result))

    def _tell_once(self, subscriber: Subscriber) -> None:
        """Those that end with their first notification look at the chain, not at what changed."""
        for number, subscription in list(subscriber.subscriptions.items()):
            if not subscription.once:
                continue
            step = Step(subscription.level, self._ledger.slot(subscription.level), False)
            for result in subscription.results(step, self._ledger):
                subscriber.put(notification(subscription.method, number, result))
                del subscriber.subscriptions[number]


def _slots_between(before: int, now: int, landed: list[Landed]) -> list[int]:
    """Return the slots after `before` up to `now`: the newest ones, and all in which something landed."""
    newest = range(max(before, now - _EMPTY_SLOTS_MAX) + 1, now + 1)
    return sorted(set(newest) | {entry.slot for entry in landed if before < entry.slot <= now})
