"""The frames of one stream, in server-sent event format.

What arrives together leaves together: after a send, new messages wait until `COALESCE_S` has passed since it, so a
busy topic costs a stream at most 33 writes a second while a lone message is not delayed at all.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final

from apps.telemetry.live.exchange import Subscription

COALESCE_S: Final = 0.03
RETRY_MS: Final = 1_000
# Tells the browser how soon to come back.
OPENING: Final = b"retry: %d\n\n" % RETRY_MS
# Without an id: the browser keeps the id of the last real message for its next attempt.
GAP: Final = b"event: gap\ndata: {}\n\n"


def heartbeat(now: datetime) -> bytes:
    return b'event: heartbeat\ndata: {"time":"%b"}\n\n' % now.strftime("%Y-%m-%dT%H:%M:%SZ").encode()


async def frames(subscription: Subscription, *, heartbeat_s: float) -> AsyncIterator[bytes]:
    """Chunks to send, for ever: an opening heartbeat, then messages as they come and a heartbeat every
    `heartbeat_s`. A `gap` event says that messages before the next one were lost."""
    clock = asyncio.get_running_loop().time
    yield OPENING + heartbeat(datetime.now(UTC))
    next_heartbeat = clock() + heartbeat_s
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(next_heartbeat):
                await subscription.wait()
        had_gap, messages = subscription.drain()
        chunk = (GAP if had_gap else b"") + b"".join(message.frame for message in messages)
        sent_at = clock()
        if sent_at >= next_heartbeat:
            chunk += heartbeat(datetime.now(UTC))
            next_heartbeat = sent_at + heartbeat_s
        yield chunk
        await asyncio.sleep(max(0.0, sent_at + COALESCE_S - clock()))
