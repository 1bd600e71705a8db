"""Two small thread pools: one verifies signatures, one uses the database. The event loop does neither.

Verification releases the GIL, so one thread per core is enough. Each database thread keeps one Django connection.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

import structlog
from django.db import InterfaceError, InternalError, OperationalError, close_old_connections

from apps.core.errors import DomainError

P = ParamSpec("P")
T = TypeVar("T")

DATABASE_THREADS: Final = 4

log = structlog.get_logger(__name__)


class DatabaseUnavailable(DomainError):
    """The database did not take or keep the transaction; nothing was stored."""

    code = "database_unavailable"
    status = 503


class Threads:
    """Made when the process starts, closed when it ends."""

    def __init__(self) -> None:
        self._verifiers = ThreadPoolExecutor(os.cpu_count() or 1, "verify")
        self._database = ThreadPoolExecutor(DATABASE_THREADS, "database")

    async def verify(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run CPU work that needs no database."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._verifiers, partial(function, *args, **kwargs))

    async def database(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a service or selector. Raises `DatabaseUnavailable` if the database is away or gave the transaction
        up."""
        loop = asyncio.get_running_loop()
        work = partial(_with_connection, partial(function, *args, **kwargs))
        return await loop.run_in_executor(self._database, work)

    async def close(self) -> None:
        """Wait for the work that runs. The process ends after this, and the threads' connections with it."""
        await asyncio.to_thread(self._verifiers.shutdown, wait=True)
        await asyncio.to_thread(self._database.shutdown, wait=True)


def _with_connection(work: Callable[[], T]) -> T:
    close_old_connections()
    try:
        return work()
    # Internal is also what a standby says that takes no writes yet.
    except (OperationalError, InterfaceError, InternalError) as error:
        log.warning("database_unavailable", error=str(error))
        raise DatabaseUnavailable(
            "the database is not available; nothing was stored", retry_after_s=1
        ) from error
