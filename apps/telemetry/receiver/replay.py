"""Single use of signed requests, as long as Redis can say.

Events are stored once whoever repeats them, so a replay changes nothing here; refusing it saves work and nothing more.
That is why a Redis that is away or slow lets requests pass, and is then left alone for a while.
"""

import asyncio
import time
from typing import Final

import redis

from apps.core.single_use import first_use
from machpay.protocol.signed_requests import RequestSigner

_WAIT_S: Final = 0.25
_PAUSE_S: Final = 5.0


class ReplayGuard:
    """Remembers in Redis which requests were used."""

    def __init__(self) -> None:
        self._paused_until = 0.0

    async def is_replay(self, signer: RequestSigner) -> bool:
        """True if this very request was used before; False if it was not, or if nobody can say."""
        if time.monotonic() < self._paused_until:
            return False
        try:
            async with asyncio.timeout(_WAIT_S):
                return not await first_use(signer, purpose="ingest")
        except (redis.RedisError, OSError):
            self._paused_until = time.monotonic() + _PAUSE_S
            return False
