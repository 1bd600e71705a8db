"""One HTTP request: facts taken from its head once, and its body as it arrives.

Knows nothing of payments beyond the names of their headers.
"""

import asyncio
import hashlib
import urllib.parse
from collections.abc import AsyncIterator
from typing import Final, Protocol

import httptools

from machpay.protocol.requests import MAX_BOUND_BODY_BYTES, Binding, request_hash, route_hash
from machpay_gateway.errors import RequestError
from machpay_gateway.limits import Proxies

Headers = list[tuple[bytes, bytes]]

HIGH_BYTES: Final = 64 * 1024
"""With so much of a body unread, no more is read from the client."""
_EMPTY_SHA256: Final = hashlib.sha256(b"").digest()


class ClientGone(Exception):
    """The client hung up before its request was complete; there is nobody to answer."""


class Client(Protocol):
    """Who sends requests on one connection, and what it may do."""

    host: str | None
    max_body_bytes: int
    body_timeout_s: float
    proxies: Proxies

    def pause_reading(self) -> None:
        """Let the client wait with the rest."""

    def resume_reading(self) -> None:
        """Take more from the client."""

    def invite(self) -> None:
        """Tell the client that its body is wanted (100 Continue)."""

    def abort(self) -> None:
        """Drop the connection."""


class Request:
    """Method, target and headers; `read_head` then gives the part of the body that payments are bound to.

    Raises `ValueError` and httptools' errors for a target that is none."""

    __slots__ = (
        "_by_name",
        "_client",
        "_expects_continue",
        "_has_arrived",
        "_pieces",
        "_scheme",
        "_unread",
        "_waiter",
        "body",
        "client_host",
        "failure",
        "headers",
        "is_gone",
        "is_whole",
        "method",
        "path",
        "raw_path",
        "request_id",
        "target",
        "via",
        "wants_upgrade",
    )

    def __init__(
        self,
        client: Client,
        method: str,
        target: bytes,
        headers: Headers,
        *,
        request_id: bytes = b"",
        wants_upgrade: bool = False,
    ) -> None:
        self._client = client
        self.method = method
        self.target = target
        """Path and query exactly as received (origin form)."""
        self.raw_path: bytes
        if target[:1] == b"/" and b"#" not in target:
            self.raw_path = target.partition(b"?")[0]
        else:
            self._read_target(target)
        path = self.raw_path.decode("ascii")
        self.path = urllib.parse.unquote(path) if "%" in path else path
        self.headers = headers
        self._by_name = dict(headers)
        self.request_id = request_id
        self.wants_upgrade = wants_upgrade
        """True if the client asks to go on in another protocol, WebSocket for one."""
        self.client_host: str | None
        self.via: str | None = None
        """The trusted proxy that passed the request on for `client_host`."""
        self.comes_from(client.host, "http")
        self.body = b""
        self.is_whole = False
        self.is_gone = False
        """True once the client has hung up."""
        self.failure: RequestError | ClientGone | None = None
        """Why streaming the body ended early: HTTP clients hide it behind an error of their own."""
        self._expects_continue = self._by_name.get(b"expect", b"").lower() == b"100-continue"
        self._pieces: list[bytes] = []
        self._unread = 0
        self._has_arrived = False
        self._waiter: asyncio.Future[None] | None = None

    def _read_target(self, target: bytes) -> None:
        """Targets in other forms than `/path?query`."""
        if b"#" in target:
            # No target has a fragment. What we take for one the upstream may take for more of the path.
            raise ValueError("a fragment in the target")
        parsed = httptools.parse_url(target)
        if not parsed.path:
            raise ValueError("the target has no path")
        self.raw_path = parsed.path
        if not target.startswith(b"/"):
            self.target = parsed.path + b"?" + parsed.query if parsed.query else parsed.path

    def comes_from(self, host: str | None, scheme: str) -> None:
        """Say who asks, and how it reached us; a trusted proxy's word for somebody else is taken."""
        self.client_host, self._scheme, self.via = host, scheme, None
        proxies = self._client.proxies
        if proxies and host is not None and proxies.trusts(host):
            self.via = host
            self.client_host = proxies.client(host, b",".join(self._all(b"x-forwarded-for")))

    # --- The head ---------------------------------------------------------------------------------------------------

    @property
    def scheme(self) -> str:
        """`http` or `https`, as the client used it."""
        if self.via is not None and self.header(b"x-forwarded-proto") in (b"http", b"https"):
            return (self.header(b"x-forwarded-proto") or b"").decode()
        return self._scheme

    @property
    def host(self) -> bytes | None:
        """The host that the client asked for."""
        return (self.via and self.header(b"x-forwarded-host")) or self.header(b"host")

    @property
    def forwarded_for(self) -> bytes | None:
        """The way the request took, as the next server is told it: what a trusted proxy said, and our own peer."""
        if self.via is None:
            return None if self.client_host is None else self.client_host.encode()
        return b", ".join([*self._all(b"x-forwarded-for"), self.via.encode()])

    def header(self, name: bytes) -> bytes | None:
        """The value of a header (lowercase `name`); None if it is absent. Raises 400 if it is there twice."""
        value = self._by_name.get(name)
        if value is None or len(self._by_name) == len(self.headers) or len(self._all(name)) == 1:
            return value
        raise RequestError(400, "duplicate_header", f"{name.decode()} is there more than once")

    @property
    def wants_web_socket(self) -> bool:
        """True if the client asks to go on in WebSocket."""
        return self.wants_upgrade and (self.header(b"upgrade") or b"").lower() == b"websocket"

    @property
    def declared_length(self) -> int | None:
        """`Content-Length`, None for a body in chunks."""
        declared = self.header(b"content-length")
        return int(declared) if declared is not None and declared.isdigit() else None

    def binding(self) -> tuple[Binding, bytes]:
        """How a payment for this request is bound to it, and the hash. After `read_head`."""
        if self.is_whole and len(self.body) <= MAX_BOUND_BODY_BYTES:
            body_hash = hashlib.sha256(self.body).digest() if self.body else _EMPTY_SHA256
            return "request", request_hash(self.method, self.target, body_sha256=body_hash)
        return "route", route_hash(self.method, self.raw_path)

    def _all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    # --- The body ---------------------------------------------------------------------------------------------------

    async def read_head(self) -> None:
        """Read the body up to what a payment can be bound to; `is_whole` says whether that is all of it.

        Raises 413 if the declared or received length is above `max_body_bytes`, 408, `ClientGone`.
        """
        declared = self.declared_length
        if declared is not None and declared > self._client.max_body_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        while size <= MAX_BOUND_BODY_BYTES:
            chunk = await self._next()
            if chunk:
                chunks.append(chunk)
                size += len(chunk)
                if size > self._client.max_body_bytes:
                    raise self._too_large()
            if self._has_arrived and not self._pieces:
                self.is_whole = True
                break
        self.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def rest(self) -> AsyncIterator[bytes]:
        """The whole body as a stream: what was read, then what still arrives. Raises like `read_head`."""
        size = len(self.body)
        yield self.body
        while not self.is_whole:
            try:
                chunk = await self._next()
                size += len(chunk)
                if size > self._client.max_body_bytes:
                    raise self._too_large()
            except (ClientGone, RequestError) as error:
                self.failure = error
                raise
            self.is_whole = self._has_arrived and not self._pieces
            if chunk:
                yield chunk

    def abort(self) -> None:
        """Drop the client's connection, so that an answer that ends here does not look whole."""
        self._client.abort()

    async def _next(self) -> bytes:
        """What has arrived of the body, waiting for some if nothing has."""
        if not (self._pieces or self._has_arrived or self.is_gone):
            await self._wait()
        if self.is_gone:
            raise ClientGone
        pieces, self._pieces, self._unread = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _wait(self) -> None:
        if self._expects_continue:
            self._expects_continue = False
            self._client.invite()
        self._client.resume_reading()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._client.body_timeout_s):
                await self._waiter
        except TimeoutError as error:
            close = (b"connection", b"close")
            raise RequestError(408, "body_timeout", "the body stopped arriving", (close,)) from error
        finally:
            self._waiter = None

    def _too_large(self) -> RequestError:
        limit = self._client.max_body_bytes
        return RequestError(413, "body_too_large", f"the body may have at most {limit} bytes")

    # --- The connection's side --------------------------------------------------------------------------------------

    @property
    def has_arrived(self) -> bool:
        """True if the client has sent all of it."""
        return self._has_arrived

    def feed(self, piece: bytes) -> None:
        """A part of the body arrived."""
        self._pieces.append(piece)
        self._unread += len(piece)
        if self._unread > HIGH_BYTES:
            self._client.pause_reading()
        self._wake()

    def finish(self) -> None:
        """The body is complete."""
        self._has_arrived = True
        self._wake()

    def lose(self) -> None:
        """Nobody waits for the answer any more."""
        self.is_gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
