"""The gateway as a process: its command, a disk that is really full, `kill -9` under load."""

import asyncio
import contextlib
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from machpay.protocol.keys import SigningKey
from machpay.protocol.requests import request_hash
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE, Payer, configuration
from tests.gateway.network_standin import NetworkStandIn
from tests.gateway.processes import GatewayProcess
from tests.gateway.servers import Upstream

KEY = SigningKey(b"g" * 32)


@pytest.fixture
async def process(tmp_path: Path, upstream: Upstream, net: NetworkStandIn) -> AsyncIterator[GatewayProcess]:
    text = configuration(tmp_path, key=KEY, upstream_url=upstream.url, network_url=net.url)
    process = GatewayProcess(tmp_path, text)
    await process.start()
    yield process
    with contextlib.suppress(ProcessLookupError):
        await process.close(signal.SIGKILL)


@contextlib.contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """No file of the process may grow any more: what a full disk does, by the kernel itself."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


async def test_a_full_disk_stops_payments_and_nothing_else(
    process: GatewayProcess, net: NetworkStandIn
) -> None:
    payer = Payer(KEY.public)
    status, digest, charged = await process.pay(payer)
    assert (status, charged) == (200, PRICE)
    await eventually(lambda: list(net.items) == [digest], "delivered")
    with full_disk(process.pid):
        status, first, charged = await process.pay(payer)
        assert (status, charged) == (503, 0)
        status, _, charged = await process.pay(payer)
        assert (status, charged) == (503, 0)
        async with process.http.get(process.url + "/free") as answer:
            assert answer.status == 200
        async with process.http.get(process.url + "/paid") as answer:
            assert answer.status == 402
        async with process.http.get(process.url + "/health") as answer:
            assert answer.status == 503
            assert (await answer.json())["components"]["log"]["status"] == "down"
    payer.total = PRICE
    results = []

    async def paid_again() -> bool:
        results.append(await process.pay(payer))
        if results[-1][0] != 200:
            payer.total = PRICE
        return results[-1][0] == 200

    await eventually(paid_again, "the gateway takes payments again")
    await eventually(lambda: net.charged == 2 * PRICE, "both charges are delivered, and no other")
    # Accepted before the disk was known to be full, it is void; refused at once, nobody hears of it.
    assert net.items.get(first, {"status": "void"})["status"] == "void"
    assert await process.end(signal.SIGTERM) == 0


async def test_killed_under_load_no_payment_is_lost_or_doubled(
    process: GatewayProcess, net: NetworkStandIn
) -> None:
    served: dict[str, int] = {}
    cut_off: set[str] = set()
    payers = [Payer(KEY.public) for _ in range(8)]

    async def load(payer: Payer) -> None:
        """Pay until the gateway is gone."""
        while True:
            status, digest, charged = await process.pay(payer)
            if status == 200:
                served[digest] = charged
            elif status == 0:
                cut_off.add(digest)
                return

    for _ in range(3):
        calls = [asyncio.create_task(load(payer)) for payer in payers]
        await eventually(partial(lambda before: len(served) > before + 60, len(served)), "payments flow")
        await process.end(signal.SIGKILL)
        await asyncio.gather(*calls)
        await process.start()
    for payer in payers:
        status, digest, charged = await process.pay(payer)
        assert status == 200
        served[digest] = charged
    assert await process.end(signal.SIGTERM) == 0
    stored = {digest: int(item["charged"]) for digest, item in net.items.items()}
    # Whoever got an answer paid its price once, but for the last instant before a kill, which was free.
    free = {digest for digest in served if stored.get(digest, 0) == 0}
    assert len(free) <= 3 * len(payers)
    assert all(stored[digest] == PRICE for digest in served if digest not in free)
    # Whoever paid without an answer was cut off by the kill.
    assert {digest for digest, charged in stored.items() if charged} - set(served) <= cut_off
    # The gateway's numbers are consecutive and each arrived once.
    assert sorted(item["seq"] for item in net.items.values()) == list(range(1, len(net.items) + 1))


async def test_calls_repeated_under_their_identifiers_through_kills_are_charged_once_each(
    process: GatewayProcess, net: NetworkStandIn
) -> None:
    payers = [Payer(KEY.public) for _ in range(6)]
    answered: dict[str, int] = {}

    async def call(payer: Payer, number: int) -> None:
        """One call under one identifier, repeated with fresh payments until it is answered."""
        target = f"/paid?call={payer.key.pubkey}-{number}"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            headers = payer.headers(payer.intent(target), identifier=f"call-{number:016d}")
            with contextlib.suppress(aiohttp.ClientError):
                async with process.http.get(process.url + target, headers=headers) as answer:
                    await answer.read()
                    status = answer.status
                if status in (200, 409):
                    answered[request_hash("GET", target).hex()] = status
                    return
                assert status == 503, status
            await asyncio.sleep(0.1)
        pytest.fail("never answered")

    async def calls(payer: Payer) -> None:
        for number in range(40):
            await call(payer, number)

    work = [asyncio.create_task(calls(payer)) for payer in payers]
    for wanted in (50, 120, 190):
        await eventually(partial(lambda count: len(answered) >= count, wanted), "calls are answered")
        await process.end(signal.SIGKILL)
        await process.start()
    await asyncio.gather(*work)
    assert await process.end(signal.SIGTERM) == 0
    assert len(answered) == 6 * 40
    charged = Counter(item["request_hash"] for item in net.items.values() if int(item["charged"]))
    # Never twice, and for nothing only what the last instant before a kill left open.
    assert set(charged.values()) == {1}
    assert set(charged) <= set(answered)
    assert len(set(answered) - set(charged)) <= 3 * len(payers)
    # Who was told "paid before, the answer is gone" had paid.
    assert {digest for digest, status in answered.items() if status == 409} <= set(charged)


async def test_sigterm_ends_with_0_and_a_second_start_finds_everything(
    process: GatewayProcess, net: NetworkStandIn
) -> None:
    payer = Payer(KEY.public)
    for _ in range(5):
        assert (await process.pay(payer))[0] == 200
    assert await process.end(signal.SIGTERM) == 0
    assert net.charged == 5 * PRICE
    assert not (process.data / "endpoint.json").exists()
    await process.start()
    payer.total = 4 * PRICE
    assert (await process.pay(payer))[0] == 402
    assert (await process.pay(payer))[0] == 200


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "machpay_gateway", *arguments, "--config", str(folder / "gateway.toml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)


def test_a_wrong_configuration_exits_with_2_and_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(configuration(tmp_path, key=KEY).replace("port = 0", 'port = "x"'))
    result = run(tmp_path, "run")
    assert result.returncode == 2
    assert "gateway.port" in result.stderr
    assert "Traceback" not in result.stderr


async def test_a_port_in_use_is_named(process: GatewayProcess, tmp_path: Path) -> None:
    port = process.url.rsplit(":", 1)[1]
    result = await asyncio.to_thread(run, tmp_path, "run", "--port", port)
    assert result.returncode == 2
    assert f"127.0.0.1:{port}" in result.stderr


async def test_a_log_in_use_is_named(process: GatewayProcess, tmp_path: Path) -> None:
    result = await asyncio.to_thread(run, tmp_path, "run", "--port", "0")
    assert result.returncode == 2
    assert "in use by another gateway" in result.stderr


async def test_check_reports_every_part(process: GatewayProcess, tmp_path: Path, upstream: Upstream) -> None:
    well = ("configuration", "key_file", "data_dir", "log", "upstream", "relayer", "receiver", "clock")
    # Nothing answers at the RPC address.
    expected = {**dict.fromkeys(well, "ok  "), "chain": "FAIL"}

    async def reported() -> bool:
        result = await asyncio.to_thread(run, tmp_path, "check")
        assert result.returncode == 1
        lines = {line[5:].split(":")[0]: line[:4] for line in result.stdout.splitlines()}
        return {what: lines.get(what) for what in expected} == expected

    # What a busy machine keeps from answering within 5 s is no part that is well.
    await eventually(reported, "every part is found as it is")
