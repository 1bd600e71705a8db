"""One lazily made Redis client per process and kind. Connections are pooled; nothing connects before the
first command."""

from functools import cache

import redis
import redis.asyncio
from django.conf import settings


@cache
def sync_redis() -> redis.Redis:
    """For tasks and views."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=2)


@cache
def async_redis() -> redis.asyncio.Redis:
    """For raw-ASGI processes, which run one event loop."""
    return redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=2)
