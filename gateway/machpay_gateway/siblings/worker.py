"""One process of a family: a gateway with an identity and a log of its own, on the shared port and on one where its
siblings reach it.

    python -m machpay_gateway.siblings.worker    (the supervisor starts it; its orders come on stdin, one JSON object)

Its standard input stays open as long as the supervisor lives: when it ends, the worker stops like on SIGTERM.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from machpay_gateway.errors import ConfigError, LogError
from machpay_gateway.logs import configure_logging
from machpay_gateway.runtime import Runtime
from machpay_gateway.server import Server, bind, collect_rarely, house, serve_until_stopped
from machpay_gateway.settings import Settings, load_settings
from machpay_gateway.siblings.family import Family, folder, shared_secret, with_count, worker_settings
from machpay_gateway.siblings.front import Front

STATE_FILE: Final = "worker.json"
"""In a worker's folder while it serves: `{pid, gateway, worker}`."""
DRAIN_POLL_S: Final = 0.1

logger = logging.getLogger(__name__)


class Orders(msgspec.Struct):
    """What a worker is told. `host` and `port` are where clients connect, `ports` where siblings of this machine do;
    with `drain` it only delivers what its log holds, and ends."""

    config: str
    count: int
    index: int
    host: str
    port: int
    ports: dict[int, int]
    drain: bool = False


def main() -> int:
    """Run one worker; the exit code."""
    configure_logging()
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    try:
        collect_rarely()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_drain(orders) if orders.drain else _serve(orders))
    except (ConfigError, LogError, OSError) as error:
        print(f"machpay-gateway: worker {orders.index}: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(orders: Orders) -> None:
    settings = with_count(load_settings(orders.config), orders.count)
    secret = shared_secret(settings.key)
    family = Family.of(settings, orders.index, orders.ports)
    own = worker_settings(settings, orders.index)
    with (
        contextlib.closing(bind(orders.host, orders.port, shared=True)) as public,
        contextlib.closing(bind(settings.workers.host, orders.ports[orders.index])) as private,
    ):
        async with Runtime(own) as runtime, Front(runtime, family, secret) as front:
            runtime.serves_at(orders.host, orders.port)

            def ready() -> None:
                _write_state(settings, orders.index, family)
                logger.info("worker %d is gateway %s", orders.index, own.key.pubkey)

            server = Server(house(front, runtime), ready, grace_s=own.gateway.shutdown_s)
            try:
                await serve_until_stopped(
                    server, [public, private], stop=_end_of_input(), install_signals=True
                )
            finally:
                state_path(settings, orders.index).unlink(missing_ok=True)
    logger.info("worker %d stopped", orders.index)


async def _drain(orders: Orders) -> None:
    """Hand over what a process left behind whose identity nobody has here any more."""
    settings = worker_settings(load_settings(orders.config), orders.index)
    stop = _end_of_input()
    async with Runtime(settings) as runtime:
        while runtime.undelivered and not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), DRAIN_POLL_S)
        logger.info("worker %d: %d payments are left to deliver", orders.index, runtime.undelivered)


def state_path(settings: Settings, index: int) -> Path:
    return folder(settings, index) / STATE_FILE


def _write_state(settings: Settings, index: int, family: Family) -> None:
    target = state_path(settings, index)
    draft = target.with_suffix(".tmp")
    draft.write_text(json.dumps({"pid": os.getpid(), "gateway": family.pubkeys[index], "worker": index}))
    draft.replace(target)


def _end_of_input() -> asyncio.Event:
    """Set when the supervisor has gone."""
    ended = asyncio.Event()

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            ended.set()

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), read)
    return ended


if __name__ == "__main__":
    sys.exit(main())
