"""HTTP/1.1 to one server: connections that are reused, answers in pieces as they arrive, trailers included.

Knows nothing of payments. What HTTP clients for general use do beyond this (redirects, cookies, decompression) a proxy
must not do.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import httptools

from machpay_gateway.due import Due

Headers = list[tuple[bytes, bytes]]

MAX_HEAD_BYTES: Final = 64 * 1024
"""The longest head of an answer, and the longest trailers."""
_HIGH_BYTES: Final = 256 * 1024
"""With so much of an answer unread, no more is read from the server."""
_LOW_BYTES: Final = 64 * 1024


class Broken(Exception):
    """The connection ended or the bytes on it are not HTTP. `is_fresh` is False if it had served a request before and
    nothing of this answer had arrived: then the server may just have closed it for being idle."""

    def __init__(self, detail: str, *, is_fresh: bool = True) -> None:
        super().__init__(detail)
        self.is_fresh = is_fresh


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time: `start`, `head`, `pieces`, then back to its pool."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read_timeout_s: float) -> None:
        self._loop = loop
        self._read_timeout_s = read_timeout_s
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._due = Due(loop, self._late)
        self.served = 0
        self.idle_since = 0.0
        self._parser: Any = httptools.HttpResponseParser(self)
        self._begin(b"GET")

    def _begin(self, method: bytes) -> None:
        # The parser stays: a connection is used again only if it stands between two answers.
        self._is_head = method == b"HEAD"
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._received = 0
        self._has_head = False
        self._is_paused = False
        self._reusable = False
        self._is_surplus = False
        self._to_end_of_file = False
        self.is_complete = False
        self.status = 0
        self.headers: Headers = []
        self.trailers: Headers = []
        self.length: int | None = None

    # --- The exchange -----------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._transport is not None and self._error is None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """After an exchange: whether another one may follow."""
        return self.is_open and self.is_complete and self._reusable and not self._buffered

    def start(self, method: bytes, data: bytes) -> None:
        """Send the head of a request, or all of it."""
        self._begin(method)
        self.write(data)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            if self._waiter is not None:
                # An upload that makes progress is not a server that does not answer.
                self._due.within(self._read_timeout_s)
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the server has taken enough of what was written. Raises `Broken`, `TimeoutError`."""
        if self._writable is not None:
            async with asyncio.timeout(self._read_timeout_s):
                await asyncio.shield(self._writable)
        if self._error is not None:
            raise self._error

    async def head(self) -> None:
        """Wait for the head of the answer. Raises `Broken`, `TimeoutError`."""
        while not self._has_head:
            await self._wait()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `Broken`, `TimeoutError`."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._buffered -= len(piece)
                if self._is_paused and self._buffered <= _LOW_BYTES and self._transport is not None:
                    self._is_paused = False
                    self._transport.resume_reading()
                yield piece
            if self.is_complete:
                return
            await self._wait()

    async def read(self) -> bytes:
        """All of a body that is short enough to be held. Raises like `pieces`."""
        while not self.is_complete:
            await self._wait()
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        return body

    @property
    def is_read(self) -> bool:
        """True if the answer has ended and nothing of it is left to read."""
        return self.is_complete and not self._pieces

    def abort(self, error: Exception | None = None) -> None:
        """Drop the connection."""
        if self._error is None:
            self._error = error or Broken("given up")
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    async def _wait(self) -> None:
        self._raise_error()
        waiter = self._waiter = self._loop.create_future()
        self._due.within(self._read_timeout_s)
        try:
            await waiter
        finally:
            self._waiter = None
            self._due.never()
        # What had arrived before the connection broke still counts.
        if not (self._pieces or self.is_complete):
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _late(self) -> None:
        self.abort(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- asyncio ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of a class of their own.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.is_complete or self._error is not None:
            # Bytes nobody asked for: whatever they are, the next request must not take them for its answer.
            self.abort(Broken("the server sent something between two answers"))
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.abort(Broken(f"not an HTTP answer: {error}"))
            return
        if not self._has_head and self._received > MAX_HEAD_BYTES:
            self.abort(Broken("the head of the answer is too long"))
        elif self._buffered > _HIGH_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._has_head and self._to_end_of_file and exc is None and self._error is None:
            self.is_complete = True
        if self._error is None:
            reason = "the server closed the connection" if exc is None else f"connection lost: {exc}"
            self._error = Broken(reason, is_fresh=self.served == 0 or self._received > 0)
        self._transport = None
        self._parser = None
        self._due.close()
        self.resume_writing()
        self._wake()

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # --- httptools --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.is_complete:
            # An answer that nobody asked for came along with ours: the connection is not used again.
            self._is_surplus, self._reusable = True, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_surplus:
            return
        (self.trailers if self._has_head else self.headers).append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._is_surplus:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return
        is_chunked = False
        for name, value in self.headers:
            if name == b"content-length":
                self.length = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked":
                    raise ValueError(f"the transfer coding {value!r} is not understood")
                is_chunked = True
        self._reusable = self._parser.should_keep_alive()
        self._has_head = True
        if self._is_head:
            # The parser would wait for a body.
            self.is_complete, self._reusable = True, False
        elif self.status not in (204, 304) and self.length is None and not is_chunked:
            self._to_end_of_file, self._reusable = True, False

    def on_body(self, body: bytes) -> None:
        if body and not self._is_head and not self._is_surplus:
            self._pieces.append(body)
            self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._has_head:
            self.is_complete = True
        elif not self._is_surplus:
            # 100 or 103: the answer itself follows.
            self.headers = []
