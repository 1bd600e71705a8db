"""The client's side of HTTP/1.1: one connection, its requests one after the other, and what a client may not do.

Requests that come while another one is answered wait for their turn, and nothing more is read meanwhile. Bounds:
connections, the size of a head, the time for one, the time between two.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, cast

from machpay_gateway.due import Due
from machpay_gateway.incoming import Incoming, NotHttp, OtherProtocol
from machpay_gateway.limits import Proxies
from machpay_gateway.reply import Reply
from machpay_gateway.request import Request
from machpay_gateway.settings import LimitsSection
from machpay_gateway.telemetry.traffic import Traffic

App = Callable[[Request, Reply], Awaitable[None]]

KEEP_ALIVE_S: Final = 75.0
"""How long a connection may be idle between two requests."""
LINGER_S: Final = 5.0
"""How long the rest of a body is thrown away whose request was answered before it arrived."""
REFUSED_LINGER_S: Final = 1.0
"""How long a connection is still there that was refused as a whole."""

logger = logging.getLogger(__name__)


@dataclass
class House:
    """What all connections of one server share."""

    app: App
    limits: LimitsSection
    max_body_bytes: int
    traffic: Traffic
    proxies: Proxies = field(init=False)
    connections: "set[Connection]" = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """One for each connection that ever had a request, until what was accepted on it is finished."""

    def __post_init__(self) -> None:
        self.proxies = Proxies(self.limits.trusted_proxies)


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self.host: str | None = None
        self.max_body_bytes = house.max_body_bytes
        self.body_timeout_s = house.limits.body_timeout_s
        self.proxies = house.proxies
        self.is_lost = False
        self._incoming = Incoming(self, house.limits.max_head_bytes, self._arrived, self._ended)
        self._is_reading = True
        self._is_deaf = False
        """True when nothing more is taken from the client."""
        self._is_refused = False
        """True when nothing more is said either."""
        self._request: Request | None = None
        self._reply: Reply | None = None
        self._queue: deque[tuple[Request, Reply]] = deque()
        self._turn: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        # When the client has to have done what it does next.
        self._due = Due(self._loop, self._late)

    # --- Connection -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of a family of their own.
        self._transport = cast(asyncio.Transport, transport)
        house = self._house
        house.connections.add(self)
        house.traffic.connections += 1
        peer = transport.get_extra_info("peername")
        self.host = str(peer[0]) if isinstance(peer, tuple) else None
        if len(house.connections) > house.limits.max_connections:
            self._refuse(b"503 Service Unavailable", b"too many connections", b"retry-after: 1\r\n")
        else:
            self._due.within(house.limits.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._house.connections.discard(self)
        self._house.traffic.connections -= 1
        self.is_lost = True
        self._due.close()
        for request in (self._request, self._incoming.request, *(request for request, _ in self._queue)):
            if request is not None:
                request.lose()
        self._incoming.close()
        self.resume_writing()
        self._take_turn()

    def data_received(self, data: bytes) -> None:
        self._house.traffic.received(len(data))
        if self._is_deaf or self._transport.is_closing():
            return
        incoming = self._incoming
        was_in_head = incoming.is_in_head
        try:
            incoming.feed(data)
        except OtherProtocol:
            self._end_behind_last()
        except NotHttp as error:
            logger.info("not an HTTP request: %s", error)
            self._give_up(error.status, error.text)
            return
        if incoming.is_in_head and not was_in_head and self._reply is None and self._task is not None:
            # The first head of a connection is due since it was made.
            self._due.within(self._house.limits.head_timeout_s)

    def shutdown(self) -> None:
        """Take no more requests; the connection ends behind the answer that is under way."""
        if self._reply is None and not self._queue:
            self._transport.close()
        for reply in (self._reply, *(reply for _, reply in self._queue)):
            if reply is not None:
                reply.keep_alive = False

    def abort(self) -> None:
        self._transport.abort()

    # --- Requests ---------------------------------------------------------------------------------------------------

    def _arrived(self, request: Request, keep_alive: bool) -> None:
        """The head of a request is there."""
        self._due.never()
        is_head = request.method == "HEAD"
        self._queue.append((request, Reply(self, request.request_id, is_head=is_head, keep_alive=keep_alive)))
        if self._task is None:
            self._task = self._loop.create_task(self._serve())
            self._house.tasks.add(self._task)
            self._task.add_done_callback(self._house.tasks.discard)
        elif self._reply is None:
            self._take_turn()
        else:
            self.pause_reading()

    def _ended(self, request: Request) -> None:
        """Its body is there too."""
        if request.is_gone and not self._queue and (self._reply is None or self._reply.is_complete):
            # It was answered before; this was the rest.
            self._go_on()

    async def _serve(self) -> None:
        """Answer the requests of this connection until there can be no more."""
        while not self.is_lost:
            if not self._queue:
                self._turn = self._loop.create_future()
                await self._turn
                continue
            request, reply = self._request, self._reply = self._queue.popleft()
            self._due.never()
            try:
                await self._house.app(request, reply)
            except Exception:
                logger.exception("a request could not be answered")
            finally:
                self._request = self._reply = None
                if not (reply.is_complete or self.is_lost):
                    await self._fail(reply)
            if not reply.keep_alive:
                return

    def _take_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None and not turn.done():
            turn.set_result(None)

    async def _fail(self, reply: Reply) -> None:
        """End an exchange that has no answer, or none that is complete."""
        reply.keep_alive = False
        if self._is_refused:
            return
        if reply.status is None and not self._is_deaf:
            lines = [(b"content-type", b"text/plain; charset=utf-8")]
            await reply.whole(500, lines, b"Internal Server Error")
        else:
            self._transport.close()

    def answered(self, reply: Reply) -> None:
        """The last byte of an answer was written: what may come now?"""
        request = self._request
        if self.is_lost or self._is_refused:
            return
        if request is not None and not request.has_arrived:
            # Answered before its body was read. Hanging up at once would destroy the answer on its way.
            request.lose()
            self.resume_reading()
            if not reply.keep_alive:
                self._is_deaf = True
                self._transport.write_eof()
            self._due.within(LINGER_S)
        elif not reply.keep_alive:
            self._transport.close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Wait for the next request, or for the rest of one."""
        self.resume_reading()
        self._due.within(self._house.limits.head_timeout_s if self._incoming.is_in_head else KEEP_ALIVE_S)

    # --- Flow -------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not (self.is_lost or self._is_refused or self._transport.is_closing()):
            self._transport.write(data)

    def invite(self) -> None:
        if self._reply is None or self._reply.status is None:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def pause_reading(self) -> None:
        if self._is_reading and not self.is_lost:
            self._is_reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._is_reading and not self.is_lost:
            self._is_reading = True
            self._transport.resume_reading()

    @property
    def is_full(self) -> bool:
        return self._writable is not None

    async def drain(self, timeout_s: float | None) -> None:
        if self._writable is not None:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._writable)

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set_result(None)

    # --- Bounds -----------------------------------------------------------------------------------------------------

    def _late(self) -> None:
        """The client has used up its time."""
        if self._incoming.is_in_head:
            self._give_up(b"408 Request Timeout", b"the head of the request took too long")
        else:
            self._transport.close()

    def _end_behind_last(self) -> None:
        """No more requests: the connection ends behind the last answer that is owed."""
        self._is_deaf = True
        last = self._queue[-1][1] if self._queue else self._reply
        if last is not None:
            last.keep_alive = False

    def _give_up(self, status: bytes, text: bytes) -> None:
        """What comes is of no use. Say so, unless answers are owed: then the connection ends behind them."""
        request, reply = self._incoming.request, self._reply
        if request is not None:
            # Its body will never be whole.
            request.lose()
        is_answering = reply is not None and (request is not self._request or reply.status is not None)
        if is_answering or (self._queue and self._queue[-1][0] is not request):
            self._end_behind_last()
        else:
            self._refuse(status, text)

    def _refuse(self, status: bytes, text: bytes, extra: bytes = b"") -> None:
        """Answer without a request and hang up, as soon as the answer had time to arrive."""
        if self._is_deaf or self._transport.is_closing():
            return
        self._is_deaf = self._is_refused = True
        head = b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % (
            status,
            len(text),
        )
        self._transport.write(head + extra + b"connection: close\r\n\r\n" + text)
        self._transport.write_eof()
        self._due.within(REFUSED_LINGER_S)
