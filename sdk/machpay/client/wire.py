"""HTTP/1.1 over pooled connections, as little of it as a paid call needs: httpx's own stack costs several times what
the payment does.

Speaks httpx's language outwards: its errors, its URLs, and bodies that its responses can read. It decides nothing; it
never repeats a request and never follows a redirect. Timeouts bound each phase: connecting, waiting for a free
connection, writing one piece, waiting for the next one.
"""

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final

import httpx

from machpay.client.connection import Connection, Upload

RawHeaders = Sequence[tuple[bytes, bytes]]
Origin = tuple[str, str, int]

KEEP_IDLE_S: Final = 5.0
"""Servers close idle connections after about this time; one that is older is not used again."""
FAREWELL_S: Final = 1.0


class Wire:
    """A pool of connections. Belongs to one event loop."""

    def __init__(self, *, timeout_s: float, max_connections: int) -> None:
        self._timeout_s = timeout_s
        self._max = max_connections
        self._turns = asyncio.Semaphore(max_connections)
        self._idle: dict[Origin, deque[Connection]] = {}
        self._idle_count = 0
        self._tls: ssl.SSLContext | None = None
        self._is_closed = False

    async def open(
        self,
        method: str,
        url: httpx.URL,
        headers: RawHeaders,
        body: bytes | Upload,
    ) -> "Exchange":
        """Send a request and wait for the head of its answer. The caller reads the exchange to its end or closes it.

        Raises httpx's `TransportError`s; `ConnectError`, `ConnectTimeout`, `PoolTimeout` and `LocalProtocolError` mean
        that nothing left.
        """
        head = _request_head(method, url, headers, chunked=not isinstance(body, bytes) and body.is_chunked)
        host = url.raw_host.decode("ascii")
        origin = (url.scheme, host, url.port or (443 if url.scheme == "https" else 80))
        if self._turns.locked():
            await self._wait_for_turn()
        else:
            await self._turns.acquire()
        try:
            connection = self._reusable(origin) or await self._connect(origin)
        except BaseException:
            self._turns.release()
            raise
        exchange = Exchange(self, connection, origin)
        try:
            connection.begin(method)
            if isinstance(body, bytes):
                await connection.write(head + body, self._timeout_s)
            else:
                await connection.write(head, self._timeout_s)
                await body.send(connection, self._timeout_s)
            await connection.head(self._timeout_s)
        except BaseException:
            exchange.abort()
            raise
        exchange.status, exchange.headers = connection.status, connection.headers
        return exchange

    async def aclose(self) -> None:
        """Close idle connections; those in use close with their exchanges."""
        self._is_closed = True
        waiting = [connection for idle in self._idle.values() for connection in idle]
        self._idle.clear()
        for connection in waiting:
            connection.close()
        # Transports close in the loop's next turns, TLS after a farewell that some servers do not answer.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await asyncio.gather(*(connection.gone.wait() for connection in waiting))
        for connection in waiting:
            connection.abort()

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout(f"{self._max} connections are in use") from error

    def release(self, connection: Connection, origin: Origin) -> None:
        """An exchange has ended: its connection may serve another one, unless it was closed."""
        self._turns.release()
        if connection.is_closed or not connection.is_reusable or self._is_closed:
            connection.close()
            return
        if self._idle_count >= self._max:
            self._drop_oldest()
        connection.idle_since = time.monotonic()
        self._idle.setdefault(origin, deque()).append(connection)
        self._idle_count += 1

    def _reusable(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if connection.is_closed:
                continue
            if time.monotonic() - connection.idle_since < KEEP_IDLE_S:
                return connection
            connection.close()
        return None

    def _drop_oldest(self) -> None:
        idle = min((idle for idle in self._idle.values() if idle), key=lambda idle: idle[0].idle_since)
        idle.popleft().close()
        self._idle_count -= 1

    async def _connect(self, origin: Origin) -> Connection:
        scheme, host, port = origin
        if scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"{scheme}:// is not HTTP")
        tls = self._context() if scheme == "https" else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                _transport, connection = await loop.create_connection(
                    Connection, host, port, ssl=tls, server_hostname=host if tls else None
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection to {host}:{port}") from error
        except (OSError, ssl.SSLError, UnicodeError) as error:
            raise httpx.ConnectError(str(error) or type(error).__name__) from error
        return connection

    def _context(self) -> ssl.SSLContext:
        # Takes tens of milliseconds; only who calls an https URL needs it.
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


class Exchange(httpx.AsyncByteStream):
    """One request's answer: `status`, `headers`, and the body, read once or piece by piece."""

    def __init__(self, wire: Wire, connection: Connection, origin: Origin) -> None:
        self._wire = wire
        self._connection = connection
        self._origin = origin
        self._is_over = False
        self.status = 0
        self.headers: RawHeaders = ()

    async def read(self) -> bytes:
        """The whole body. Raises httpx's `TransportError`s."""
        try:
            pieces = [piece async for piece in self] if not self._connection.is_complete else None
            return self._connection.take_all() if pieces is None else b"".join(pieces)
        finally:
            await self.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection, timeout_s = self._connection, self._wire._timeout_s
        while (piece := await connection.piece(timeout_s)) is not None:
            yield piece

    async def aclose(self) -> None:
        """Give the connection back, or drop it if the answer was not read to its end."""
        if self._is_over:
            return
        if not self._connection.is_complete:
            self.abort()
            return
        self._is_over = True
        self._wire.release(self._connection, self._origin)

    def abort(self) -> None:
        """Drop the connection."""
        if not self._is_over:
            self._is_over = True
            self._connection.abort()
            self._wire.release(self._connection, self._origin)


def _request_head(method: str, url: httpx.URL, headers: RawHeaders, *, chunked: bool) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), url.raw_path), *map(b": ".join, headers)]
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    # A line break inside a name or a value would begin a header, or a request, of somebody else's.
    if head.count(b"\r") != len(lines) + 1 or head.count(b"\n") != len(lines) + 1 or b"\0" in head:
        raise httpx.LocalProtocolError("a header must not hold line breaks")
    return head
