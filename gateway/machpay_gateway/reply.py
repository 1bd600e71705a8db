"""The answer to one request, as bytes on the client's connection. Knows nothing of what it says.

An answer that is whole when it begins leaves in one piece. One that is streamed is `start`, `piece`, `end`; without a
`content-length` it travels in chunks. Every answer says when it was made and which request it is for.
"""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, Protocol

Headers = list[tuple[bytes, bytes]]

BODILESS: Final = frozenset({204, 304})
"""Statuses whose answers end with their head."""
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus
}
_SAFE: Final = bytes({*range(32, 127), *range(128, 256), 9})
"""What may stand in a header: everything but control characters."""


class ClientStalled(Exception):
    """The client stopped reading its answer."""


class Way(Protocol):
    """The connection, as far as an answer needs it."""

    @property
    def is_full(self) -> bool:
        """True while the client takes no more."""

    async def drain(self, timeout_s: float | None) -> None:
        """Wait until it does. Raises `TimeoutError`."""

    def write(self, data: bytes) -> None:
        """Send, unless the client has gone."""

    def answered(self, reply: "Reply") -> None:
        """The last byte was written."""


class Reply:
    """One answer. `route` is set by who knows it; the rest is read by who counts.

    Answering for a client that has gone does nothing. Raises `RuntimeError` for an answer that would not be HTTP."""

    __slots__ = (
        "_is_chunked",
        "_is_head",
        "_left",
        "_request_id",
        "_way",
        "bytes_out",
        "is_complete",
        "keep_alive",
        "route",
        "started_at",
        "status",
    )

    def __init__(self, way: Way, request_id: bytes, *, is_head: bool, keep_alive: bool) -> None:
        self._way = way
        self._request_id = request_id
        self._is_head = is_head
        self._is_chunked = False
        self._left = 0
        self.keep_alive = keep_alive
        self.started_at = time.perf_counter()
        self.status: int | None = None
        self.bytes_out = 0
        self.is_complete = False
        self.route: str | None = None

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """All of an answer; `content-length` is added if it is missing."""
        if self._way.is_full:
            await self._way.drain(None)
        head, declared = self._head(status, headers)
        if self._is_head or status in BODILESS:
            body = b""
        elif declared is None:
            head += b"content-length: %d\r\n" % len(body)
        elif declared != len(body):
            raise RuntimeError(f"{len(body)} bytes in an answer that declares {declared}")
        self.status = status
        self._write(b"%b\r\n%b" % (head, body))
        self._end()

    async def start(self, status: int, headers: Headers) -> None:
        """The head of an answer whose body follows in pieces."""
        if self._way.is_full:
            await self._way.drain(None)
        head, declared = self._head(status, headers)
        if not (self._is_head or status in BODILESS):
            self._left = declared or 0
            if declared is None:
                self._is_chunked = True
                head += b"transfer-encoding: chunked\r\n"
        self.status = status
        self._write(head + b"\r\n")

    async def piece(self, piece: bytes, timeout_s: float | None) -> None:
        """A part of the body. Raises `ClientStalled` if the client does not take what was sent before in time."""
        if self._way.is_full:
            try:
                await self._way.drain(timeout_s)
            except TimeoutError as error:
                raise ClientStalled from error
        if self._is_head or not piece:
            return
        if self._is_chunked:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        else:
            self._left -= len(piece)
            if self._left < 0:
                raise RuntimeError("more bytes in an answer than it declares")
        self._write(piece)

    async def end(self) -> None:
        """The body is complete."""
        if self._is_chunked:
            self._write(b"0\r\n\r\n")
        elif self._left:
            raise RuntimeError("fewer bytes in an answer than it declares")
        self._end()

    def _head(self, status: int, headers: Headers) -> tuple[bytes, int | None]:
        """The head without its last line, and the length it declares."""
        if self.status is not None:
            raise RuntimeError("a request has one answer")
        named = dict(headers)
        connection, declared = named.get(b"connection"), named.get(b"content-length")
        lines = [
            _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status,
            _date_line(),
            b"x-request-id: " + self._request_id,
            *[b": ".join(line) for line in headers],
        ]
        if connection is not None and connection.lower() == b"close":
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close")
        lines.append(b"")
        head = b"\r\n".join(lines)
        # No line may end where its author did not end it.
        if len(head.translate(None, _SAFE)) != 2 * len(lines) - 2:
            raise RuntimeError("a control character in a header")
        return head, None if declared is None else int(declared)

    def _write(self, data: bytes) -> None:
        self.bytes_out += len(data)
        self._way.write(data)

    def _end(self) -> None:
        self.is_complete = True
        self._way.answered(self)


class _Date:
    """The `date` line of this second."""

    second = 0
    line = b""


def _date_line() -> bytes:
    now = int(time.time())
    if now != _Date.second:
        _Date.second, _Date.line = now, f"date: {formatdate(now, usegmt=True)}".encode()
    return _Date.line
