"""`GET /events?topics=a,b`: the HTTP side of a stream, under Channels for routing and sessions.

Messages do not come through a channel layer but from the process's hub: the layer delivers too little, too late.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from django.conf import settings

from apps.core import asgi
from apps.core.context import HEADER, bind_request_id
from apps.core.errors import DomainError
from apps.telemetry.live.errors import TooManyStreams
from apps.telemetry.live.hub import process_hub
from apps.telemetry.live.stream import frames
from apps.telemetry.live.topics import authorize, requested

STREAMS_PER_PROCESS: Final = 5_000


class LiveConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels has no types
    """One request for a stream."""

    channel_layer_alias = "none"
    _open: ClassVar[Counter[str]] = Counter()
    _task: asyncio.Task[None] | None = None

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._task is not None:
                self._task.cancel()

    async def http_request(self, message: dict[str, Any]) -> None:
        if self._task is None and not message.get("more_body"):
            self._task = asyncio.create_task(self._answer())

    async def http_disconnect(self, _message: dict[str, Any]) -> None:
        raise StopConsumer

    async def _answer(self) -> None:
        bind_request_id(asgi.header_map(self.scope).get(HEADER.lower()))
        try:
            if self.scope["method"] != "GET":
                raise asgi.MethodNotAllowed("GET")
            topics = requested(self.scope["query_string"])
            authorize(self.scope["user"], topics)
            with self._place():
                await self._stream(topics)
        except DomainError as error:
            await asgi.respond_refusal(self.send, error)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Count this stream while it is open. Raises `TooManyStreams`."""
        address = (self.scope.get("client") or ("unknown", 0))[0]
        if self._open[address] >= settings.LIVE_STREAMS_PER_ADDRESS:
            raise TooManyStreams("this address has as many streams open as it may", retry_after_s=10)
        if self._open.total() >= STREAMS_PER_PROCESS:
            raise TooManyStreams("this server has as many streams open as it can serve", retry_after_s=10)
        self._open[address] += 1
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    async def _stream(self, topics: frozenset[str]) -> None:
        last_event_id = asgi.header_map(self.scope).get("last-event-id") or None
        hub = process_hub()
        with hub.subscribe(topics, last_event_id) as subscription:
            await hub.connected()
            await self.send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        (b"content-type", b"text/event-stream; charset=utf-8"),
                        (b"cache-control", b"no-store, no-transform"),
                        # nginx would otherwise hold frames back until its buffer is full.
                        (b"x-accel-buffering", b"no"),
                    ],
                }
            )
            async for chunk in frames(subscription, heartbeat_s=settings.LIVE_HEARTBEAT_S):
                await self.send({"type": "http.response.body", "body": chunk, "more_body": True})
