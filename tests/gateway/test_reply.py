"""The bytes of answers, and the bound that many exchanges share."""

import asyncio

import pytest

from machpay_gateway.patience import Patience
from machpay_gateway.reply import ClientStalled, Headers, Reply


class Written:
    """A connection that keeps what is written."""

    def __init__(self, is_full: bool = False) -> None:
        self.is_full = is_full
        self.data = b""
        self.ends = 0

    async def drain(self, timeout_s: float | None) -> None:
        async with asyncio.timeout(timeout_s):
            await asyncio.Event().wait()

    def write(self, data: bytes) -> None:
        self.data += data

    def answered(self, reply: Reply) -> None:
        self.ends += 1


def reply_on(way: Written, *, is_head: bool = False, keep_alive: bool = True) -> Reply:
    return Reply(way, b"id-1", is_head=is_head, keep_alive=keep_alive)


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Lines of the head without the date, and what follows."""
    head, _, body = data.partition(b"\r\n\r\n")
    return [line for line in head.split(b"\r\n") if not line.startswith(b"date: ")], body


async def test_a_whole_answer_says_its_length_and_ends() -> None:
    way = Written()
    reply = reply_on(way)
    await reply.whole(200, [(b"x-a", b"1")], b"hello")
    assert split(way.data) == (
        [b"HTTP/1.1 200 OK", b"x-request-id: id-1", b"x-a: 1", b"content-length: 5"],
        b"hello",
    )
    assert (way.ends, reply.status, reply.bytes_out) == (1, 200, len(way.data))


@pytest.mark.parametrize(("status", "is_head"), [(200, True), (204, False), (304, False)])
async def test_answers_without_a_body_have_none_and_keep_the_length_they_declare(
    status: int, is_head: bool
) -> None:
    way = Written()
    await reply_on(way, is_head=is_head).whole(status, [(b"content-length", b"7")], b"")
    lines, body = split(way.data)
    assert (lines[-1], body) == (b"content-length: 7", b"")
    way = Written()
    reply = reply_on(way, is_head=is_head)
    await reply.start(status, [])
    await reply.end()
    lines, body = split(way.data)
    assert (lines[-1], body) == (b"x-request-id: id-1", b"")


async def test_a_stream_without_a_length_travels_in_chunks() -> None:
    way = Written()
    reply = reply_on(way, keep_alive=False)
    await reply.start(200, [])
    for piece in (b"one", b"", b"x" * 16):
        await reply.piece(piece, 1.0)
    await reply.end()
    lines, body = split(way.data)
    assert lines[2:] == [b"connection: close", b"transfer-encoding: chunked"]
    assert body == b"3\r\none\r\n10\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "line",
    [
        (b"x-a", b"1\r\nset-cookie: a"),
        (b"x-a", b"1\nb"),
        (b"x-a\r\n", b"1"),
        (b"x-a", b"\x00"),
        (b"x", b"\r"),
    ],
)
async def test_a_header_cannot_hold_another_one(line: tuple[bytes, bytes]) -> None:
    way = Written()
    for answer in (reply_on(way).whole(200, [line], b""), reply_on(way).start(200, [line])):
        with pytest.raises(RuntimeError):
            await answer
    assert (way.data, way.ends) == (b"", 0)


async def test_an_answer_is_as_long_as_it_declares_and_there_is_one() -> None:
    declared: Headers = [(b"content-length", b"3")]
    way = Written()
    with pytest.raises(RuntimeError):
        await reply_on(way).whole(200, declared, b"four")
    assert way.data == b""
    reply = reply_on(way)
    await reply.start(200, declared)
    await reply.piece(b"ab", None)
    with pytest.raises(RuntimeError):
        await reply.end()
    with pytest.raises(RuntimeError):
        await reply.piece(b"cd", None)
    with pytest.raises(RuntimeError):
        await reply.whole(200, [], b"")
    assert split(way.data)[1] == b"ab"
    assert way.ends == 0


async def test_a_client_that_takes_nothing_more_is_noticed() -> None:
    way = Written()
    reply = reply_on(way)
    await reply.start(200, [])
    way.is_full = True
    with pytest.raises(ClientStalled):
        await reply.piece(b"more", 0.01)
    assert split(way.data)[1] == b""


class TestPatience:
    async def test_each_wait_has_its_own_end(self) -> None:
        patience, never = Patience(0.05), asyncio.Event()
        ended: list[int] = []

        async def wait(number: int, pause_s: float) -> None:
            await asyncio.sleep(pause_s)
            with pytest.raises(TimeoutError), patience.limit():
                await never.wait()
            ended.append(number)

        async def hurry() -> None:
            with patience.limit():
                await asyncio.sleep(0)

        async with asyncio.timeout(30):
            await asyncio.gather(wait(1, 0), hurry(), wait(2, 0.02), wait(3, 0.1))
        assert ended == [1, 2, 3]

    async def test_being_cancelled_is_not_being_late(self) -> None:
        patience = Patience(30)

        async def wait() -> None:
            with patience.limit():
                await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
