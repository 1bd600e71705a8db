"""The server around the application: one process on uvloop, and a shutdown that finishes what was accepted."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable
from typing import Final

import uvloop

from machpay_gateway.errors import ConfigError
from machpay_gateway.runtime import Runtime
from machpay_gateway.settings import Settings
from machpay_gateway.wire import App, Connection, House

BACKLOG: Final = 2048
COLLECT_AFTER: Final = (10_000, 20, 50)
END_POLL_S: Final = 0.05
"""How often a stopping server looks whether its clients have gone."""
LAST_WORDS_S: Final = 1.0
"""How long exchanges may take that are cancelled because the time to finish them is over."""

logger = logging.getLogger(__name__)


class Server:
    """Accepts connections for `house`, and ends them in good order."""

    def __init__(self, house: House, ready: Callable[[], None], *, grace_s: float) -> None:
        self._house = house
        self._ready = ready
        self._grace_s = grace_s
        self._should_exit = asyncio.Event()
        self._is_forced = False

    def finish(self) -> None:
        """Stop; asked a second time, without waiting for clients: what was accepted is in the log either way."""
        self._is_forced = self._should_exit.is_set()
        self._should_exit.set()

    async def serve(self, listeners: list[socket.socket]) -> None:
        """Serve until `finish`; then what was accepted is finished."""
        loop = asyncio.get_running_loop()
        servers = [
            await loop.create_server(lambda: Connection(self._house), sock=listener, backlog=BACKLOG)
            for listener in listeners
        ]
        self._ready()
        try:
            await self._should_exit.wait()
        finally:
            for server in servers:
                server.close()
        await self._end()

    async def _end(self) -> None:
        house, loop = self._house, asyncio.get_running_loop()
        for connection in list(house.connections):
            connection.shutdown()
        until = loop.time() + self._grace_s
        while house.connections or house.tasks:
            if self._is_forced or loop.time() > until:
                break
            await asyncio.sleep(END_POLL_S)
        if house.tasks:
            logger.error("%d exchanges are left behind unfinished", len(house.tasks))
            for task in list(house.tasks):
                task.cancel()
            await asyncio.wait(house.tasks, timeout=LAST_WORDS_S)


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

            server = Server(house(runtime.app, runtime), ready, grace_s=settings.gateway.shutdown_s)
            try:
                await serve_until_stopped(server, [listener], stop=stop, install_signals=install_signals)
            finally:
                runtime.remove_endpoint()
    logger.info("gateway %s stopped", settings.key.pubkey)


async def serve_until_stopped(
    server: Server,
    listeners: list[socket.socket],
    *,
    stop: asyncio.Event | None,
    install_signals: bool,
) -> None:
    """Serve until a signal, or until `stop` is set; then what was accepted is finished."""
    loop = asyncio.get_running_loop()

    if install_signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.finish)
    watcher = loop.create_task(stop.wait()) if stop is not None else None
    if watcher is not None:
        watcher.add_done_callback(lambda task: None if task.cancelled() else server.finish())
    try:
        await server.serve(listeners)
    finally:
        if watcher is not None:
            watcher.cancel()


def house(app: App, runtime: Runtime) -> House:
    """What the connections of a server of `app` share."""
    settings = runtime.settings
    return House(app, settings.limits, settings.upstream.max_body_bytes, runtime.traffic)


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
