"""The vendor's server: requests forwarded as they are, answers streamed as they come, every failure typed.

Redirects, cookies and encodings are passed through untouched: the client talks to the vendor, we carry.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Final, Self
from urllib.parse import urlsplit

from machpay_gateway.errors import UpstreamError
from machpay_gateway.headers import Headers, to_upstream
from machpay_gateway.http1 import Broken, Connection
from machpay_gateway.pool import Pool
from machpay_gateway.request import Request
from machpay_gateway.settings import UpstreamSection

_REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Methods that may be sent again when a reused connection turns out to be closed."""
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_LOOK_UP_BYTES: Final = 4096


class UpstreamAnswer:
    """An answer whose head has arrived. Close it in any case."""

    __slots__ = ("_connection", "_pool", "_upload", "headers", "length", "status")

    def __init__(self, connection: Connection, pool: Pool, upload: "asyncio.Task[None] | None") -> None:
        self._connection: Connection | None = connection
        self._pool = pool
        self._upload = upload
        self.status = connection.status
        self.headers: Headers = connection.headers
        self.length = connection.length

    @property
    def has_no_body(self) -> bool:
        """True for statuses that never carry one."""
        return self.status in (204, 205, 304)

    @property
    def is_complete(self) -> bool:
        """True if all of it has arrived; `read` gives it without waiting."""
        return self._connection is not None and self._connection.is_complete

    @property
    def is_at_end(self) -> bool:
        """True if everything was read and the upstream ended its answer properly."""
        return self._connection is not None and self._connection.is_read

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header (lowercase `name`)."""
        return next((value for key, value in self.headers if key == name), None)

    def trailer(self, name: bytes) -> bytes | None:
        """The first value of a trailer (lowercase `name`), once the body was read."""
        trailers = self._connection.trailers if self._connection is not None else []
        return next((value for key, value in trailers if key == name), None)

    async def read(self) -> bytes:
        """The whole of a short body. Raises `UpstreamError` if it breaks off."""
        if self._connection is None:
            raise UpstreamError(502, "upstream_unreachable", "the answer was closed")
        try:
            return await self._connection.read()
        except (Broken, TimeoutError, OSError) as error:
            raise _failure(error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive. Raises `UpstreamError` if it breaks off."""
        if self._connection is None:
            raise UpstreamError(502, "upstream_unreachable", "the answer was closed")
        try:
            async for piece in self._connection.pieces():
                yield piece
        except (Broken, TimeoutError, OSError) as error:
            raise _failure(error) from error

    def close(self) -> None:
        """Give the connection back, or drop it if the exchange on it has not ended."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
            connection.abort()
        self._pool.release(connection)


class Upstream:
    """Use as an async context manager."""

    def __init__(self, settings: UpstreamSection) -> None:
        parts = urlsplit(settings.url)
        self._settings = settings
        self._is_tls = parts.scheme == "https"
        self._name = parts.hostname or ""
        self._port = parts.port or (443 if self._is_tls else 80)
        self._prefix = parts.path.rstrip("/").encode()
        self._host_line = b"host: " + parts.netloc.encode() + b"\r\n"
        self._pool: Pool | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings
        self._pool = Pool(
            self._name,
            self._port,
            tls=ssl.create_default_context() if self._is_tls else None,
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
            keep_alive_s=settings.keep_alive_s,
            max_connections=settings.max_connections,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    async def open(self, request: Request, extra: Headers | None = None) -> UpstreamAnswer:
        """Forward `request` with `extra` headers and wait for the head of the answer. Raises `UpstreamError`, and what
        reading a streamed request body raises."""
        headers = self.headers_for(request)
        if extra:
            headers += extra
        if request.is_whole:
            return await self._send(request.method, request.target, headers, request.body)
        pool = self._running()
        try:
            connection = await pool.acquire(fresh=True)
        except (TimeoutError, OSError) as error:
            raise _failure(error) from error
        declared = request.declared_length
        if declared is None:
            headers.append((b"transfer-encoding", b"chunked"))
        else:
            headers.append((b"content-length", b"%d" % declared))
        connection.start(request.method.encode(), self._head(request.method, request.target, headers))
        upload = asyncio.create_task(_upload(connection, request, is_chunked=declared is None))
        try:
            await connection.head()
        except BaseException as error:
            upload.cancel()
            connection.abort()
            pool.release(connection)
            if isinstance(error, Broken | TimeoutError | OSError):
                raise request.failure or _failure(error) from error
            raise
        return UpstreamAnswer(connection, pool, upload)

    def headers_for(self, request: Request) -> Headers:
        """What of the request's headers is passed on."""
        return to_upstream(
            request.headers,
            forwarded_for=request.forwarded_for,
            scheme=request.scheme,
            host=request.host if request.via else None,
        )

    async def get(self, target: str) -> tuple[int, bytes]:
        """Ask the upstream something of our own; status and body. Raises `UpstreamError`."""
        answer = await self._send("GET", target.encode(), [(b"accept", b"application/json")], b"")
        try:
            body = b""
            async for piece in answer.chunks():
                body += piece
                if len(body) > _LOOK_UP_BYTES:
                    raise UpstreamError(502, "upstream_unreachable", "the answer is too long")
            return answer.status, body
        finally:
            answer.close()

    async def _send(self, method: str, target: bytes, headers: Headers, body: bytes) -> UpstreamAnswer:
        """One whole request, sent again once if an idle connection turned out to be closed."""
        pool = self._running()
        if body or method in _WITH_BODY:
            headers.append((b"content-length", b"%d" % len(body)))
        data = self._head(method, target, headers) + body
        for fresh in (False, True):
            try:
                connection = await pool.acquire(fresh=fresh)
            except (TimeoutError, OSError) as error:
                raise _failure(error) from error
            try:
                connection.start(method.encode(), data)
                await connection.head()
            except Broken as error:
                pool.release(connection)
                if error.is_fresh or fresh or method not in _REPEATABLE:
                    raise _failure(error) from error
            except (TimeoutError, OSError) as error:
                pool.release(connection)
                raise _failure(error) from error
            except BaseException:
                pool.release(connection)
                raise
            else:
                return UpstreamAnswer(connection, pool, None)
        raise AssertionError("the second attempt returns or raises")

    def _head(self, method: str, target: bytes, headers: Headers) -> bytes:
        lines = b"".join([b"%b: %b\r\n" % line for line in headers])
        return b"%b %b%b HTTP/1.1\r\n%b%b\r\n" % (
            method.encode(),
            self._prefix,
            target,
            self._host_line,
            lines,
        )

    def _running(self) -> Pool:
        if self._pool is None:
            raise UpstreamError(502, "upstream_unreachable", "the gateway is stopping")
        return self._pool


async def _upload(connection: Connection, request: Request, *, is_chunked: bool) -> None:
    """Pass a streamed request body on, no faster than the upstream takes it."""
    try:
        async for piece in request.rest():
            if piece:
                connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            await connection.drain()
        if is_chunked:
            connection.write(b"0\r\n\r\n")
    except (Broken, TimeoutError, OSError) as error:
        # The upstream may have answered before it hung up; whoever reads the answer finds out.
        connection.abort(error)
    except Exception as error:
        # The client's side ended it; `request.failure` says how.
        connection.abort(Broken(f"the request was not completed: {error}"))


def _failure(error: Exception) -> UpstreamError:
    if isinstance(error, TimeoutError):
        return UpstreamError(504, "upstream_timeout", "the upstream did not answer in time")
    return UpstreamError(502, "upstream_unreachable", f"the upstream failed: {type(error).__name__}")
