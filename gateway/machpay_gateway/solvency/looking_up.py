"""Bounded questions to the relayer: one per agent at a time, few at once, none waited for longer than its time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from solders.pubkey import Pubkey

T = TypeVar("T")

MAX_LOOK_UPS: Final = 32
"""Look-ups at the same time; more wait their turn within their own time limit."""
MAX_WAITING: Final = 256
"""Agents being looked up or waiting for it; for more strangers the answer is "unknown" at once, so that fresh keys
cannot pile up work."""


class LookUps(Generic[T]):
    """`fetch` answers a question, or None; it must not raise."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._running: dict[Pubkey, asyncio.Task[T | None]] = {}
        self._slots = asyncio.Semaphore(MAX_LOOK_UPS)

    def start(
        self, agent: Pubkey, fetch: Callable[[], Awaitable[T | None]], *, is_stranger: bool
    ) -> asyncio.Task[T | None] | None:
        """The question about `agent` that runs, or a new one; None if there are too many for one more stranger."""
        task = self._running.get(agent)
        if task is None:
            if is_stranger and len(self._running) >= MAX_WAITING:
                return None
            task = asyncio.create_task(self._run(fetch))
            self._running[agent] = task
            task.add_done_callback(lambda _task: self._running.pop(agent, None))
        return task

    async def ask(self, agent: Pubkey, fetch: Callable[[], Awaitable[T | None]]) -> T | None:
        """The answer, or None if there is none in time; the question itself goes on."""
        task = self.start(agent, fetch, is_stranger=True)
        if task is None:
            return None
        try:
            return await asyncio.wait_for(asyncio.shield(task), self._timeout_s)
        except TimeoutError:
            return None

    def is_running(self, agent: Pubkey) -> bool:
        return agent in self._running

    async def close(self) -> None:
        """Cancel what still runs."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, fetch: Callable[[], Awaitable[T | None]]) -> T | None:
        async with self._slots:
            return await fetch()
