"""HTTP around the dispatcher: raw ASGI under uvicorn on one thread, the state folder's lock, the ready file.

`<state>/endpoint.json` exists while the chain serves: `{rpc_url, genesis_hash, program_id, pid}`. A kill
leaves it behind, so whoever reads it should ask `/health`.
"""

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
import uvloop

from contracts.localnet.ledger import Ledger, Program
from contracts.localnet.rpc import Dispatcher
from contracts.localnet.slots import Commitment

BODY_BYTES_MAX = 4 * 1024 * 1024

_log = logging.getLogger("contracts.localnet")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What one local chain runs with. `port` 0 takes a free one."""

    host: str
    port: int
    state: Path
    slot_ms: int
    finalized_lag: int
    program: Program | None


class StateInUseError(Exception):
    """Another process serves this state folder."""


class App:
    """The ASGI application: POST / is JSON-RPC, GET /health and /metrics are for operators."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rpc = Dispatcher(ledger)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        match scope["method"], scope["path"]:
            case "POST", "/":
                await self._answer_rpc(receive, send)
            case "GET" | "HEAD", "/health":
                await _respond(send, 200, msgspec.json.encode(self._health()))
            case "GET" | "HEAD", "/metrics":
                await _respond(send, 200, self._metrics().encode(), b"text/plain; version=0.0.4")
            case _, "/" | "/health" | "/metrics":
                await _respond(send, 405, b'{"error":"method not allowed"}')
            case _:
                await _respond(send, 404, b'{"error":"not found"}')

    async def _answer_rpc(self, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > BODY_BYTES_MAX:
                await _respond(send, 413, b'{"error":"request body too large"}')
                return
            if not message.get("more_body"):
                break
        try:
            answer = self._rpc.handle(body)
        except BaseException:
            # What is in memory may not be in the file. The file counts: end here, a restart continues from it.
            _log.exception("the chain cannot continue")
            os._exit(1)
        await _respond(send, 200 if answer is not None else 204, answer or b"")

    def _health(self) -> dict[str, Any]:
        self._ledger.advance()
        slots = {level.name: self._ledger.slot(level) for level in Commitment}
        chain = {"status": "ok", "genesis_hash": str(self._ledger.genesis_hash), "slots": slots}
        return {"status": "ok", "service": "localnet", "components": {"chain": chain}}

    def _metrics(self) -> str:
        self._ledger.advance()
        lines = ["# TYPE machpay_localnet_slot gauge"]
        lines += [
            f'machpay_localnet_slot{{commitment="{c.name}"}} {self._ledger.slot(c)}' for c in Commitment
        ]
        lines.append("# TYPE machpay_localnet_transactions_total counter")
        lines.append(f"machpay_localnet_transactions_total {self._ledger.transaction_count()}")
        lines.append("# TYPE machpay_localnet_rpc_calls_total counter")
        lines += [
            f'machpay_localnet_rpc_calls_total{{method="{m}"}} {n}'
            for m, n in sorted(self._rpc.calls.items())
        ]
        return "\n".join([*lines, ""])


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises StateInUseError, or OSError when the port is taken."""
    settings.state.mkdir(parents=True, exist_ok=True)
    # uvicorn raises the signal again once it has shut down; the end is then ours to make, and it is a clean one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    with (
        _locked(settings.state),
        socket.create_server((settings.host, settings.port), backlog=1024) as listener,
    ):
        # Inherited by every connection: an answer must not wait for the acknowledgement of its own headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        endpoint = settings.state / "endpoint.json"
        endpoint.unlink(missing_ok=True)
        programs = [settings.program] if settings.program else []
        with contextlib.closing(
            Ledger(
                settings.state,
                slot_ms=settings.slot_ms,
                finalized_lag=settings.finalized_lag,
                programs=programs,
            )
        ) as ledger:
            url = f"http://{_reachable(settings.host)}:{listener.getsockname()[1]}"
            _log.info("chain %s at slot %d", ledger.genesis_hash, ledger.slot(Commitment.processed))
            try:
                uvloop.run(_run(App(ledger), listener, lambda: _announce(endpoint, url, ledger, settings)))
            finally:
                endpoint.unlink(missing_ok=True)
            _log.info("stopped at slot %d", ledger.slot(Commitment.processed))


async def _run(app: App, listener: socket.socket, ready: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        # Longer than clients keep an idle connection, so that none is closed under a request.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config, ready)
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def _announce(endpoint: Path, url: str, ledger: Ledger, settings: Settings) -> None:
    content = {
        "rpc_url": url,
        "genesis_hash": str(ledger.genesis_hash),
        "program_id": str(settings.program.program_id) if settings.program else None,
        "pid": os.getpid(),
    }
    partial = endpoint.with_suffix(".json.new")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(endpoint)
    _log.info("ready at %s", url)


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


async def _respond(send: Send, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
