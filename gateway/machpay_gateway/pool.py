"""Connections to one server, opened as they are needed and used again while they are good."""

import asyncio
import ssl
from collections import deque
from typing import Any

from machpay_gateway.http1 import Connection


class Pool:
    """Connections to one server, the one used last first."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        connect_timeout_s: float,
        read_timeout_s: float,
        keep_alive_s: float,
        max_connections: int,
    ) -> None:
        self._address = (host, port)
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._keep_alive_s = keep_alive_s
        self._idle: deque[Connection] = deque()
        self._free = max_connections
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """A connection to be given back by `release`. Raises `OSError`, `TimeoutError`."""
        if self._free:
            self._free -= 1
        else:
            await self._wait_for_slot()
        try:
            return (None if fresh else self._reuse()) or await self._connect()
        except BaseException:
            self._give_slot()
            raise

    def release(self, connection: Connection) -> None:
        """Take a connection back; one that cannot be used again is dropped."""
        self._give_slot()
        if connection.is_reusable:
            connection.served += 1
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        while self._idle:
            self._idle.popleft().abort()

    async def _wait_for_slot(self) -> None:
        slot = self._loop.create_future()
        self._waiting.append(slot)
        try:
            async with asyncio.timeout(self._connect_timeout_s + self._read_timeout_s):
                await slot
        except BaseException:
            if slot.done() and not slot.cancelled():
                # It was given to who no longer wants it.
                self._give_slot()
            raise

    def _give_slot(self) -> None:
        """To who has waited longest, else to whoever comes next."""
        while self._waiting:
            slot = self._waiting.popleft()
            if not slot.done():
                slot.set_result(None)
                return
        self._free += 1

    def _reuse(self) -> Connection | None:
        oldest_allowed = self._loop.time() - self._keep_alive_s
        while self._idle and (self._idle[0].idle_since < oldest_allowed or not self._idle[0].is_open):
            self._idle.popleft().abort()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self) -> Connection:
        host, port = self._address
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {"ssl": self._tls, "server_hostname": host}
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._loop, self._read_timeout_s), host, port, **options
            )
        return connection
