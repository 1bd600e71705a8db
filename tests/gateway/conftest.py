"""A gateway with its upstream and network, all over real sockets."""

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from machpay.protocol import x402
from machpay.protocol.keys import SigningKey
from machpay.protocol.requests import request_hash
from machpay_gateway.server import serve
from machpay_gateway.settings import Settings
from tests.gateway.factories import PROBE_PRICE, Payer, make_intent, make_settings
from tests.gateway.network_standin import NetworkStandIn
from tests.gateway.servers import Upstream


async def eventually(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Wait until true; the failure names what never came."""
    deadline = time.monotonic() + 60
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"never: {what}")
        await asyncio.sleep(0.005)


@dataclass
class Answer:
    """A whole answer of the gateway."""

    status: int
    headers: "CIMultiDict[str]"
    body: bytes

    @property
    def required(self) -> x402.PaymentRequired:
        return x402.decode_required(self.headers[x402.REQUIRED_HEADER])

    @property
    def response(self) -> x402.PaymentResponse:
        return x402.decode_response(self.headers[x402.RESPONSE_HEADER])

    def json(self) -> Any:
        return json.loads(self.body)


class RunningGateway:
    """A gateway served in this process, and a client for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.url = ""
        self.http = aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=120),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def start(self) -> None:
        self._stop.clear()
        endpoint = self.settings.data_dir / "endpoint.json"
        self._task = asyncio.create_task(serve(self.settings, install_signals=False, stop=self._stop))
        while not endpoint.exists():
            if self._task.done():
                await self._task
            await asyncio.sleep(0.005)
        self.url = json.loads(endpoint.read_text())["url"]

    async def stop(self) -> None:
        self._stop.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def close(self) -> None:
        await self.stop()
        await self.http.close()

    def payer(self, key: SigningKey | None = None) -> Payer:
        agent = key or SigningKey.generate()
        return Payer(self.settings.key.public, agent, network=self.settings.network)

    async def request(self, method: str, target: str, **options: Any) -> Answer:
        async with self.http.request(
            method, URL(self.url + target, encoded=True), allow_redirects=False, **options
        ) as answer:
            return Answer(answer.status, answer.headers.copy(), await answer.read())

    async def get(self, target: str, **options: Any) -> Answer:
        return await self.request("GET", target, **options)

    async def committed(self, payer: Payer) -> int:
        """served + reserved of the payer's channel, as the gateway itself says when a total is too low."""
        intent = make_intent(
            payer.key,
            payer.gateway,
            cumulative=0,
            amount=PROBE_PRICE,
            bound_to=request_hash("GET", "/probe"),
            net=payer.network,
        )
        answer = await self.get("/probe", headers=payer.headers(intent))
        correction = x402.parse_correction(answer.response.extra)
        assert correction is not None, answer.body
        return correction.committed_total


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one, for tests that write thousands of files and mean no disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    server = Upstream()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def net() -> AsyncIterator[NetworkStandIn]:
    server = NetworkStandIn()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def start_gateway(
    tmp_path: Path, upstream: Upstream, net: NetworkStandIn
) -> AsyncIterator[Callable[..., Any]]:
    """Start a gateway with changed settings."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**changes: Any) -> RunningGateway:
            options = {"upstream_url": upstream.url, "network_url": net.url, **changes}
            gateway = RunningGateway(make_settings(tmp_path, SigningKey(b"g" * 32), **options))
            stack.push_async_callback(gateway.close)
            await gateway.start()
            return gateway

        yield start


@pytest.fixture
async def gateway(start_gateway: Callable[..., Any]) -> RunningGateway:
    running: RunningGateway = await start_gateway()
    return running
