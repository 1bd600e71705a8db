"""What the raw-ASGI processes share: bounded bodies, problems, request ids, a start that may fail."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from apps.core import asgi
from apps.core.errors import DomainError

Messages = list[dict[str, Any]]


class Teapot(DomainError):
    code = "teapot"
    status = 418


@contextlib.asynccontextmanager
async def no_lifespan() -> AsyncIterator[None]:
    yield


async def exchange(
    route: Callable[[asgi.Scope, asgi.Receive, asgi.Send], Awaitable[None]],
    *chunks: bytes,
    headers: dict[str, str] | None = None,
    disconnect: bool = False,
) -> Messages:
    """Send one request, its body in chunks, and return what the application sent."""
    sent: Messages = []
    incoming: Messages = [
        {"type": "http.request", "body": chunk, "more_body": disconnect or n < len(chunks) - 1}
        for n, chunk in enumerate(chunks or (b"",))
    ]
    if disconnect:
        incoming.append({"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "path": "/x", "query_string": b"a=1", "raw_path": b"/%78", "headers": encoded}
    await asgi.application(route, no_lifespan)(scope, receive, send)
    return sent


def header(sent: Messages, name: str) -> str | None:
    return dict(sent[0]["headers"]).get(name.encode(), b"").decode() or None


async def echo(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    body = await asgi.read_body(scope, receive, limit=10)
    await asgi.respond_json(send, {"body": body.decode(), "target": asgi.target_of(scope)})


async def test_a_body_in_chunks_is_read_whole_and_the_target_is_as_received():
    sent = await exchange(echo, b"abc", b"", b"def")

    assert sent[0]["status"] == 200
    assert json.loads(sent[1]["body"]) == {"body": "abcdef", "target": "/%78?a=1"}


async def test_a_compressed_body_is_refused_and_a_plain_one_may_say_that_it_is_plain():
    refused = await exchange(echo, b"\x1f\x8b", headers={"Content-Encoding": "GZip"})
    taken = await exchange(echo, b"abc", headers={"Content-Encoding": "identity"})

    assert (refused[0]["status"], json.loads(refused[1]["body"])["code"]) == (415, "unsupported_encoding")
    assert taken[0]["status"] == 200


async def test_a_refused_method_is_told_the_one_that_is_allowed():
    async def post_only(_scope: asgi.Scope, _receive: asgi.Receive, _send: asgi.Send) -> None:
        raise asgi.MethodNotAllowed("POST")

    sent = await exchange(post_only)

    assert (sent[0]["status"], header(sent, "allow")) == (405, "POST")


@pytest.mark.parametrize(
    ("chunks", "headers"),
    [((b"x" * 11,), {}), ((b"x" * 6, b"x" * 5), {}), ((b"",), {"Content-Length": "11"})],
    ids=["at-once", "in-chunks", "declared"],
)
async def test_a_body_one_past_the_limit_is_refused(chunks, headers):
    sent = await exchange(echo, *chunks, headers=headers)

    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (413, "body_too_large")


async def test_a_body_that_does_not_come_to_its_end_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(asgi, "BODY_WAIT_S", 0.05)

    async def stalled() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    with pytest.raises(asgi.BodyTooSlow):
        await asgi.read_body({"headers": []}, stalled, limit=10)


async def test_a_body_at_the_limit_is_accepted():
    assert (await exchange(echo, b"x" * 10))[0]["status"] == 200


async def test_nobody_is_answered_after_hanging_up():
    assert await exchange(echo, b"ab", disconnect=True) == []


async def test_a_usable_request_id_is_kept_and_any_other_replaced():
    assert header(await exchange(echo, headers={"X-Request-ID": "trace.7"}), "x-request-id") == "trace.7"
    replaced = header(await exchange(echo, headers={"X-Request-ID": "a b\n"}), "x-request-id")
    assert replaced is not None
    assert len(replaced) == 16


async def test_domain_errors_become_problems():
    async def refuse(*_: object) -> None:
        raise Teapot("no coffee", retry_after_s=3)

    sent = await exchange(refuse)

    assert (sent[0]["status"], header(sent, "content-type"), header(sent, "retry-after")) == (
        418,
        "application/problem+json",
        "3",
    )
    assert json.loads(sent[1]["body"])["detail"] == "no coffee"


async def test_unexpected_errors_are_logged_and_not_shown(caplog):
    async def fail(*_: object) -> None:
        raise RuntimeError("password is hunter2")

    sent = await exchange(fail)

    assert sent[0]["status"] == 500
    assert b"hunter2" not in sent[1]["body"]
    assert json.loads(sent[1]["body"])["code"] == "internal_error"
    assert "hunter2" in caplog.text


async def test_a_process_that_cannot_start_says_so():
    ready = False

    @contextlib.asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        if not ready:
            raise RuntimeError("no database")
        yield

    sent: Messages = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await asgi.application(echo, broken)({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "no database"}]
