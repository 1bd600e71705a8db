"""What the raw-ASGI processes (relayer, receiver) share: bounded bodies, JSON answers, problems, lifespan, metrics.

Deliberately not a framework: a process routes in one function and calls these.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import msgspec
import prometheus_client
import structlog

from apps.core.context import HEADER, bind_request_id
from apps.core.errors import DomainError
from apps.core.problems import CONTENT_TYPE, problem
from machpay.protocol.encoding import decode_json
from machpay.protocol.errors import MalformedError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

T = TypeVar("T")

log = structlog.get_logger(__name__)


class BadRequest(DomainError):
    code = "malformed"
    status = 400


class Busy(DomainError):
    code = "busy"
    status = 503


class InFlight:
    """How many requests of one kind are under way, at most `limit`: the bound on them is the bound on their memory, so
    one is counted before its body is read. `busy` is what the next one is told."""

    def __init__(self, limit: int, busy: str) -> None:
        self.count = 0
        self._limit = limit
        self._busy = busy

    @property
    def is_full(self) -> bool:
        return self.count >= self._limit

    def __enter__(self) -> None:
        if self.is_full:
            raise Busy(f"{self._busy}; send this one again", retry_after_s=1)
        self.count += 1

    def __exit__(self, *exc_info: object) -> None:
        self.count -= 1


class BodyTooSlow(DomainError):
    code = "request_timeout"
    status = 408


class BodyTooLarge(DomainError):
    code = "body_too_large"
    status = 413


class NotFound(DomainError):
    code = "not_found"
    status = 404


class EncodedBody(DomainError):
    code = "unsupported_encoding"
    status = 415


class MethodNotAllowed(DomainError):
    """Raised with the one method that is; the answer's `Allow` names it."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, allow: str) -> None:
        super().__init__(f"use {allow} here")
        self.allow = allow


class ClientGone(Exception):
    """The client hung up before its request was complete; there is nobody to answer."""


def header_map(scope: Scope) -> dict[str, str]:
    """Lowercase names; of repeated headers the last one."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def target_of(scope: Scope) -> str:
    """The origin-form target as received: what signed requests sign."""
    query: bytes = scope["query_string"]
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    return (raw_path + b"?" + query if query else raw_path).decode("latin-1")


BODY_WAIT_S = 60.0
"""A body that takes longer belongs to a client that vanished or means no good; it held a place of the bounded ones."""


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """The whole body. Raises `BodyTooLarge` as soon as it is longer than `limit` bytes, `BodyTooSlow` if it is not
    complete after `BODY_WAIT_S`, `EncodedBody` if it is compressed: nothing here unpacks what a stranger packed."""
    headers = header_map(scope)
    if (encoding := headers.get("content-encoding", "identity").lower()) != "identity":
        raise EncodedBody(f"send the body as it is, without content-encoding {encoding}")
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise BodyTooLarge(f"the body may have at most {limit} bytes")
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            return await _read(receive, limit)
    except TimeoutError as error:
        raise BodyTooSlow(f"the body was not complete after {BODY_WAIT_S:.0f} s") from error


async def _read(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"the body may have at most {limit} bytes")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes, what: str) -> T:
    """The body as what `decoder` reads. Raises `BadRequest` for all that can be wrong with it, text that is no UTF-8
    and nesting beyond the interpreter's depth included."""
    try:
        decoded: T = decode_json(decoder, body, what)
    except MalformedError as error:
        raise BadRequest(error.detail) from error
    return decoded


async def respond(
    send: Send,
    status: int,
    body: bytes,
    *,
    content_type: str = "application/json",
    headers: dict[str, str] | None = None,
) -> None:
    """Send one complete answer."""
    lines = {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def respond_json(
    send: Send, value: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    await respond(send, status, msgspec.json.encode(value), headers=headers)


async def respond_problem(
    send: Send, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None
) -> None:
    body = msgspec.json.encode(problem(status, code, detail))
    await respond(send, status, body, content_type=CONTENT_TYPE, headers=headers)


async def respond_refusal(send: Send, error: DomainError) -> None:
    """`error` as a problem, with the headers that belong to it."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allow
    await respond_problem(send, error.status, error.code, error.detail, headers=headers)


async def respond_metrics(send: Send) -> None:
    """Everything in prometheus_client's default registry."""
    await respond(
        send, 200, prometheus_client.generate_latest(), content_type=prometheus_client.CONTENT_TYPE_LATEST
    )


def application(
    route: Callable[[Scope, Receive, Send], Awaitable[None]],
    lifespan: Callable[[], AbstractAsyncContextManager[None]],
) -> App:
    """An ASGI application around `route`, which answers one HTTP request.

    `DomainError`s become problems, anything unexpected a logged 500 without its text. `lifespan` is entered before the
    first request and left after the last; an error while entering it makes the server refuse to start.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _run_lifespan(lifespan, receive, send)
        elif scope["type"] == "http":
            await _answer(route, scope, receive, send)
        else:
            raise ValueError(f"this process serves HTTP, not {scope['type']}")

    return app


async def _answer(
    route: Callable[[Scope, Receive, Send], Awaitable[None]], scope: Scope, receive: Receive, send: Send
) -> None:
    request_id = bind_request_id(header_map(scope).get(HEADER.lower()))
    started = False

    async def send_with_id(message: MutableMapping[str, Any]) -> None:
        nonlocal started
        if message["type"] == "http.response.start":
            started = True
            message["headers"].append((HEADER.lower().encode(), request_id.encode()))
        await send(message)

    try:
        await route(scope, receive, send_with_id)
    except DomainError as error:
        await respond_refusal(send_with_id, error)
    except ClientGone:
        return
    except Exception:
        log.exception("request_failed", path=scope["path"])
        if not started:
            await respond_problem(
                send_with_id, 500, "internal_error", "Something went wrong here; it was logged."
            )


async def _run_lifespan(
    lifespan: Callable[[], AbstractAsyncContextManager[None]], receive: Receive, send: Send
) -> None:
    await receive()
    try:
        async with lifespan():
            await send({"type": "lifespan.startup.complete"})
            await receive()
    except Exception as error:
        log.exception("lifespan_failed")
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.shutdown.complete"})
