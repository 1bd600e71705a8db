"""The connection to the vendor's server, against servers that do what they should not: bare sockets with a script."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from machpay_gateway.errors import UpstreamError
from machpay_gateway.limits import Proxies
from machpay_gateway.request import Request
from machpay_gateway.settings import UpstreamSection
from machpay_gateway.upstream import Upstream, UpstreamAnswer
from tests.gateway.conftest import eventually

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Runs one script per connection, and counts connections and requests."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.heads: list[bytes] = []
        self.url = ""

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                    await self._script(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def says(*pieces: bytes, hang_up: bool = False) -> Script:
    """Answers every request with these pieces, each by itself."""

    async def script(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        if hang_up:
            writer.close()

    return script


@contextlib.asynccontextmanager
async def upstream_of(
    script: Script, path: str = "", **changes: Any
) -> AsyncIterator[tuple[Server, Upstream]]:
    async with Server(script) as server:
        section = UpstreamSection(url=server.url + path, **{"read_timeout_s": 5.0, **changes})
        async with Upstream(section) as upstream:
            yield server, upstream


class Nobody:
    """A client with no connection."""

    host: str | None = None
    max_body_bytes = 10**9
    body_timeout_s = 30.0
    proxies = Proxies(())

    def pause_reading(self) -> None:
        pass

    resume_reading = invite = abort = pause_reading


def request(method: str = "GET", target: str = "/x", body: bytes = b"", **headers: str) -> Request:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    made = Request(Nobody(), method, target.encode(), lines)
    made.body, made.is_whole = body, True
    return made


async def whole(answer: UpstreamAnswer) -> bytes:
    try:
        return await answer.read()
    finally:
        answer.close()


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
HELLO = LENGTH + b"hello"


async def test_a_connection_is_used_again_and_the_request_is_as_it_was() -> None:
    async with upstream_of(says(HELLO), "/base/") as (server, upstream):
        for _ in range(3):
            made = request("GET", "/a%20b?x=1&x=2", accept="text/plain")
            answer = await upstream.open(made, [(b"machpay-payment", b"d")])
            assert (answer.status, answer.length, await whole(answer)) == (200, 5, b"hello")
        assert server.connections == 1
        host = server.url.removeprefix("http://").encode()
        lines = server.heads[0].split(b"\r\n")
        assert lines[0] == b"GET /base/a%20b?x=1&x=2 HTTP/1.1"
        assert set(lines[1:-2]) == {
            b"host: " + host,
            b"accept: text/plain",
            b"x-forwarded-proto: http",
            b"machpay-payment: d",
        }


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ((b"HTTP/1.1 200 OK\r\nConte", b"nt-Length: 5\r\n\r", b"\nhe", b"llo"), b"hello"),
        (
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"),
            b"hello",
        ),
        ((b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO,), b"hello"),
        ((b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", HELLO), b"hello"),
        ((b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",), b""),
        ((b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",), b""),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",), b""),
    ],
)
async def test_answers_in_any_pieces_are_read_and_the_connection_stays(
    pieces: tuple[bytes, ...], body: bytes
) -> None:
    async with upstream_of(says(*pieces)) as (server, upstream):
        for _ in range(2):
            answer = await upstream.open(request())
            assert await whole(answer) == body
            assert answer.header(b"link") is None
        assert server.connections == 1


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async with upstream_of(says(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", hang_up=True)) as (server, upstream):
        for _ in range(2):
            answer = await upstream.open(request())
            assert (answer.length, await whole(answer)) == (None, b"hello")
        assert server.connections == 2


async def test_a_head_request_has_no_body_whatever_it_declares() -> None:
    async with upstream_of(says(LENGTH)) as (_, upstream):
        answer = await upstream.open(request("HEAD"))
        assert (answer.length, await whole(answer)) == (5, b"")


async def test_trailers_are_known_when_the_body_was_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    async with upstream_of(says(chunked, b"0\r\nMachPay-Amount: 7\r\nX-Other: y\r\n\r\n")) as (_, upstream):
        answer = await upstream.open(request())
        assert answer.trailer(b"machpay-amount") is None
        assert [piece async for piece in answer.chunks()] == [b"hello"]
        assert (answer.trailer(b"machpay-amount"), answer.trailer(b"x-other")) == (b"7", b"y")
        # A trailer is no header.
        assert answer.header(b"machpay-amount") is None
        answer.close()


@pytest.mark.parametrize(
    "pieces",
    [
        (b"nonsense\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"y" * 200_000,),
        (b"",),
    ],
)
async def test_what_is_no_whole_answer_is_a_502(pieces: tuple[bytes, ...]) -> None:
    async with upstream_of(says(*pieces, hang_up=True)) as (_, upstream):
        with pytest.raises(UpstreamError) as failed:
            await whole(await upstream.open(request()))
        assert (failed.value.status, failed.value.code) == (502, "upstream_unreachable")


async def test_bytes_behind_an_answer_are_never_taken_for_the_next_one() -> None:
    async with upstream_of(says(HELLO + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as (
        server,
        upstream,
    ):
        for _ in range(3):
            answer = await upstream.open(request())
            assert await whole(answer) == b"hello"
            await asyncio.sleep(0.05)
        assert server.connections == 3


async def test_an_idle_connection_that_was_closed_is_replaced_for_repeatable_methods_only() -> None:
    served = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        if served % 2 == 0:
            # The second request of a connection finds it closing.
            writer.close()
            return
        writer.write(HELLO)

    async with upstream_of(once) as (server, upstream):
        assert await whole(await upstream.open(request())) == b"hello"
        assert await whole(await upstream.open(request())) == b"hello"
        assert server.connections == 2
        with pytest.raises(UpstreamError):
            await upstream.open(request("POST", body=b"once only"))
        assert sum(b"POST" in head for head in server.heads) == 1


async def test_connections_that_idled_too_long_are_not_used_again() -> None:
    async with upstream_of(says(HELLO), keep_alive_s=0.05) as (server, upstream):
        await whole(await upstream.open(request()))
        await asyncio.sleep(0.1)
        await whole(await upstream.open(request()))
        assert server.connections == 2


async def test_no_more_connections_than_allowed_and_the_next_waits_its_turn() -> None:
    gate = asyncio.Event()

    async def slow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(HELLO)

    async with upstream_of(slow, max_connections=2) as (server, upstream):
        calls = [asyncio.create_task(upstream.open(request())) for _ in range(6)]
        await eventually(lambda: len(server.heads) == 2, "two requests are under way")
        await asyncio.sleep(0.05)
        assert server.connections == 2
        gate.set()
        for call in calls:
            assert await whole(await call) == b"hello"
        assert server.connections == 2


async def test_a_caller_that_gives_up_gives_its_connection_back() -> None:
    async with upstream_of(says(), max_connections=1) as (server, upstream):
        for number in range(1, 4):
            call = asyncio.create_task(upstream.open(request()))
            await eventually(lambda number=number: len(server.heads) == number, "the upstream was asked")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert server.connections == 3


@pytest.mark.parametrize("pieces", [(), (LENGTH,), (LENGTH + b"he",)])
async def test_silence_is_a_504(pieces: tuple[bytes, ...]) -> None:
    async with upstream_of(says(*pieces), read_timeout_s=0.2) as (_, upstream):
        with pytest.raises(UpstreamError) as failed:
            await whole(await upstream.open(request()))
        assert (failed.value.status, failed.value.code) == (504, "upstream_timeout")


async def test_a_slow_reader_slows_the_upstream_down_and_gets_everything() -> None:
    size = 20_000_000
    written = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(b"x" * 100_000)
            written += 100_000
            await writer.drain()

    async with upstream_of(flood) as (_, upstream):
        answer = await upstream.open(request())
        await asyncio.sleep(0.3)
        # What sockets hold and what we hold, not all of it.
        assert written < size
        total = 0
        async for piece in answer.chunks():
            total += len(piece)
        assert total == size
        answer.close()


def upload(pieces: list[bytes], every_s: float = 0.0, **headers: str) -> Request:
    """A request whose body arrives from now on, a piece at a time."""
    made = request("POST", "/x", b"", **headers)
    made.is_whole = False

    async def arrive() -> None:
        for piece in pieces:
            await asyncio.sleep(every_s)
            made.feed(piece)
        made.finish()

    asyncio.create_task(arrive()).add_done_callback(lambda task: task.result())
    return made


async def test_an_answer_before_the_upload_ended_is_passed_on() -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
    async with upstream_of(says(refusal, hang_up=True)) as (_, upstream):
        answer = await upstream.open(upload([b"x" * 100_000] * 50, content_length="5000000"))
        assert (answer.status, await whole(answer)) == (413, b"no")


async def test_a_slow_upload_is_not_a_slow_upstream() -> None:
    async def reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(HELLO)

    async with upstream_of(reads, read_timeout_s=1.0) as (_, upstream):
        made = upload([b"a"] * 14, every_s=0.1)
        assert await whole(await upstream.open(made)) == b"hello"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for `localhost`."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return key, certificate


async def test_an_upstream_behind_tls_must_prove_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = self_signed(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with Server(says(HELLO), tls) as server:
        port = server.url.rpartition(":")[2]

        async def ask(url: str) -> bytes:
            async with Upstream(UpstreamSection(url=url)) as upstream:
                for _ in range(2):
                    body = await whole(await upstream.open(request()))
                return body

        with pytest.raises(UpstreamError):
            await ask(f"https://localhost:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await ask(f"https://localhost:{port}") == b"hello"
        assert server.connections == 1
        # The certificate is for another name.
        with pytest.raises(UpstreamError):
            await ask(f"https://127.0.0.1:{port}")
