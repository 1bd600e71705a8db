"""What travels to people's live pages: one JSON message per topic through Redis, delivered at most once.

The stream process (`apps.telemetry.live`) subscribes and serves it as server-sent events. Live pages are a
view of what is stored, never a record of it: a message that cannot be sent is logged and forgotten.
"""

import re
from typing import Any, Final
from uuid import uuid4

import msgspec
import redis
import structlog

from apps.core.redis import sync_redis

CHANNEL_PREFIX: Final = "live:"
TICKER: Final = "ticker"
STATS: Final = "stats"
PUBLIC_TOPICS: Final = frozenset({TICKER, STATS})
_PRIVATE_TOPIC = re.compile(r"user:[1-9][0-9]{0,18}|(vendor|agent):[1-9A-HJ-NP-Za-km-z]{32,44}")

log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder()


def is_topic(name: str) -> bool:
    """True for `ticker`, `stats`, `user:{id}`, `vendor:{gateway}` and `agent:{pubkey}`."""
    return name in PUBLIC_TOPICS or _PRIVATE_TOPIC.fullmatch(name) is not None


def channel(topic: str) -> str:
    """The Redis channel of a topic."""
    return CHANNEL_PREFIX + topic


def encode(event: str, data: Any) -> bytes:
    """`{"event": name, "id": unique, "data": {...}}`. The id is fresh: it says nothing about the event."""
    return _encoder.encode({"event": event, "id": uuid4().hex, "data": data})


def publish(topic: str, event: str, data: dict[str, Any]) -> None:
    """Send `event` to everyone who watches `topic` now. Call it after the commit that made it true.

    Amounts are decimal strings of atomic units, times RFC 3339. Never raises for Redis: pages miss an event.
    """
    try:
        sync_redis().publish(channel(topic), encode(event, data))
    except redis.RedisError as error:
        log.warning("live_event_not_published", topic=topic, live_event=event, error=str(error))
