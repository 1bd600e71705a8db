"""A loopback relay between client and gateway that spoils single exchanges: cut before, cut after, answer
late, send twice. Everything else passes through byte for byte."""

import asyncio
import contextlib
from collections import deque
from typing import Literal, Self
from urllib.parse import urlsplit

Spoil = Literal["pass", "cut before", "cut after", "swallow", "cut body", "twice"]


class Relay:
    """Forwards HTTP/1.1 exchanges of one connection in order. `plan` says how each next exchange is
    spoiled."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 0)
        self.plan: deque[Spoil] = deque()
        self.seen: list[bytes] = []
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            request = await _read_message(reader)
        except asyncio.IncompleteReadError:
            return False
        spoil: Spoil = self.plan.popleft() if self.plan else "pass"
        self.seen.append(request)
        if spoil == "cut before":
            return False
        answer = await self._forward(request)
        if spoil == "twice":
            answer = await self._forward(request)
        if spoil == "cut after":
            return False
        if spoil == "swallow":
            await asyncio.Event().wait()
        if spoil == "cut body":
            head, _, body = answer.partition(b"\r\n\r\n")
            writer.write(head + b"\r\n\r\n" + body[: len(body) // 2])
            await writer.drain()
            return False
        writer.write(answer)
        await writer.drain()
        return True

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._target)
        with contextlib.closing(writer):
            writer.write(request)
            return await _read_message(reader)


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """One request or answer whose body has a declared length, or none."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head + await reader.readexactly(length)
