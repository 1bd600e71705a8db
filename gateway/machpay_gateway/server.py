"""uvicorn around the application: one process, uvloop, httptools, and a shutdown that finishes what was accepted."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
import uvloop

from machpay_gateway.errors import ConfigError
from machpay_gateway.runtime import Runtime
from machpay_gateway.settings import Settings
from machpay_gateway.wire import WireProtocol

KEEP_ALIVE_S = 75
BACKLOG = 2048
COLLECT_AFTER = (10_000, 20, 50)

logger = logging.getLogger(__name__)


class CountingProtocol(WireProtocol):
    """Counts what comes in."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.app.traffic.connections += 1
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.app.traffic.connections -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.app.traffic.received(len(data))
        super().data_received(data)


class ReadyServer(uvicorn.Server):
    """Says when connections are accepted."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises `ConfigError` if the address cannot be bound, `LogError` and its kinds."""
    collect_rarely()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


def collect_rarely() -> None:
    """Leave what was imported out of garbage collection, and collect less often: hardly anything that a request makes
    is in a cycle, and what lives long (nonces, kept answers) would be walked through again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def serve(
    settings: Settings, *, install_signals: bool = True, stop: asyncio.Event | None = None
) -> None:
    """Serve until a signal, or until `stop` is set."""
    listener = bind(settings.gateway.host, settings.gateway.port)
    with contextlib.closing(listener):
        async with Runtime(settings) as runtime:
            host, port = listener.getsockname()[:2]

            def ready() -> None:
                runtime.write_endpoint(host, port)
                logger.info("gateway %s serves %s", settings.key.pubkey, runtime.url)

            server = ReadyServer(configuration(runtime.app, settings), ready)
            try:
                await serve_until_stopped(server, [listener], stop=stop, install_signals=install_signals)
            finally:
                runtime.remove_endpoint()
    logger.info("gateway %s stopped", settings.key.pubkey)


async def serve_until_stopped(
    server: uvicorn.Server,
    listeners: list[socket.socket],
    *,
    stop: asyncio.Event | None,
    install_signals: bool,
) -> None:
    """Serve until a signal, or until `stop` is set; then what was accepted is finished."""
    loop = asyncio.get_running_loop()

    def finish() -> None:
        # A second signal stops waiting for clients; what was accepted is in the log either way.
        server.force_exit = server.should_exit
        server.should_exit = True

    if install_signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, finish)
    watcher = loop.create_task(stop.wait()) if stop is not None else None
    if watcher is not None:
        watcher.add_done_callback(lambda task: None if task.cancelled() else finish())
    try:
        # Not `serve()`: it would take the signals and raise them again while payments are still being handed over.
        await server._serve(listeners)
    finally:
        if watcher is not None:
            watcher.cancel()


def configuration(app: Any, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves `app`, which counts its connections as `traffic`."""
    return uvicorn.Config(
        app,
        http=CountingProtocol.within(settings.limits),
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.gateway.shutdown_s)),
        backlog=BACKLOG,
    )


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket to listen on; `shared` with other processes of this user. Raises `ConfigError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio knows the connections as TCP and switches Nagle off.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            # The kernel spreads new connections over the processes that listen.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"gateway.host, gateway.port: cannot listen on {host}:{port}: {error.strerror}"
        ) from error
    listener.setblocking(False)
    return listener
