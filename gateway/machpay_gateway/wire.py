"""The client's side of a connection, on top of uvicorn's HTTP/1.1: what it may not do, and what every request is given.

Bounds: connections, the size of a head, the time for one. Given to every request: its target exactly as received,
because payments sign it (an empty query included), and an id.
"""

import asyncio
import itertools
import re
import secrets
from typing import Any, ClassVar, Final, Self

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from machpay_gateway.request import REQUEST_ID_KEY, TARGET_KEY, TRANSPORT_KEY, UPGRADE_KEY
from machpay_gateway.settings import LimitsSection

LINGER_S: Final = 5.0
"""How long the rest of a body is thrown away whose request was refused."""
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
REFUSED_LINGER_S: Final = 1.0
"""How long a connection is still there that was refused as a whole."""
_REQUEST_ID_HEADER: Final = b"x-request-id"
_PROCESS: Final = secrets.token_hex(6).encode()
_counter: Final = itertools.count(1)


class WireProtocol(HttpToolsProtocol):
    """One client's connection. Use the class that `within` gives."""

    limits: ClassVar[LimitsSection]

    @classmethod
    def within(cls, limits: LimitsSection) -> type[Self]:
        """This protocol under `limits`."""
        return type(cls.__name__, (cls,), {"limits": limits})

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._request_id = b""
        self._is_refused = False

    # --- Connection -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(b"503 Service Unavailable", b"too many connections", b"retry-after: 1\r\n")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
                self._await_head()
        super().data_received(data)
        if self._in_head and self._head_bytes > self.limits.max_head_bytes:
            self._refuse(b"431 Request Header Fields Too Large", b"the head of the request is too large")

    # --- Requests ---------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._request_id = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            # A trailer: nothing that decides anything may come behind the body.
            return
        lowered = name.lower()
        if lowered == _REQUEST_ID_HEADER:
            self._request_id = value
        elif lowered == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((lowered, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._stop_timer()
        request_id = self._request_id
        if not request_id or _REQUEST_ID.fullmatch(request_id) is None:
            if request_id:
                self.headers[:] = [line for line in self.headers if line[0] != _REQUEST_ID_HEADER]
            request_id = b"%s-%x" % (_PROCESS, next(_counter))
            # Whoever this request is passed on to gets the id as well.
            self.headers.append((_REQUEST_ID_HEADER, request_id))
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope[TARGET_KEY] = self.url
        scope[TRANSPORT_KEY] = self.transport
        scope[REQUEST_ID_KEY] = request_id
        scope[UPGRADE_KEY] = self.parser.should_upgrade()
        super().on_headers_complete()
        # The task that answers has not begun yet.
        self.cycle.default_headers = [*self.server_state.default_headers, (_REQUEST_ID_HEADER, request_id)]

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():
            # Answered before its body was read. Hanging up at once would destroy the answer on its way.
            self.loop.call_later(LINGER_S, self.transport.close)

    def _unsupported_upgrade_warning(self) -> None:
        # What follows on this connection would be in another protocol.
        self.cycle.keep_alive = False

    # --- Bounds -----------------------------------------------------------------------------------------------------

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(b"408 Request Timeout", b"the head of the request took too long")
        else:
            self.transport.close()

    def _refuse(self, status: bytes, text: bytes, extra: bytes = b"") -> None:
        """Answer without a request and hang up, as soon as the answer had time to arrive."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        head = b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % (
            status,
            len(text),
        )
        self.transport.write(head + extra + b"connection: close\r\n\r\n" + text)
        self.transport.write_eof()
        self.loop.call_later(REFUSED_LINGER_S, self.transport.close)
