"""The vendor's server of the bench: answers every request with the same 200 from one process, as cheaply as Python can.

    python -m bench.paid_calls.upstream PORT

Requests have no body, so the end of the head is the end of the request.
"""

import asyncio
import sys
from typing import cast

import uvloop

BODY = b'{"answer":"' + b"x" * 200 + b'"}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
    + str(len(BODY)).encode()
    + b"\r\n\r\n"
    + BODY
)


class Answerer(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of a family of their own.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._rest += data
        requests = self._rest.count(b"\r\n\r\n")
        if requests:
            self._rest = self._rest[self._rest.rindex(b"\r\n\r\n") + 4 :]
            self._transport.write(ANSWER * requests)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Answerer, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
