"""What a subscriber to live topics was told so far: everything up to a mark, so that nobody waits for silence."""

import json
from typing import Any, Final

import redis
from redis.client import PubSub

_MARK: Final = b"the listener's own mark"


def heard(pubsub: PubSub) -> list[tuple[str, dict[str, Any]]]:
    """(channel, message) of everything that was published before this call and not heard yet, in order.

    Its subscriptions must be confirmed. The mark goes through the same Redis, which keeps the order.
    """
    redis.Redis(connection_pool=pubsub.connection_pool).publish(next(iter(pubsub.channels)), _MARK)
    messages = []
    while True:
        message = pubsub.get_message(timeout=60)
        assert message is not None
        if message["data"] == _MARK:
            return messages
        messages.append((message["channel"].decode(), json.loads(message["data"])))
