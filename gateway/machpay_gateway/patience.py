"""Bounds on how long something may take, for many at once: one timer for all that may take equally long.

`asyncio.timeout` has a timer for each use, which costs more than most of what it guards.
"""

import asyncio
from types import TracebackType


class Patience:
    """A bound of `seconds`, made inside the event loop. Each `with patience.limit():` raises `TimeoutError` if what is
    awaited inside takes longer; it works like `asyncio.timeout`, by cancelling the task."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.loop = asyncio.get_running_loop()
        self._waits: dict[_Wait, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def limit(self) -> "_Wait":
        """One use of the bound, which begins at `with`."""
        return _Wait(self)

    def begin(self, wait: "_Wait") -> None:
        """Watch `wait` from now on. They are equally long, so that the first to begin is the first to be late."""
        wait.late_at = self.loop.time() + self._seconds
        self._waits[wait] = None
        if self._timer is None:
            self._timer = self.loop.call_at(wait.late_at, self._look)

    def end(self, wait: "_Wait") -> None:
        """`wait` is over."""
        self._waits.pop(wait, None)

    def _look(self) -> None:
        self._timer = None
        now = self.loop.time()
        for wait in list(self._waits):
            if wait.late_at - now > 0.001:
                self._timer = self.loop.call_at(wait.late_at, self._look)
                return
            del self._waits[wait]
            wait.expire()


class _Wait:
    """One use."""

    __slots__ = ("_cancelling", "_is_late", "_patience", "_task", "late_at")

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._is_late = False
        self.late_at = 0.0

    def __enter__(self) -> None:
        task = asyncio.current_task(self._patience.loop)
        if task is None:
            raise RuntimeError("only a task can be timed")
        self._task = task
        self._cancelling = task.cancelling()
        self._patience.begin(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._patience.end(self)
        # Somebody else may have cancelled the task as well: then that is what happened.
        if self._is_late and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """It took too long."""
        self._is_late = True
        self._task.cancel()
