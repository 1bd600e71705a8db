"""`machpay-gateway run` as a process of its own, and a client for it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

from machpay.protocol import x402
from tests.gateway.conftest import eventually
from tests.gateway.factories import Payer


class GatewayProcess:
    """`folder` holds `gateway.toml`, the data folder `data`, and what the process writes (`output`). With `spread` the
    client makes a connection per request, so that they reach several processes."""

    def __init__(self, folder: Path, text: str, *, spread: bool = False) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "gateway.toml"
        self.config.write_text(text)
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""
        self.http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=120), connector=aiohttp.TCPConnector(force_close=spread)
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *options: str) -> dict[str, Any]:
        """What the endpoint's file says once the gateway is ready."""
        endpoint = self.data / "endpoint.json"
        endpoint.unlink(missing_ok=True)
        with (self.folder / "output").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "machpay_gateway", "run", "--config", str(self.config)),
                *("--port", "0", *options),
                stdout=output,
                stderr=output,
            )
        await eventually(endpoint.exists, "ready: " + (self.folder / "output").read_text()[-2000:])
        told: dict[str, Any] = json.loads(endpoint.read_text())
        self.url = told["url"]
        return told

    async def end(self, number: int) -> int:
        """Send a signal and wait; the exit code, 0 if nothing runs."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code = await self._process.wait()
        self._process = None
        return code

    async def close(self, number: int) -> None:
        await self.end(number)
        await self.http.close()

    async def pay(self, payer: Payer) -> tuple[int, str, int]:
        """One payment: status (0: no answer), digest, what the receipt says was charged. What a 503 did not take
        is signed for again by the next payment."""
        intent = payer.intent()
        try:
            async with self.http.get(self.url + "/paid", headers=payer.headers(intent)) as answer:
                await answer.read()
                header = answer.headers.get(x402.RESPONSE_HEADER)
                charged = int(x402.decode_response(header).amount) if header else 0
                if answer.status == 503 and not header:
                    assert int(answer.headers["Retry-After"]) >= 1
                    payer.total -= intent.amount
                return answer.status, intent.digest.hex(), charged
        except aiohttp.ClientError:
            return 0, intent.digest.hex(), 0
