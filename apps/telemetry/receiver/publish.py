"""Stored events -> the live pages, through Redis. Best effort: it never delays or fails an ingest.

The public ticker says how much was paid, for what class of route, between which regions, to the whole second; who
paid whom is told only on the topics of the two parties.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import redis.asyncio
import structlog

from apps.core import live
from apps.telemetry.receiver import metrics
from apps.telemetry.receiver.route import Blocked, Event, Payment
from apps.telemetry.routes import route_class
from machpay.protocol.encoding import to_rfc3339

_WAITING_MAX: Final = 20_000
_PIPELINE_MAX: Final = 1_000
_PAUSE_AFTER_ERROR_S: Final = 1.0

Message = tuple[str, bytes]
log = structlog.get_logger(__name__)


def messages(event: Event) -> list[Message]:
    """The Redis channels and messages of one stored event; none for types that nobody watches."""
    typed = event.typed
    if typed is None:
        return []
    name = "payment" if isinstance(typed, Payment) else "blocked"
    full = live.encode(name, _full(event, typed))
    result = [(live.channel(f"vendor:{typed.gateway}"), full)]
    if typed.agent is not None:
        result.append((live.channel(f"agent:{typed.agent}"), full))
    if isinstance(typed, Payment) and typed.charged_atomic:
        result.append((live.channel(live.TICKER), live.encode(name, _anonymous(event, typed))))
    return result


def _anonymous(event: Event, payment: Payment) -> dict[str, Any]:
    return {
        "time": to_rfc3339(int(event.time.timestamp())),
        "amount_atomic": str(payment.charged_atomic),
        "route": route_class(payment.route),
        "regions": [None, payment.city],
    }


def _full(event: Event, typed: Payment | Blocked) -> dict[str, Any]:
    # msgspec writes a UTC datetime as RFC 3339 with a Z.
    fields: dict[str, Any] = {"id": event.id, "time": event.time}
    for name in type(typed).__slots__:
        value = getattr(typed, name)
        fields[name] = str(value) if name.endswith("_atomic") and value is not None else value
    return fields


class Publisher:
    """Sends messages in the background, in order. While Redis is down or slow, the oldest wait and new ones are
    dropped and counted."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(_WAITING_MAX)
        self._is_connected = True

    def offer(self, events: Iterable[Event]) -> None:
        """Queue what people should see of `events`, which are stored."""
        for event in events:
            for message in messages(event):
                try:
                    self._waiting.put_nowait(message)
                except asyncio.QueueFull:
                    metrics.LIVE_DROPPED.inc()

    async def is_reachable(self) -> bool:
        """True if Redis answers now."""
        try:
            async with asyncio.timeout(1.0):
                await self._client.ping()
        except (redis.RedisError, OSError):
            return False
        return True

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _PIPELINE_MAX and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                async with self._client.pipeline(transaction=False) as pipeline:
                    for channel, message in batch:
                        pipeline.publish(channel, message)
                    await pipeline.execute()
            except (redis.RedisError, OSError) as error:
                metrics.LIVE_DROPPED.inc(len(batch))
                if self._is_connected:
                    log.warning("live_publishing_stopped", error=str(error))
                self._is_connected = False
                await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
            else:
                self._is_connected = True
                metrics.LIVE_PUBLISHED.inc(len(batch))
