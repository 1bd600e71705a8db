"""The ASGI application: JSON-RPC over HTTP, subscriptions over WebSocket, health, metrics, and the tests' actions.

Everything that touches the chain goes through `_act`, on one thread: it brings the chain up to now, and tells
subscribers once what changed is durable.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from contracts.localnet.control_api import ControlApi
from contracts.localnet.feed import Feed
from contracts.localnet.ledger import Ledger
from contracts.localnet.rpc import Answer, Dispatcher
from contracts.localnet.slots import Commitment
from contracts.localnet.websocket import WebSockets

BODY_BYTES_MAX = 4 * 1024 * 1024
_TEST_PATH = "/test/"

_log = logging.getLogger("contracts.localnet")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")


class App:
    """POST / is JSON-RPC and its upgrade the subscriptions; GET /health and /metrics are for operators; POST
    /test/<action> is served with `allow_faults` only."""

    def __init__(self, ledger: Ledger, *, allow_faults: bool = False) -> None:
        self._ledger = ledger
        self._rpc = Dispatcher(ledger)
        self._feed = Feed(ledger)
        self._websockets = WebSockets(ledger, self._feed, self._rpc.calls, self._act)
        self._control = ControlApi(ledger, self._websockets.disconnect) if allow_faults else None
        self._listening = 0
        self._ticker: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or serve one WebSocket connection."""
        if scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer_http(scope, receive, send)
        else:
            raise RuntimeError(f"{scope['type']} is not served")

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/":
            # Before it is accepted, this refuses the handshake with status 403.
            await send({"type": "websocket.close"})
            return
        self._listening += 1
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.create_task(self._tick())
        try:
            await self._websockets.serve(receive, send)
        finally:
            self._listening -= 1

    async def _answer_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        match scope["method"], path:
            case "POST", "/":
                if (body := await _body(receive, send)) is not None:
                    await _answer(receive, send, self._act(partial(self._rpc.handle, body)))
            case "GET" | "HEAD", "/health":
                await respond(send, 200, msgspec.json.encode(self._act(self._health)))
            case "GET" | "HEAD", "/metrics":
                await respond(send, 200, self._act(self._metrics).encode(), b"text/plain; version=0.0.4")
            case "POST", _ if self._control is not None and path.startswith(_TEST_PATH):
                act = partial(self._control.handle, path.removeprefix(_TEST_PATH))
                if (body := await _body(receive, send)) is not None:
                    await respond(send, *self._act(partial(act, body)))
            case _, "/" | "/health" | "/metrics":
                await respond(send, 405, b'{"error":"method not allowed"}')
            case _:
                await respond(send, 404, b'{"error":"not found"}')

    def _act(self, work: Callable[[], T]) -> T:
        try:
            self._move()
            result = work()
            self._move()
        except BaseException:
            # What is in memory may not be in the file. The file counts: end here, a restart continues from it.
            _log.exception("the chain cannot continue")
            os._exit(1)
        return result

    def _move(self) -> None:
        self._ledger.advance()
        self._ledger.commit()
        self._feed.publish()

    async def _tick(self) -> None:
        """Move the chain at every slot while anybody listens: nobody else may ask it anything."""
        while self._listening:
            self._act(lambda: None)
            await asyncio.sleep(self._ledger.clock.seconds_to_next_slot())

    def _health(self) -> dict[str, Any]:
        slots = {level.name: self._ledger.slot(level) for level in Commitment}
        chain = {"status": "ok", "genesis_hash": str(self._ledger.genesis_hash), "slots": slots}
        return {"status": "ok", "service": "localnet", "components": {"chain": chain}}

    def _metrics(self) -> str:
        lines = ["# TYPE machpay_localnet_slot gauge"]
        lines += [
            f'machpay_localnet_slot{{commitment="{c.name}"}} {self._ledger.slot(c)}' for c in Commitment
        ]
        lines.append("# TYPE machpay_localnet_transactions_total counter")
        lines.append(f"machpay_localnet_transactions_total {self._ledger.transaction_count()}")
        lines.append("# TYPE machpay_localnet_subscribers gauge")
        lines.append(f"machpay_localnet_subscribers {len(self._feed.subscribers)}")
        lines.append("# TYPE machpay_localnet_rpc_calls_total counter")
        lines += [
            f'machpay_localnet_rpc_calls_total{{method="{m}"}} {n}'
            for m, n in sorted(self._rpc.calls.items())
        ]
        return "\n".join([*lines, ""])


async def respond(send: Send, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    """Send one whole HTTP answer."""
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive, send: Send) -> bytes | None:
    """Return the request's body, or None when the client has gone or has been told that it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            await respond(send, 413, b'{"error":"request body too large"}')
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _answer(receive: Receive, send: Send, answer: Answer) -> None:
    if answer.seconds:
        try:
            # After the body only a disconnect comes: nobody is kept waiting for a client that has gone.
            await asyncio.wait_for(receive(), answer.seconds)
        except TimeoutError:
            pass
        else:
            return
    await respond(send, answer.status, answer.body or b"")
