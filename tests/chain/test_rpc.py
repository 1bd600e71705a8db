"""The RPC client against a server that hangs up, or answers what no node of Solana answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from machpay.chain.client import ChainClient
from machpay.chain.errors import RpcUnavailable

RAW = bytes([1]) + bytes(64)
ERROR = '{"jsonrpc":"2.0","id":0,"error":%s}'


class Server:
    """Answers every request with `body`, or hangs up if that is None. `requests` counts them."""

    def __init__(self) -> None:
        self.body: str | None = None
        self.requests = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        self.requests += 1
        if self.body is not None:
            body = self.body.encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
        writer.close()


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Server, ChainClient]]:
    server = Server()
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with ChainClient(f"http://127.0.0.1:{port}") as chain:
            yield server, chain


async def test_what_is_sent_is_sent_once_when_no_answer_comes() -> None:
    """Had it landed, a second request could be refused, as if the first had never been."""
    async with served() as (server, chain):
        with pytest.raises(RpcUnavailable):
            await chain.send(RAW)
        assert server.requests == 1
        with pytest.raises(RpcUnavailable):
            await chain.slot()
        assert server.requests == 3


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "<html>",
        '{"jsonrpc":"2.0","id":0,"result":null}',
        ERROR % '{"code":429,"message":"slow down"}',
        ERROR % '{"code":-32000,"message":"slow down"}',
        ERROR % '{"code":-32002,"message":"slow down","data":null}',
        ERROR % '{"code":-32002,"message":"of a later version","data":{"err":"Unheard","logs":null}}',
        ERROR % '{"code":-32005,"message":"slow down"}',
    ],
)
async def test_an_answer_that_cannot_be_read_says_nothing_of_what_was_sent(body: str) -> None:
    async with served() as (server, chain):
        server.body = body
        with pytest.raises(RpcUnavailable):
            await chain.slot()
        with pytest.raises(RpcUnavailable):
            await chain.send(RAW)
