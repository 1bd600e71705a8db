"""One WebSocket connection: requests to subscribe and unsubscribe in, answers and notifications out, in order.

Only subscriptions are served here, as on a cluster. A client that does not read fast enough is cut off (close code
1013) rather than let memory grow.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from contracts.localnet.faults import ErrorAnswer
from contracts.localnet.feed import Feed, Subscriber
from contracts.localnet.ledger import Ledger
from contracts.localnet.rpc.context import Call
from contracts.localnet.rpc.envelope import Request, failure, parse_body, parse_request, success
from contracts.localnet.rpc.errors import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    RpcError,
    invalid_params,
)
from contracts.localnet.rpc.params import Params
from contracts.localnet.rpc.subscriptions import KINDS

SUBSCRIPTIONS_MAX = 1_000
CLOSE_SECONDS_MAX = 5
# WebSocket close codes (RFC 6455 and its registry).
NORMAL_CLOSURE = 1000
SERVICE_RESTART = 1012

_log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class WebSockets:
    """Serves WebSocket connections over one chain and its feed. `calls` counts the methods called.

    `act` runs what touches the chain: it brings the chain up to now before and tells subscribers after.
    """

    def __init__(
        self, ledger: Ledger, feed: Feed, calls: Counter[str], act: Callable[[Callable[[], None]], None]
    ) -> None:
        self._ledger = ledger
        self._feed = feed
        self._calls = calls
        self._act = act

    async def serve(self, receive: Receive, send: Send) -> None:
        """Serve one connection until either side ends it."""
        await receive()
        await send({"type": "websocket.accept"})
        subscriber = Subscriber()
        self._feed.subscribers.add(subscriber)
        tasks = [
            asyncio.create_task(self._read(subscriber, receive)),
            asyncio.create_task(_write(subscriber, send)),
            asyncio.create_task(subscriber.closed()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._feed.subscribers.discard(subscriber)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        code, reason = subscriber.closing or (NORMAL_CLOSURE, "")
        # The other side may be gone already, or never read again.
        with contextlib.suppress(Exception):
            closing = send({"type": "websocket.close", "code": code, "reason": reason})
            await asyncio.wait_for(closing, CLOSE_SECONDS_MAX)

    def disconnect(self) -> int:
        """End every connection; returns how many there were."""
        for subscriber in self._feed.subscribers:
            subscriber.close(SERVICE_RESTART, "a fault that a test asked for")
        return len(self._feed.subscribers)

    async def _read(self, subscriber: Subscriber, receive: Receive) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            self._act(partial(self._handle, subscriber, message.get("text") or message.get("bytes") or ""))

    def _handle(self, subscriber: Subscriber, body: str | bytes) -> None:
        number = None
        try:
            request = parse_request(parse_body(body))
            number = request.id
            answer = success(number, self._call(subscriber, request))
        except RpcError as error:
            answer = failure(number, error)
        except Exception:
            _log.exception("a subscription failed")
            answer = failure(number, RpcError(INTERNAL_ERROR, "Internal error"))
        subscriber.put(answer)

    def _call(self, subscriber: Subscriber, request: Request) -> int | bool:
        kind, subscribes = _kind_of(request.method)
        self._calls[request.method] += 1
        fault = self._ledger.faults.take_call(request.method)
        if isinstance(fault, ErrorAnswer):
            raise RpcError(fault.code, fault.message, fault.data)
        call = Call(self._ledger, Params(request.params))
        if subscribes:
            if len(subscriber.subscriptions) >= SUBSCRIPTIONS_MAX:
                raise RpcError(
                    INTERNAL_ERROR, "Internal Error: Subscription refused. Node subscription limit reached"
                )
            return self._feed.subscribe(subscriber, KINDS[kind](call))
        number = call.params.u64(0)
        subscription = subscriber.subscriptions.get(number)
        if not isinstance(subscription, KINDS[kind]):
            raise invalid_params("Invalid subscription id.")
        del subscriber.subscriptions[number]
        return True


def _kind_of(method: str) -> tuple[str, bool]:
    """Return which kind of subscription a method is about, and whether it subscribes."""
    for suffix, subscribes in (("Subscribe", True), ("Unsubscribe", False)):
        kind = method.removesuffix(suffix)
        if kind != method and kind in KINDS:
            return kind, subscribes
    raise RpcError(METHOD_NOT_FOUND, "Method not found")


async def _write(subscriber: Subscriber, send: Send) -> None:
    while True:
        await send({"type": "websocket.send", "text": (await subscriber.get()).decode()})
