"""Several gateway processes of one vendor: each payment is decided by one of them, wherever it arrives."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from devnet.services.ports import free_port
from machpay.protocol import x402
from machpay.protocol.keys import SigningKey
from machpay.protocol.requests import route_hash
from machpay_gateway.siblings.family import identity
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE, Payer, configuration
from tests.gateway.network_standin import NetworkStandIn
from tests.gateway.processes import GatewayProcess
from tests.gateway.servers import Upstream

KEY = SigningKey(b"g" * 32)
OPTIMISTIC = 'mode = "optimistic"'


class Machine(GatewayProcess):
    """`machpay-gateway run --workers N`."""

    def pid_of(self, worker: int) -> int:
        """The process that has the identity now; 0 while there is none."""
        folder = self.data if worker == 0 else self.data / f"worker-{worker}"
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return int(json.loads((folder / "worker.json").read_text())["pid"])
        return 0

    async def get(self, target: str, **headers: str) -> tuple[int, "aiohttp.typedefs.LooseHeaders", Any]:
        async with self.http.get(self.url + target, headers=headers) as answer:
            body = await answer.read()
            return answer.status, answer.headers, json.loads(body) if body[:1] == b"{" else body.decode()


@pytest.fixture
async def machine(tmp_path: Path, upstream: Upstream, net: NetworkStandIn) -> AsyncIterator[Machine]:
    text = configuration(
        tmp_path, key=KEY, upstream_url=upstream.url, network_url=net.url, solvency=OPTIMISTIC
    )
    machine = Machine(tmp_path, text, spread=True)
    yield machine
    await machine.close(signal.SIGTERM)


def payer_of(worker: int) -> Payer:
    return Payer(identity(KEY, worker).public)


async def test_a_payment_is_decided_by_the_process_it_names_wherever_it_arrives(
    machine: Machine, upstream: Upstream, net: NetworkStandIn
) -> None:
    told = await machine.start("--workers", "3")
    gateways = [identity(KEY, worker).pubkey for worker in range(3)]
    assert told["gateways"] == gateways
    assert gateways[0] == KEY.pubkey

    # Twelve connections for each identity: at three processes, all but none arrive at the right one.
    payers = [payer_of(worker) for worker in range(3)]
    results = [(await machine.pay(payer)) for _ in range(12) for payer in payers]
    assert {(status, charged) for status, _, charged in results} == {(200, PRICE)}
    await eventually(lambda: len(net.items) == 36, "everything is delivered")
    assert {digest: item["gateway"] for digest, item in net.items.items()} == {
        digest: gateways[number % 3] for number, (_, digest, _) in enumerate(results)
    }
    assert {headers.get("X-Forwarded-For") for _, _, headers, _ in upstream.seen} == {"127.0.0.1"}
    assert not [headers for _, _, headers, _ in upstream.seen if "machpay-sibling" in map(str.lower, headers)]

    # The same bytes again are answered and not charged, whoever gets them; so is a retry under one identifier.
    again = payers[1].headers(payers[1].intent())
    for _ in range(6):
        async with machine.http.get(machine.url + "/paid", headers=again) as answer:
            assert answer.status == 200
    await eventually(lambda: len(net.items) == 37, "one payment more")

    # A stranger is refused by whoever it is.
    stranger = Payer(SigningKey(b"s" * 32).public)
    for _ in range(4):
        assert (await machine.pay(stranger))[0] == 402

    # One client is offered one identity, by every process.
    offers = {
        x402.decode_required((await machine.get("/paid"))[1][x402.REQUIRED_HEADER])
        .accepts[0]
        .extra["gateway"]
        for _ in range(8)
    }
    assert len(offers) == 1
    assert offers < set(gateways)
    # Unless it says that it knows one of them.
    for gateway in gateways:
        for _ in range(3):
            _, headers, _ = await machine.get("/paid", **{"MachPay-Gateway": gateway})
            required = x402.decode_required(headers[x402.REQUIRED_HEADER])
            assert required.accepts[0].extra["gateway"] == gateway
    _, _, document = await machine.get("/machpay.json")
    assert (document["gateway"], document["gateways"]) == (gateways[0], gateways)

    # Every process finds every payment.
    for _ in range(6):
        _, _, found = await machine.get(f"/.well-known/machpay/payments/{results[1][1]}")
        assert (found["status"], found["receipt"]["charged"]) == ("served", str(PRICE))

    status, _, health = await machine.get("/health")
    assert (status, health["status"]) == (200, "ok")
    assert [(each["worker"], each["gateway"]) for each in health["workers"]] == list(enumerate(gateways))
    _, _, metrics = await machine.get("/metrics")
    charged = {
        line.split("} ")[0]: float(line.split("} ")[1])
        for line in metrics.splitlines()
        if line.startswith("machpay_gateway_charged_atomic_total")
    }
    assert charged == {
        f'machpay_gateway_charged_atomic_total{{worker="{worker}"': PRICE * (12 + (worker == 1))
        for worker in range(3)
    }
    assert {beat["gateway_id"] for beat in net.heartbeats} == set(gateways)

    status, _, problem = await machine.get("/paid", **{"machpay-sibling": "1;127.0.0.1;http;00"})
    assert (status, problem["code"]) == (403, "not_a_sibling")

    # Who starts the same gateway once more by mistake is told so, and leaves it as it is.
    mistake = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "machpay_gateway", "run", "--config", str(machine.config)),
        *("--port", "0", "--workers", "3"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await mistake.communicate()
    assert (mistake.returncode, b"in use by another gateway process" in said) == (2, True)
    assert json.loads((machine.data / "endpoint.json").read_text())["url"] == machine.url
    assert await machine.end(signal.SIGTERM) == 0
    assert not (machine.data / "endpoint.json").exists()


async def test_bodies_and_streams_pass_through_a_sibling_piece_by_piece(
    machine: Machine, upstream: Upstream, net: NetworkStandIn
) -> None:
    with machine.config.open("a") as file:
        file.write('\n[limits]\ntrusted_proxies = ["127.0.0.1"]\nrate_per_s = 0.001\nrate_burst = 5\n')
    await machine.start("--workers", "2")
    body = bytes(range(256)) * 4096
    for worker in (0, 1):
        payer = payer_of(worker)
        for _ in range(4):
            headers = payer.pay(method="POST", bound_to=route_hash("POST", "/paid"))
            async with machine.http.post(
                machine.url + "/paid", data=_pieces(body), headers=headers
            ) as answer:
                assert (answer.status, await answer.json()) == (200, {"path": "/paid", "body": len(body)})
    assert all(seen[3] == body for seen in upstream.seen)

    held = []
    for worker in (0, 1):
        headers = payer_of(worker).pay("/paid?mode=stream")
        answer = await machine.http.get(machine.url + "/paid?mode=stream", headers=headers)
        assert await answer.content.readline() == b"data: first\n"
        held.append(answer)
    upstream.release.set()
    for answer in held:
        assert await answer.content.read() == b"\ndata: second\n\n"
    await eventually(lambda: net.charged == 10 * PRICE, "all are charged")

    # A WebSocket is refused by whoever gets its handshake, also when it is paid for.
    for worker in (0, 1):
        handshake = {"Connection": "Upgrade", "Upgrade": "websocket", **payer_of(worker).pay()}
        for _ in range(4):
            status, _, problem = await machine.get("/paid", **handshake)
            assert (status, problem["code"]) == (501, "websocket_unsupported")

    # What asks all processes is limited per address, each process by itself.
    for target in ("/metrics", f"/.well-known/machpay/payments/{'0' * 64}"):
        limited = {"X-Forwarded-For": f"203.0.113.{len(target)}"}
        statuses = [(await machine.get(target, **limited))[0] for _ in range(11)]
        assert set(statuses) == {200, 429}
    assert (await machine.get("/health", **limited))[0] == 200


async def test_a_worker_killed_under_load_loses_and_doubles_nothing_and_its_siblings_go_on(
    machine: Machine, net: NetworkStandIn
) -> None:
    await machine.start("--workers", "2")
    served: dict[str, int] = {}
    cut_off: set[str] = set()
    refused: list[int] = []
    payers = [payer_of(number % 2) for number in range(8)]
    running = True

    async def load(payer: Payer) -> None:
        while running:
            status, digest, charged = await machine.pay(payer)
            if status == 200:
                served[digest] = charged
            elif status == 0:
                cut_off.add(digest)
            else:
                refused.append(status)
                await asyncio.sleep(0.02)

    calls = [asyncio.create_task(load(payer)) for payer in payers]
    victim = identity(KEY, 1).pubkey
    for _ in range(2):
        await eventually(partial(lambda before: len(served) > before + 40, len(served)), "payments flow")
        pid = machine.pid_of(1)
        os.kill(pid, signal.SIGKILL)
        await eventually(partial(lambda pid: machine.pid_of(1) not in (0, pid), pid), "it is started again")
        await eventually(partial(lambda before: len(served) > before + 40, len(served)), "payments flow on")
    running = False
    await asyncio.gather(*calls)
    assert set(refused) <= {503}
    assert await machine.end(signal.SIGTERM) == 0
    stored = {digest: int(item["charged"]) for digest, item in net.items.items()}
    free = {digest for digest in served if stored.get(digest, 0) == 0}
    # Whoever got an answer paid its price once, but for the last instant before a kill, which was free.
    assert len(free) <= 2 * 4
    assert all(stored[digest] == PRICE for digest in served if digest not in free)
    assert {digest for digest, charged in stored.items() if charged} - set(served) <= cut_off
    # Each identity numbers its own payments without a gap.
    for gateway in (KEY.pubkey, victim):
        numbers = sorted(item["seq"] for item in net.items.values() if item["gateway"] == gateway)
        assert numbers == list(range(1, len(numbers) + 1))


async def test_one_process_takes_over_what_several_left(machine: Machine, net: NetworkStandIn) -> None:
    await machine.start("--workers", "2")
    net.down = True
    known, late = payer_of(0), payer_of(1)
    net.down = False
    assert (await machine.pay(known))[0] == (await machine.pay(late))[0] == 200
    await eventually(lambda: len(net.items) == 2, "both are known")
    net.down = True
    assert (await machine.pay(known))[0] == (await machine.pay(late))[0] == 200
    assert await machine.end(signal.SIGTERM) == 0
    assert len(net.items) == 2
    net.down = False
    told = await machine.start("--workers", "1")
    assert told["gateways"] == [KEY.pubkey]
    await eventually(
        lambda: net.charged == 4 * PRICE, "the log of the identity that is gone is delivered too"
    )
    assert {item["gateway"] for item in net.items.values()} == {KEY.pubkey, identity(KEY, 1).pubkey}
    assert (await machine.pay(known))[0] == 200


async def test_machines_forward_to_each_other(
    tmp_path: Path, upstream: Upstream, net: NetworkStandIn
) -> None:
    ports = [free_port(), free_port()]
    machines = []
    for number in (0, 1):
        folder = tmp_path / f"machine-{number}"
        folder.mkdir()
        text = configuration(
            folder, key=KEY, upstream_url=upstream.url, network_url=net.url, solvency=OPTIMISTIC
        )
        text += f"""
[workers]
first = {number}
port = {ports[number]}

[[siblings]]
index = {1 - number}
url = "http://127.0.0.1:{ports[1 - number]}"
"""
        machines.append(Machine(folder, text, spread=True))
    try:
        for machine in machines:
            await machine.start()
        payers = [payer_of(0), payer_of(1)]
        for machine in machines:
            for payer in payers:
                status, digest, _ = await machine.pay(payer)
                assert status == 200
        look_up = f"/.well-known/machpay/payments/{digest}"
        assert (await machines[0].get(look_up))[2]["status"] == "served"
        # A machine that is away takes its identities with it, and no others.
        await machines[1].end(signal.SIGTERM)
        # What it may have served is not called unknown: its client would take that for "not charged".
        status, headers, problem = await machines[0].get(look_up)
        assert (status, problem["code"], headers["Retry-After"]) == (503, "sibling_unavailable", "1")
        assert (await machines[0].pay(payers[1]))[0] == 503
        assert (await machines[0].pay(payers[0]))[0] == 200
        await eventually(lambda: net.charged == 5 * PRICE, "delivered")
    finally:
        for machine in machines:
            await machine.close(signal.SIGTERM)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]
