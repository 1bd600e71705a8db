"""The process around the application: uvicorn on one thread, the state folder's lock, the ready file.

`<state>/endpoint.json` exists while the chain serves: `{rpc_url, ws_url, genesis_hash, program_id, pid}`. A kill
leaves it behind, so whoever reads it should ask `/health`.
"""

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
import uvloop

from contracts.localnet.app import App
from contracts.localnet.ledger import Ledger, Program
from contracts.localnet.slots import Commitment

WS_MESSAGE_BYTES_MAX = 64 * 1024

_log = logging.getLogger("contracts.localnet")


@dataclass(frozen=True, slots=True)
class Settings:
    """What one local chain runs with.

    `port` 0 takes a free one. `ws_port` is a second port with the same service, None for none.
    """

    host: str
    port: int
    state: Path
    slot_ms: int
    finalized_lag: int
    transactions_kept: int
    program: Program | None
    ws_port: int | None = None
    allow_faults: bool = False


class StateInUseError(Exception):
    """Another process serves this state folder."""


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises StateInUseError, or OSError when the port is taken."""
    settings.state.mkdir(parents=True, exist_ok=True)
    # uvicorn raises the signal again once it has shut down; the end is then ours to make, and it is a clean one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    ports = [settings.port] if settings.ws_port is None else [settings.port, settings.ws_port]
    with _locked(settings.state), contextlib.ExitStack() as sockets:
        listeners = [sockets.enter_context(_listen(settings.host, port)) for port in ports]
        endpoint = settings.state / "endpoint.json"
        endpoint.unlink(missing_ok=True)
        programs = [settings.program] if settings.program else []
        with contextlib.closing(
            Ledger(
                settings.state,
                slot_ms=settings.slot_ms,
                finalized_lag=settings.finalized_lag,
                transactions_kept=settings.transactions_kept,
                programs=programs,
            )
        ) as ledger:
            address = f"{_reachable(settings.host)}:{listeners[0].getsockname()[1]}"
            app = App(ledger, allow_faults=settings.allow_faults)
            _log.info("chain %s at slot %d", ledger.genesis_hash, ledger.slot(Commitment.processed))
            try:
                uvloop.run(_run(app, listeners, lambda: _announce(endpoint, address, ledger, settings)))
            finally:
                endpoint.unlink(missing_ok=True)
            _log.info("stopped at slot %d", ledger.slot(Commitment.processed))


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), backlog=1024)
    # Inherited by every connection: an answer must not wait for the acknowledgement of its own headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _run(app: App, listeners: list[socket.socket], ready: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=WS_MESSAGE_BYTES_MAX,
        lifespan="off",
        log_level="warning",
        access_log=False,
        # Longer than clients keep an idle connection, so that none is closed under a request.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config, ready)
    await server.serve(sockets=listeners)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def _announce(endpoint: Path, address: str, ledger: Ledger, settings: Settings) -> None:
    content = {
        "rpc_url": f"http://{address}",
        "ws_url": f"ws://{address}",
        "genesis_hash": str(ledger.genesis_hash),
        "program_id": str(settings.program.program_id) if settings.program else None,
        "pid": os.getpid(),
    }
    partial = endpoint.with_suffix(".json.new")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(endpoint)
    _log.info("ready at http://%s", address)


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUseError(f"{state} is served by another process") from None
        yield


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("", "0.0.0.0") else host  # noqa: S104
