"""The SDK's HTTP: what servers send, what breaks, and which connections are used again."""

import asyncio
import contextlib
import gzip
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from machpay.client.transport import Lost, Transport

Script = Callable[[bytes], list[bytes] | None]


class Server:
    """Answers every request with what `script` says, piece by piece; None closes the connection."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self.connections = 0
        self.requests: list[bytes] = []
        self.closes = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                pieces = self._script(head)
                if pieces is None:
                    break
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                if self.closes:
                    break
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport(timeout_s=60.0, max_connections=4) as opened:
        yield opened


async def get(transport: Transport, url: str, method: str = "GET", **options):
    return await transport.send(transport.build(method, url, **options))


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

ANSWERS = {
    "a length": [OK],
    "byte by byte": [OK[i : i + 1] for i in range(len(OK))],
    "chunks": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"],
    "chunks with a trailer": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"
    ],
    "an informational answer first": [b"HTTP/1.1 100 Continue\r\n\r\n", OK],
    "early hints first": [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK],
    "compression": [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        % len(gzip.compress(b"hello", mtime=0)),
        gzip.compress(b"hello", mtime=0),
    ],
}


@pytest.mark.parametrize("pieces", ANSWERS.values(), ids=ANSWERS.keys())
async def test_every_form_of_answer_is_read_and_the_connection_used_again(transport, pieces):
    async with Server(lambda head: pieces) as server:
        for _ in range(3):
            answer = await get(transport, server.url + "/a?b=c")
            assert (answer.status_code, answer.content) == (200, b"hello")
            assert "X-T" not in answer.headers
            assert answer.request.url == server.url + "/a?b=c"
            assert answer.elapsed.total_seconds() > 0
    assert server.connections == 1
    assert server.requests[0].startswith(b"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_an_answer_is_as_httpx_would_have_read_it(transport):
    async with Server(lambda head: [OK]) as server:
        answer = await get(transport, server.url)
        assert (answer.is_closed, answer.is_stream_consumed, answer.num_bytes_downloaded) == (True, True, 5)
        assert (await answer.aread(), answer.text) == (b"hello", "hello")


async def test_requests_for_one_url_share_nothing_that_changes(transport):
    first = transport.build("GET", "http://127.0.0.1:9/a")
    first.headers["MachPay-Gateway"] = "g"
    first.extensions["timeout"] = {}
    second, other = (
        transport.build("GET", "http://127.0.0.1:9/a"),
        transport.build("HEAD", "http://127.0.0.1:9/a"),
    )
    assert "MachPay-Gateway" not in second.headers
    assert second.extensions["timeout"] != {}
    assert (second.method, str(second.url), second.content) == ("GET", "http://127.0.0.1:9/a", b"")
    assert other.method == "HEAD"


async def test_what_follows_an_answer_is_no_part_of_it_and_ends_the_connection(transport):
    more = b"HTTP/1.1 500 No\r\nContent-Length: 3\r\nX-More: 1\r\n\r\nbad"
    async with Server(lambda head: [OK + more]) as server:
        for _ in range(2):
            answer = await get(transport, server.url)
            assert (answer.status_code, answer.content, "X-More" in answer.headers) == (200, b"hello", False)
    assert server.connections == 2


async def test_an_answer_that_ends_with_its_connection(transport):
    async with Server(lambda head: [b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo"]) as server:
        server.closes = True
        for _ in range(2):
            assert (await get(transport, server.url)).content == b"hello"
    assert server.connections == 2


@pytest.mark.parametrize("head", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n"])
async def test_an_answer_without_a_body_ends_with_its_head(transport, head):
    async with Server(lambda request: [head]) as server:
        for _ in range(2):
            assert (await get(transport, server.url)).content == b""
    assert server.connections == 1


async def test_the_answer_to_a_head_has_no_body_whatever_it_says(transport):
    async with Server(lambda request: [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"]) as server:
        for _ in range(2):
            answer = await get(transport, server.url, "HEAD")
            assert (answer.status_code, answer.content) == (200, b"")


async def test_a_connection_that_the_server_ends_is_not_used_again(transport):
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
    async with Server(lambda head: [closing]) as server:
        for _ in range(2):
            assert (await get(transport, server.url)).content == b"hello"
    assert server.connections == 2
    async with Server(lambda head: [OK]) as server:
        server.closes = True
        for _ in range(2):
            assert (await get(transport, server.url)).content == b"hello"
            # The loop hears of it before the next request.
            await asyncio.sleep(0.05)
    assert server.connections == 2


BROKEN = {
    "nothing": (None, "closed without an answer"),
    "half a body": ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], "before the answer was whole"),
    "half a chunk": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nha"], "before the answer"),
    "another protocol": ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], "not an HTTP answer"),
    "an endless head": ([b"HTTP/1.1 200 OK\r\n" + b"X-Y: " + b"z" * 300_000], "head is too long"),
}


@pytest.mark.parametrize(("pieces", "detail"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_answer_is_lost_and_maybe_sent(transport, pieces, detail):
    async with Server(lambda head: pieces) as server:
        server.closes = True
        lost = await get(transport, server.url)
    assert isinstance(lost, Lost)
    assert (lost.sent, lost.timed_out) == (True, False)
    assert detail in lost.detail


async def test_a_body_that_does_not_decode_is_lost_with_its_headers(transport):
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
    async with Server(lambda request: [head]) as server:
        lost = await get(transport, server.url)
    assert isinstance(lost, Lost)
    assert lost.headers is not None
    assert lost.headers["x-a"] == "b"


async def test_a_server_that_never_answers_is_a_timeout():
    async with Transport(timeout_s=1.0, max_connections=1) as transport:
        async with Server(lambda head: []) as server:
            lost = await get(transport, server.url)
        assert isinstance(lost, Lost)
        assert (lost.sent, lost.timed_out) == (True, True)


async def test_what_cannot_be_connected_was_never_sent(transport):
    async with Server(lambda head: [OK]) as server:
        url = server.url
    lost = await get(transport, url)
    assert isinstance(lost, Lost)
    assert not lost.sent


async def test_a_pool_that_is_used_up_says_so_and_nothing_is_sent():
    async with Transport(timeout_s=1.0, max_connections=1) as transport, Server(lambda head: []) as server:
        first, second = await asyncio.gather(*(get(transport, server.url) for _ in range(2)))
        assert (first.sent, first.timed_out) == (True, True)
        assert not second.sent
        assert len(server.requests) == 1


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
async def test_a_header_cannot_smuggle_another_one(transport, value):
    async with Server(lambda head: [OK]) as server:
        lost = await get(transport, server.url, headers={"X-Own": value})
        assert isinstance(lost, Lost)
        assert not lost.sent
        assert server.requests == []
        assert (await get(transport, server.url)).content == b"hello"


async def test_a_long_answer_is_not_held_while_nobody_reads_it(transport):
    total, sent = 40 * 1024 * 1024, [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent[0] < total:
            writer.write(b"x" * 65_536)
            sent[0] += 65_536
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    answer = await transport.send(transport.build("GET", url), streams=True)
    before = -1
    while sent[0] != before:
        before = sent[0]
        await asyncio.sleep(0.1)
    assert before < total
    read = 0
    async for piece in answer.aiter_raw():
        read += len(piece)
    await answer.aclose()
    assert read == total
    listening.close()


async def test_an_answer_that_is_left_early_costs_the_connection(transport):
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000
    async with Server(lambda head: [long]) as server:
        answer = await transport.send(transport.build("GET", server.url), streams=True)
        await answer.aclose()
        answer = await transport.send(transport.build("GET", server.url), streams=True)
        await answer.aclose()
    assert server.connections == 2


async def test_where_a_proxy_is_named_it_gets_the_requests(monkeypatch):
    async with Server(lambda head: [OK]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with Transport(timeout_s=60.0, max_connections=2) as transport:
            answer = await get(transport, "http://shop.example/a")
    assert answer.content == b"hello"
    assert proxy.requests[0].startswith(b"GET http://shop.example/a HTTP/1.1\r\n")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `localhost` that nobody else trusts, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_tls_is_spoken_to_who_is_trusted_and_to_nobody_else(certificate, monkeypatch):
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    async with Server(lambda head: [OK], context) as server:
        port = server.url.rpartition(":")[2]
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        async with Transport(timeout_s=60.0, max_connections=2) as transport:
            for _ in range(2):
                assert (await get(transport, f"https://localhost:{port}/a")).content == b"hello"
            assert server.connections == 1
            # The certificate is not for this name.
            lost = await get(transport, f"https://127.0.0.1:{port}/a")
            assert isinstance(lost, Lost)
            assert not lost.sent
        monkeypatch.delenv("SSL_CERT_FILE")
        async with Transport(timeout_s=60.0, max_connections=2) as transport:
            lost = await get(transport, f"https://localhost:{port}/a")
            assert isinstance(lost, Lost)
            assert not lost.sent
    assert len(server.requests) == 2
