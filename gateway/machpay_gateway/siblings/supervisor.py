"""Starts the gateway processes of this machine, starts again what dies, and stops them together.

It serves nothing itself. A worker that dies is started with the same identity and log, so what it had recorded is
delivered and its channels go on; until then its siblings answer 503 for them. Folders of identities that this machine
no longer has are drained once.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from machpay_gateway.backoff import Backoff
from machpay_gateway.errors import ConfigError
from machpay_gateway.server import bind
from machpay_gateway.settings import Settings
from machpay_gateway.siblings.family import identities, identity, left_behind, local_indexes
from machpay_gateway.siblings.worker import Orders, state_path

STEADY_S: Final = 10.0
"""A worker that ran this long may be started again at once."""
POLL_S: Final = 0.05
KILL_MARGIN_S: Final = 15.0
"""How much longer than `shutdown_s` a stopping worker gets: it hands over what it has after the last answer."""

logger = logging.getLogger(__name__)


class Supervisor:
    """`run()` until a signal; the exit code."""

    def __init__(self, settings: Settings, config: str) -> None:
        self._settings = settings
        self._config = config
        self._gateways = [key.pubkey for key in identities(settings)]
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._signals = 0
        self._is_ready = False

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Raises `ConfigError`."""
        gateway = self._settings.gateway
        # Bound, never listening: it holds the port for the workers' own sockets and takes no connection.
        with contextlib.closing(bind(gateway.host, gateway.port, shared=True)) as holder:
            host, port = holder.getsockname()[:2]
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._signal)
            ports = self._ports()
            orders = [self._orders(index, host, port, ports) for index in local_indexes(self._settings)]
            for order in orders:
                state_path(self._settings, order.index).unlink(missing_ok=True)
            work = [asyncio.create_task(self._keep(order)) for order in orders]
            work += [asyncio.create_task(self._drain(index)) for index in left_behind(self._settings)]
            ready = asyncio.create_task(self._ready(host, port))
            try:
                codes = await asyncio.gather(*work)
            finally:
                ready.cancel()
                if self._is_ready:
                    # Else it is another one's, whose folder this is.
                    self._endpoint().unlink(missing_ok=True)
        return next((code for code in codes if code), 0)

    # --- Workers ----------------------------------------------------------------------------------------------------

    async def _keep(self, orders: Orders) -> int:
        """One worker, again and again until we stop. A first start that fails ends everything: 2."""
        backoff, loop, first = Backoff(), asyncio.get_running_loop(), True
        while True:
            began = loop.time()
            code = await self._once(orders)
            if self._stopping.is_set():
                return 0
            if first and code == 2:
                self._signal()
                return 2
            first = False
            logger.error("worker %d ended with status %d and is started again", orders.index, code)
            if loop.time() - began > STEADY_S:
                backoff.reset()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff.next_s())
                return 0

    async def _drain(self, index: int) -> int:
        logger.info("worker %d no longer runs here; delivering what its log holds", index)
        await self._once(Orders(self._config, 1, index, "", 0, {}, drain=True))
        return 0

    async def _once(self, orders: Orders) -> int:
        # A session of its own: Ctrl-C reaches the supervisor alone, because a worker takes a second signal as haste.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "machpay_gateway.siblings.worker"),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._processes[orders.index] = process
        try:
            # The pipe stays open: a worker stops when it ends, however the supervisor ended.
            assert process.stdin is not None
            with contextlib.suppress(ConnectionError):
                process.stdin.write(msgspec.json.encode(orders) + b"\n")
                await process.stdin.drain()
            if self._stopping.is_set():
                process.terminate()
            code = await process.wait()
        finally:
            del self._processes[orders.index]
            state_path(self._settings, orders.index).unlink(missing_ok=True)
        return code

    def _signal(self) -> None:
        """Pass a stop on to everybody; a second one says not to wait for clients."""
        self._stopping.set()
        self._signals += 1
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        if self._signals == 1:
            limit = self._settings.gateway.shutdown_s + KILL_MARGIN_S
            asyncio.get_running_loop().call_later(limit, self._kill)

    def _kill(self) -> None:
        for index, process in self._processes.items():
            logger.error("worker %d did not stop in time and is killed; its log keeps what it has", index)
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    # --- Where everything is ----------------------------------------------------------------------------------------

    def _orders(self, index: int, host: str, port: int, ports: dict[int, int]) -> Orders:
        return Orders(self._config, self._settings.workers.count, index, host, port, ports)

    def _ports(self) -> dict[int, int]:
        """Where the workers of this machine are reached by siblings."""
        workers, indexes = self._settings.workers, local_indexes(self._settings)
        if workers.port:
            return {index: workers.port + number for number, index in enumerate(indexes)}
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(contextlib.closing(_free(workers.host))) for _ in indexes]
            return {index: each.getsockname()[1] for index, each in zip(indexes, held, strict=True)}

    async def _ready(self, host: str, port: int) -> None:
        """Write `endpoint.json` when every worker serves."""
        indexes = local_indexes(self._settings)
        missing = [state_path(self._settings, index) for index in indexes]
        while missing:
            await asyncio.sleep(POLL_S)
            missing = [path for path in missing if not path.exists()]
        shown = f"[{host}]" if ":" in host else host
        workers: list[dict[str, Any]] = [
            {"worker": index, "gateway": identity(self._settings.key, index).pubkey} for index in indexes
        ]
        content = {
            "url": self._settings.gateway.public_url or f"http://{shown}:{port}",
            "host": host,
            "port": port,
            "pid": os.getpid(),
            "gateway": workers[0]["gateway"],
            "gateways": self._gateways,
            "workers": workers,
        }
        draft = self._endpoint().with_suffix(".tmp")
        draft.write_text(json.dumps(content) + "\n")
        draft.replace(self._endpoint())
        self._is_ready = True
        logger.info("%d gateway processes serve %s", len(indexes), content["url"])

    def _endpoint(self) -> Path:
        return self._settings.data_dir / "endpoint.json"


def _free(host: str) -> socket.socket:
    try:
        return bind(host, 0)
    except ConfigError as error:
        raise ConfigError(f"workers.host: cannot listen on {host}") from error


def supervise(settings: Settings, config: str) -> int:
    """Run the family's processes of this machine until SIGTERM or SIGINT; the exit code. Raises `ConfigError`."""

    async def run() -> int:
        return await Supervisor(settings, config).run()

    return asyncio.run(run())
