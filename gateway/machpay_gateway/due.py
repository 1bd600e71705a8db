"""One timer for something that is put off again and again: it is moved only when it fires, or would fire too late."""

import asyncio
from collections.abc import Callable
from typing import Final

_EARLY_S: Final = 0.001
"""A timer may fire so much too early."""


class Due:
    """Calls `late` once the last `within` is over, unless `never` came first."""

    __slots__ = ("_at", "_late", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], None]) -> None:
        self._loop = loop
        self._late = late
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> None:
        """From now on there are `seconds`."""
        at = self._at = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._look)

    def never(self) -> None:
        """Nothing is due any more."""
        self._at = None

    def close(self) -> None:
        """Like `never`, for good; `late` is let go."""
        self._at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        del self._late

    def _look(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._at - self._loop.time() > _EARLY_S:
            self._timer = self._loop.call_at(self._at, self._look)
        else:
            self._at = None
            self._late()
