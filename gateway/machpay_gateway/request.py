"""One HTTP request as it arrived: facts taken from the ASGI scope once, and its body.

Knows nothing of payments beyond the names of their headers.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final

from machpay.protocol.requests import MAX_BOUND_BODY_BYTES, Binding, request_hash, route_hash
from machpay_gateway.errors import RequestError
from machpay_gateway.limits import Proxies

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

TARGET_KEY: Final = "machpay.target"
"""Where our server's protocol puts the request target exactly as received."""
TRANSPORT_KEY: Final = "machpay.transport"
"""Where it puts the client's connection."""
REQUEST_ID_KEY: Final = "machpay.request_id"
"""Where it puts the request's id."""
UPGRADE_KEY: Final = "machpay.upgrade"
"""Where it says that the client asks for another protocol on this connection."""
BODY_TIMEOUT_S: Final = 30.0
_EMPTY_SHA256: Final = hashlib.sha256(b"").digest()


class ClientGone(Exception):
    """The client hung up before its request was complete; there is nobody to answer."""


class Request:
    """Method, target and headers; `read_head` then gives the part of the body that payments are bound to."""

    __slots__ = (
        "_expects_body",
        "_receive",
        "_scope",
        "body",
        "body_timeout_s",
        "client_host",
        "failure",
        "headers",
        "is_whole",
        "max_body_bytes",
        "method",
        "path",
        "raw_path",
        "via",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        max_body_bytes: int,
        body_timeout_s: float = BODY_TIMEOUT_S,
        proxies: Proxies | None = None,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self.max_body_bytes = max_body_bytes
        self.body_timeout_s = body_timeout_s
        client = scope.get("client")
        self.client_host: str | None = None if client is None else str(client[0])
        self.via: str | None = None
        """The trusted proxy that passed the request on for `client_host`."""
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: bytes = scope.get("raw_path") or self.path.encode()
        self.headers: Headers = scope["headers"]
        if proxies and self.client_host is not None and proxies.trusts(self.client_host):
            self.via = self.client_host
            named = [value for name, value in self.headers if name == b"x-forwarded-for"]
            self.client_host = proxies.client(self.via, b",".join(named))
        self.body = b""
        self.is_whole = False
        self._expects_body = True
        self.failure: RequestError | ClientGone | None = None
        """Why streaming the body ended early: HTTP clients hide it behind an error of their own."""

    @property
    def target(self) -> bytes:
        """Path and query exactly as received (origin form)."""
        received: bytes | None = self._scope.get(TARGET_KEY)
        if received is not None and received.startswith(b"/"):
            return received
        query: bytes = self._scope["query_string"]
        return self.raw_path + b"?" + query if query else self.raw_path

    @property
    def scheme(self) -> str:
        """`http` or `https`, as the client used it."""
        if self.via is not None and self.header(b"x-forwarded-proto") in (b"http", b"https"):
            return (self.header(b"x-forwarded-proto") or b"").decode()
        return str(self._scope.get("scheme", "http"))

    @property
    def host(self) -> bytes | None:
        """The host that the client asked for."""
        return (self.via and self.header(b"x-forwarded-host")) or self.header(b"host")

    @property
    def request_id(self) -> str:
        received: bytes = self._scope.get(REQUEST_ID_KEY, b"")
        return received.decode()

    @property
    def wants_upgrade(self) -> bool:
        """True if the client asks to go on in another protocol, WebSocket for one."""
        return bool(self._scope.get(UPGRADE_KEY))

    @property
    def forwarded_for(self) -> bytes | None:
        """The way the request took, as the next server is told it: what a trusted proxy said, and our own peer."""
        if self.via is None:
            return None if self.client_host is None else self.client_host.encode()
        named = [value for name, value in self.headers if name == b"x-forwarded-for"]
        return b", ".join([*named, self.via.encode()])

    def header(self, name: bytes) -> bytes | None:
        """The value of a header (lowercase `name`); None if it is absent. Raises 400 if it is there twice."""
        values = [value for key, value in self.headers if key == name]
        if len(values) > 1:
            raise RequestError(400, "duplicate_header", f"{name.decode()} is there more than once")
        return values[0] if values else None

    @property
    def declared_length(self) -> int | None:
        """`Content-Length`, None for a body in chunks."""
        declared = self.header(b"content-length")
        return int(declared) if declared is not None and declared.isdigit() else None

    def abort(self) -> None:
        """Drop the client's connection, so that an answer that ends here does not look whole."""
        transport = self._scope.get(TRANSPORT_KEY)
        if transport is not None:
            transport.abort()

    async def read_head(self) -> None:
        """Read the body up to what a payment can be bound to; `is_whole` says whether that is all of it.

        Raises 413 if the declared or received length is above `max_body_bytes`, `ClientGone`.
        """
        declared = self.declared_length
        if declared is not None and declared > self.max_body_bytes:
            raise self._too_large()
        self._expects_body = declared != 0 and (
            declared is not None or self.header(b"transfer-encoding") is not None
        )
        chunks: list[bytes] = []
        size = 0
        while size <= MAX_BOUND_BODY_BYTES:
            chunk, more = await self._next()
            if chunk:
                chunks.append(chunk)
                size += len(chunk)
            if size > self.max_body_bytes:
                raise self._too_large()
            if not more:
                self.is_whole = True
                break
        self.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def rest(self) -> AsyncIterator[bytes]:
        """The whole body as a stream: what was read, then what still arrives. Raises like `read_head`."""
        size = len(self.body)
        yield self.body
        while not self.is_whole:
            try:
                chunk, more = await self._next()
                size += len(chunk)
                if size > self.max_body_bytes:
                    raise self._too_large()
            except (ClientGone, RequestError) as error:
                self.failure = error
                raise
            self.is_whole = not more
            if chunk:
                yield chunk

    def binding(self) -> tuple[Binding, bytes]:
        """How a payment for this request is bound to it, and the hash. After `read_head`."""
        if self.is_whole and len(self.body) <= MAX_BOUND_BODY_BYTES:
            body_hash = hashlib.sha256(self.body).digest() if self.body else _EMPTY_SHA256
            return "request", request_hash(self.method, self.target, body_sha256=body_hash)
        return "route", route_hash(self.method, self.raw_path)

    async def gone(self) -> None:
        """Return when the client has hung up (or the answer is complete). Only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> tuple[bytes, bool]:
        if self._expects_body:
            try:
                async with asyncio.timeout(self.body_timeout_s):
                    message = await self._receive()
            except TimeoutError as error:
                close = (b"connection", b"close")
                raise RequestError(408, "body_timeout", "the body stopped arriving", (close,)) from error
        else:
            message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message.get("body", b""), message.get("more_body", False)

    def _too_large(self) -> RequestError:
        return RequestError(413, "body_too_large", f"the body may have at most {self.max_body_bytes} bytes")
