"""Small real servers for the gateway's tests: aiohttp applications and bare sockets on free loopback ports."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Served:
    """A running application."""

    url: str
    port: int
    runner: web.AppRunner

    async def stop(self) -> None:
        await self.runner.cleanup()


async def serve(app: web.Application, port: int = 0) -> Served:
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    bound = runner.addresses[0][1]
    return Served(f"http://127.0.0.1:{bound}", bound, runner)


@dataclass
class Upstream:
    """The vendor's server of a test. Remembers every request as (method, target, headers, body)."""

    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """`/slow` and the second half of `/paid?mode=stream` wait for it."""
    usage: dict[str, object] = field(default_factory=dict)
    """What `/usage/<digest>` answers: an object, or a status; 404 for any other digest."""
    served: Served | None = None

    @property
    def url(self) -> str:
        assert self.served is not None
        return self.served.url

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self.served = await serve(app)

    async def stop(self) -> None:
        self.release.set()
        if self.served is not None:
            await self.served.stop()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.method, request.raw_path, dict(request.headers), body))
        if request.path.startswith("/usage/"):
            usage = self.usage.get(request.path.removeprefix("/usage/"), 404)
            return web.Response(status=usage) if isinstance(usage, int) else web.json_response(usage)
        mode = request.query.get("mode", "")
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = getattr(
            self, f"_{mode}", None
        )
        if handler is not None:
            return await handler(request)
        if mode.startswith("status-"):
            return web.Response(
                status=int(mode.removeprefix("status-")), text=mode, headers={"Location": "/else"}
            )
        answer = {"path": request.raw_path, "body": len(body)}
        return web.json_response(answer, headers={"X-Request-ID": "the-upstreams"})

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        await self.release.wait()
        return web.json_response({"late": True})

    async def _flaky(self, request: web.Request) -> web.StreamResponse:
        """Fails the first time."""
        if len(self.seen) == 1:
            return web.Response(status=503)
        return web.json_response({"attempt": len(self.seen)})

    async def _slow_flaky(self, request: web.Request) -> web.StreamResponse:
        answer = await self._flaky(request)
        await self.release.wait()
        return answer

    async def _metered(self, request: web.Request) -> web.StreamResponse:
        """Names what it costs in its head."""
        return web.Response(text="counted", headers={"MachPay-Amount": request.query["amount"]})

    async def _trailer(self, request: web.Request) -> web.StreamResponse:
        """A stream of two pieces that names what it costs behind them, if it does."""
        assert request.transport is not None
        amount = request.query.get("amount")
        request.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTrailer: MachPay-Amount\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
        )
        await self.release.wait()
        trailer = b"" if amount is None else b"MachPay-Amount: " + amount.encode() + b"\r\n"
        request.transport.write(b"7\r\n second\r\n0\r\n" + trailer + b"\r\n")
        await asyncio.sleep(0.05)
        request.transport.close()
        return web.Response()

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not self.release.is_set():
            await response.write(b"more ")
            await asyncio.sleep(0.01)
        return response

    async def _flood(self, request: web.Request) -> web.StreamResponse:
        """More than any buffer on the way takes."""
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(400):
            await response.write(b"x" * 256 * 1024)
        await response.write_eof()
        return response

    async def _cached(self, request: web.Request) -> web.StreamResponse:
        headers = {"Cache-Control": "public, max-age=600", "PAYMENT-RESPONSE": "forged", "X-Own": "kept"}
        return web.Response(text="cached", headers=headers)

    async def _gzip(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(b"compressed" * 100), headers={"Content-Encoding": "gzip"})

    async def _chunked(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for number in range(5):
            await response.write(b"piece %d\n" % number)
        await response.write_eof()
        return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await self.release.wait()
        await response.write(b"data: second\n\n")
        await response.write_eof()
        return response

    async def _broken(self, request: web.Request) -> web.StreamResponse:
        """Starts a long answer and breaks it off once released."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first half")
        await self.release.wait()
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _short(self, request: web.Request) -> web.StreamResponse:
        """Declares ten bytes and sends four."""
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour")
        await asyncio.sleep(0)
        request.transport.close()
        return web.Response()
