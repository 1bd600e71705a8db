"""Answers of paid exchanges, kept in memory so that the same payment offered again gets the same answer.

Bounded by bytes and by time, oldest out first. An answer that is no longer here is not lost money: the log knows what
became of the payment.
"""

import asyncio
import time
from collections import OrderedDict
from typing import Final

import msgspec

from machpay_gateway.headers import Headers

_OVERHEAD_BYTES: Final = 1024
"""What an entry costs besides its body, roughly."""


class Kept(msgspec.Struct, gc=False):
    """One answer. `signature` and `request_hash` are the payment's: who repeats it has to know both."""

    signature: bytes
    request_hash: bytes
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    kept_at: float


class Responses:
    """Kept answers by the payment's digest, and those who wait for one."""

    def __init__(self, keep_s: float, max_bytes: int, total_bytes: int) -> None:
        self._keep_s = keep_s
        self.max_bytes = max_bytes
        self._total_bytes = total_bytes
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._bytes = 0
        self._waiting: dict[bytes, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(
        self,
        digest: bytes,
        *,
        signature: bytes,
        request_hash: bytes,
        status: int,
        headers: Headers,
        body: bytes,
    ) -> None:
        """Keep an answer, if it is not too long."""
        if len(body) > self.max_bytes or digest in self._kept:
            return
        now = time.monotonic()
        self._kept[digest] = Kept(signature, request_hash, status, tuple(headers), body, now)
        self._bytes += len(body) + _OVERHEAD_BYTES
        while self._bytes > self._total_bytes or next(iter(self._kept.values())).kept_at + self._keep_s < now:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.body) + _OVERHEAD_BYTES

    def find(self, digest: bytes) -> Kept | None:
        """The answer that a payment got, unless it is too old."""
        kept = self._kept.get(digest)
        if kept is None or kept.kept_at + self._keep_s < time.monotonic():
            return None
        return kept

    def ended(self, digest: bytes) -> None:
        """The payment's exchange has ended: wake who waits for it."""
        if self._waiting:
            waiter = self._waiting.pop(digest, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    async def wait(self, digest: bytes, timeout_s: float) -> bool:
        """Wait for the end of a payment that is in flight; False if it takes longer."""
        waiter = self._waiting.get(digest)
        if waiter is None:
            waiter = self._waiting[digest] = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([waiter], timeout=timeout_s)
        return bool(done)
