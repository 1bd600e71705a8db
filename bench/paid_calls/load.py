"""Load from one event loop over raw sockets: a closed loop that keeps every connection busy, an open loop that sends on
time whatever comes back.

Requests are finished bytes. Of an answer only its status and its length are read.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

Request = bytes
Done = Callable[[int], None]


@dataclass
class Result:
    """What one loop saw. Latencies in seconds, of answers with the wanted status, in order of arrival."""

    latencies: list[float] = field(default_factory=list)
    failures: dict[int, int] = field(default_factory=dict)
    """Answers by status that was not wanted; 0 is a connection that ended."""
    seconds: float = 0.0
    cpu_s: float = 0.0
    """What this process used itself."""

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time. `done(status)` gets each answer, 0 for one that was lost."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._missing = 0
        self._status = 0
        self._done: Done | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of a family of their own.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: Request, done: Done) -> None:
        assert self._transport is not None
        self._done = done
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._received += data
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._status = int(self._received[9:12])
            at = self._received.lower().index(b"content-length:", 0, end) + 15
            length = int(self._received[at : self._received.index(b"\r\n", at)])
            self._missing = end + 4 + length - len(self._received)
            self._received = b""
        if self._missing == 0:
            self._finish(self._status)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._finish(0)

    def close(self) -> None:
        self._done = None
        if self._transport is not None:
            self._transport.close()

    def _finish(self, status: int) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(status)


async def connect(url: str, count: int) -> list[Connection]:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    host, port = parts.hostname or "", parts.port or 80
    pairs = [await loop.create_connection(Connection, host, port) for _ in range(count)]
    return [connection for _, connection in pairs]


async def closed_loop(
    url: str,
    requests: Sequence[Request],
    *,
    connections: int,
    wanted: int = 200,
    progress: Callable[[int], None] = lambda _count: None,
) -> Result:
    """Send every request, one at a time on each connection."""
    result, pool = Result(), await connect(url, connections)
    queue: Iterator[Request] = iter(requests)
    finished = asyncio.Event()
    left = len(requests)

    def go_on(connection: Connection) -> None:
        request = next(queue, None)
        if request is None or connection.lost:
            return
        sent = time.perf_counter()

        def done(status: int) -> None:
            nonlocal left
            _count(result, status, wanted, time.perf_counter() - sent)
            left -= 1
            if left % 1000 == 0:
                progress(len(requests) - left)
            if left == 0 or all(each.lost for each in pool):
                finished.set()
            go_on(connection)

        connection.send(request, done)

    def start() -> None:
        for connection in pool:
            go_on(connection)

    await _measure(result, finished.wait, start)
    for connection in pool:
        connection.close()
    return result


async def open_loop(
    url: str,
    requests: Sequence[Request],
    *,
    rate: float,
    connections: int,
    wanted: int = 200,
    progress: Callable[[int], None] = lambda _count: None,
) -> Result:
    """Send `rate` requests a second. A latency counts from the moment its request was due, so that waiting for a free
    connection, or for this process, is part of it."""
    result, pool = Result(), await connect(url, connections)
    free, waiting = deque(pool), deque[tuple[float, Request]]()
    finished = asyncio.Event()
    left = len(requests)

    def dispatch() -> None:
        while free and waiting:
            due, request = waiting.popleft()
            connection = free.popleft()

            def done(status: int, due: float = due, connection: Connection = connection) -> None:
                nonlocal left
                _count(result, status, wanted, time.perf_counter() - due)
                if not connection.lost:
                    free.append(connection)
                left -= 1
                if left == 0 or all(each.lost for each in pool):
                    finished.set()
                dispatch()

            connection.send(request, done)

    async def pace() -> None:
        began = time.perf_counter()
        for number, request in enumerate(requests):
            due = began + number / rate
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            waiting.append((due, request))
            dispatch()
            if number % 1000 == 0:
                progress(number)
        await finished.wait()

    await _measure(result, pace)
    for connection in pool:
        connection.close()
    return result


async def _measure(
    result: Result, work: Callable[[], Awaitable[object]], start: Callable[[], None] = lambda: None
) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    start()
    await work()
    result.seconds, result.cpu_s = time.perf_counter() - began, time.process_time() - cpu


def _count(result: Result, status: int, wanted: int, latency: float) -> None:
    if status == wanted:
        result.latencies.append(latency)
    else:
        result.failures[status] = result.failures.get(status, 0) + 1
