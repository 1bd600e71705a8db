"""The replay guard: which nonces this gateway has accepted and could be offered again.

A nonce is forgotten once its deadline plus the allowed clock skew has passed; `floor` remembers how far forgetting
has come, so that a clock that steps back cannot make a forgotten nonce acceptable. A step of more than the longest
lifetime means that the clock was far ahead before: refusing everybody until it gets there again would help nobody.
"""

import logging
from uuid import UUID

from solders.pubkey import Pubkey

from machpay.protocol.nonces import CLOCK_SKEW_S, MAX_LIFETIME_S

logger = logging.getLogger(__name__)


class ReplayGuard:
    """Accepted nonces per agent, in buckets by deadline so that forgetting costs nothing per payment."""

    def __init__(self) -> None:
        self._deadlines: dict[bytes, int] = {}
        self._buckets: dict[int, list[bytes]] = {}
        self.floor = 0

    def __len__(self) -> int:
        return len(self._deadlines)

    def has(self, agent: Pubkey, nonce: UUID) -> bool:
        return bytes(agent) + nonce.bytes in self._deadlines

    def add(self, agent: Pubkey, nonce: UUID, deadline: int) -> None:
        """Remember a nonce until `deadline` (unix seconds) and the skew have passed."""
        self._add(bytes(agent) + nonce.bytes, deadline)

    def prune(self, now: int) -> None:
        """Forget what can no longer be replayed at `now` (unix seconds)."""
        floor = now - CLOCK_SKEW_S
        if self.floor > now + MAX_LIFETIME_S:
            logger.warning("the clock stepped back by %d s: it was ahead before", self.floor - floor)
            self.floor = floor
        if floor <= self.floor:
            return
        self.floor = floor
        for deadline in [deadline for deadline in self._buckets if deadline <= floor]:
            for key in self._buckets.pop(deadline):
                self._deadlines.pop(key, None)

    def snapshot(self) -> dict[bytes, int]:
        """(agent 32 || nonce 16) -> deadline, for the log."""
        return dict(self._deadlines)

    def restore(self, deadlines: dict[bytes, int]) -> None:
        """Take back what `snapshot` gave."""
        for key, deadline in deadlines.items():
            self._add(key, deadline)

    def _add(self, key: bytes, deadline: int) -> None:
        if deadline > self.floor and key not in self._deadlines:
            self._deadlines[key] = deadline
            self._buckets.setdefault(deadline, []).append(key)
