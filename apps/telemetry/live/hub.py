"""One subscription to Redis per process, shared by all its streams.

The last messages of all topics are kept, so that a browser which lost its connection goes on where it was, at this
process or another: ids come with the messages. Whenever something may have been missed, the streams are told.
"""

import asyncio
import contextlib
from functools import cache
from typing import Final

import msgspec
import redis
import redis.asyncio
import structlog
from django.conf import settings

from apps.core import live
from apps.telemetry.live import metrics
from apps.telemetry.live.exchange import Exchange, Message, Subscription

_PING_AFTER_S: Final = 10.0
_RECONNECT_AFTER_S: Final = 0.5
_CONNECT_WAIT_S: Final = 2.0

log = structlog.get_logger(__name__)


class _Wire(msgspec.Struct):
    """A message as `apps.core.live.encode` writes it; `data` is passed on as it is."""

    event: str
    id: str
    data: msgspec.Raw


_decode = msgspec.json.Decoder(_Wire).decode


def read_message(channel: bytes, payload: bytes) -> Message:
    """Raises `msgspec.DecodeError` for what no publisher of ours sends."""
    wire = _decode(payload)
    topic = channel.decode().removeprefix(live.CHANNEL_PREFIX)
    data = bytes(wire.data)
    return Message(
        topic, wire.id, b"id: %b\nevent: %b\ndata: %b\n\n" % (wire.id.encode(), wire.event.encode(), data)
    )


class Hub:
    """Reads every `live:` channel from the first subscription on, for the life of the process."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._connected = asyncio.Event()
        self._exchange = Exchange()
        self._reader: asyncio.Task[None] | None = None
        self._may_have_missed = False

    def subscribe(
        self, topics: frozenset[str], last_event_id: str | None = None
    ) -> contextlib.AbstractContextManager[Subscription]:
        """See `Exchange.subscribe`. Needs a running event loop."""
        if not self.is_reading:
            self._reader = asyncio.get_running_loop().create_task(self._read_forever(), name="live-hub")
        return self._exchange.subscribe(topics, last_event_id)

    @property
    def is_reading(self) -> bool:
        """False until the first subscription."""
        return self._reader is not None and not self._reader.done()

    @property
    def is_connected(self) -> bool:
        """True while everything that is published arrives here."""
        return self._connected.is_set()

    async def connected(self) -> None:
        """Wait until everything that is published from now on arrives, but not for long: without Redis a stream
        opens all the same, and is told of the gap when Redis is back."""
        try:
            async with asyncio.timeout(_CONNECT_WAIT_S):
                await self._connected.wait()
        except TimeoutError:
            self._may_have_missed = True

    async def _read_forever(self) -> None:
        # No socket timeout: silence is normal here, and `_read` pings through it.
        client = redis.asyncio.Redis.from_url(self._redis_url, socket_timeout=None, socket_connect_timeout=2)
        has_failed = False
        async with client:
            while True:
                try:
                    async with client.pubsub() as pubsub:
                        await self._read(pubsub)
                except (redis.RedisError, OSError) as error:
                    if not has_failed or self.is_connected:
                        log.warning("live_hub_disconnected", error=str(error))
                has_failed = self._may_have_missed = True
                self._connected.clear()
                metrics.CONNECTED.set(0)
                await asyncio.sleep(_RECONNECT_AFTER_S)

    async def _read(self, pubsub: redis.asyncio.client.PubSub) -> None:
        await pubsub.psubscribe(f"{live.CHANNEL_PREFIX}*")
        clock = asyncio.get_running_loop().time
        heard, pinged = clock(), False
        while True:
            received = await pubsub.get_message(timeout=_PING_AFTER_S)
            if received is not None:
                heard, pinged = clock(), False
                if received["type"] == "pmessage":
                    self._take(received["channel"], received["data"])
                elif received["type"] == "psubscribe":
                    if self._may_have_missed:
                        self._exchange.mark_gap()
                    self._connected.set()
                    metrics.CONNECTED.set(1)
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
            self._exchange.deliver(message)


@cache
def process_hub() -> Hub:
    """The hub of this process. It connects when the first stream opens."""
    return Hub(settings.REDIS_URL)
