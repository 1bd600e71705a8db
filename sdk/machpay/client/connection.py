"""One HTTP/1.1 connection, and what is sent and received on it.

A connection carries one exchange after the other: `begin`, `write`, `head`, then `piece` until None or `take_all`. It
never repeats anything; what goes wrong comes out as one of httpx's `TransportError`s.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final, cast

import httptools
import httpx

PIECE_BYTES: Final = 64 * 1024
BUFFERED_MAX: Final = 256 * 1024
"""An answer that is not read pauses its connection here."""
HEAD_MAX: Final = 256 * 1024
NO_BODY: Final = (204, 304)


class Connection(asyncio.Protocol):
    """One connection and the answer that is being received on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._method = ""
        self._awaits = False
        self._has_head = False
        self._head_bytes = 0
        self._is_informational = False
        self._error: Exception | None = None
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._is_paused = False
        self._changed: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.gone = asyncio.Event()
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_complete = False
        self.is_reusable = True
        self.idle_since = 0.0

    # ---- the exchange's side

    @property
    def is_closed(self) -> bool:
        return self.gone.is_set() or self._transport is None or self._transport.is_closing()

    def has_answer(self) -> bool:
        """The head of the answer is here, or no answer is coming."""
        return self._has_head or self._error is not None

    def begin(self, method: str) -> None:
        """A request is about to be written."""
        self._method = method
        self._pieces.clear()
        self._buffered = self._head_bytes = 0
        self.status, self.headers = 0, []
        self._awaits, self._has_head, self.is_complete = True, False, False
        self._error = httpx.ReadError("the connection is closed") if self.is_closed else None

    async def write(self, data: bytes, timeout_s: float) -> None:
        """Write in pieces; stops early when the answer comes first."""
        for start in range(0, len(data), PIECE_BYTES):
            if self.has_answer() or self._transport is None:
                # Half a request is on the connection: it is of no use for another one.
                self.is_reusable = False
                return
            self._transport.write(
                data[start : start + PIECE_BYTES] if start or len(data) > PIECE_BYTES else data
            )
            if not self._writable.is_set():
                try:
                    async with asyncio.timeout(timeout_s):
                        await self._writable.wait()
                except TimeoutError as error:
                    raise httpx.WriteTimeout("the server does not read the request") from error

    async def head(self, timeout_s: float) -> None:
        """Wait for status and headers."""
        while not self._has_head:
            if self._error is not None:
                raise self._error
            await self._wait(timeout_s)

    async def piece(self, timeout_s: float) -> bytes | None:
        """The next piece of the body; None at its end."""
        while not self._pieces:
            if self.is_complete:
                return None
            if self._error is not None:
                raise self._error
            await self._wait(timeout_s)
        piece = self._pieces.popleft()
        self._buffered -= len(piece)
        if self._is_paused and self._buffered < BUFFERED_MAX // 2 and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return piece

    def take_all(self) -> bytes:
        """The whole body of a complete answer."""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        return body

    async def early_answer(self, seconds: float) -> None:
        """Give the server this long to answer before the request is whole."""
        with contextlib.suppress(httpx.ReadTimeout):
            while not self.has_answer():
                await self._wait(seconds)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._changed = loop.create_future()
        # Cheaper than a timeout scope, and this is waited for several times per call.
        timer = loop.call_later(timeout_s, self._time_out, self._changed)
        try:
            await self._changed
        finally:
            timer.cancel()
            self._changed = None

    def _time_out(self, waiting: "asyncio.Future[None]") -> None:
        if not waiting.done():
            waiting.set_exception(httpx.ReadTimeout("the server does not answer"))

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.is_complete and self._error is None:
            self._error = error
        self._wake()

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._awaits or self.is_complete:
            # Nobody asked: an idle connection that says something is of no use any more.
            self.is_reusable = False
            self.close()
            return
        if not self._has_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX:
                self._broken("its head is too long")
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broken("the server changed the protocol")
        except httptools.HttpParserError as error:
            self._broken(str(error))
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        self._writable.set()
        if self._awaits and not self.is_complete:
            if self._has_head and exc is None and self._ends_with_connection():
                self._complete()
            elif self._has_head:
                self._fail(httpx.RemoteProtocolError("the connection was closed before the answer was whole"))
            else:
                self._fail(httpx.ReadError(str(exc) if exc else "the server closed without an answer"))
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # ---- the parser's side

    def on_message_begin(self) -> None:
        if self.is_complete:
            # An answer that nobody asked for came along with ours.
            raise httpx.RemoteProtocolError("something follows the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes behind the body is a trailer: nothing that decides anything may come there.
        if not self._has_head:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._is_informational = True
            self.headers = []
            return
        self.status, self._has_head = status, True
        if self._method == "HEAD":
            # The parser waits for the body that the headers describe: this connection ends here.
            self.is_reusable = False
            self._complete()
            return

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._buffered += len(data)
        if self._buffered > BUFFERED_MAX and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._is_informational:
            self._is_informational = False
            return
        if not self._parser.should_keep_alive():
            self.is_reusable = False
        self._complete()

    def _ends_with_connection(self) -> bool:
        """The headers do not say where the body ends."""
        names = {name.lower() for name, _value in self.headers}
        is_framed = b"content-length" in names or b"transfer-encoding" in names
        return not is_framed and self.status not in NO_BODY

    def _complete(self) -> None:
        self.is_complete = True
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    def _broken(self, detail: str) -> None:
        self.is_reusable = False
        self._fail(httpx.RemoteProtocolError(f"not an HTTP answer: {detail}"))
        self.abort()


class Upload:
    """A body that is sent as it comes: `prefix`, then the pieces of `rest`, which can be taken once.

    With a `pause_s` the server may answer between the two: then `rest` is not touched. `length` is None when nobody
    knows it: then the body is sent in chunks.
    """

    def __init__(
        self, prefix: bytes, rest: AsyncIterable[bytes], *, length: int | None, pause_s: float = 0.0
    ) -> None:
        self._prefix = prefix
        self._rest = rest
        self._pause_s = pause_s
        self.is_chunked = length is None
        self.is_spent = False
        """Something of `rest` was taken."""

    async def send(self, connection: Connection, timeout_s: float) -> None:
        await self._write(connection, self._prefix, timeout_s)
        if self._pause_s:
            await connection.early_answer(self._pause_s)
        if not connection.has_answer():
            self.is_spent = True
            async for piece in self._rest:
                await self._write(connection, piece, timeout_s)
                if connection.has_answer():
                    break
        if connection.has_answer():
            # What is left would go nowhere.
            connection.is_reusable = False
        elif self.is_chunked:
            await connection.write(b"0\r\n\r\n", timeout_s)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The whole body, for who sends it otherwise."""
        self.is_spent = True
        yield self._prefix
        async for piece in self._rest:
            yield piece

    async def _write(self, connection: Connection, piece: bytes, timeout_s: float) -> None:
        if self.is_chunked and piece:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        await connection.write(piece, timeout_s)
