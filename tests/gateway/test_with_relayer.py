"""The gateway and the real relayer, with a bond on the local chain: their words for the same money agree."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from apps.payments.services import enforcement
from devnet.offers import LEXICON
from machpay.protocol import x402
from machpay.protocol.keys import SigningKey
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import PRICE, make_settings
from tests.gateway.servers import Upstream
from tests.payments.relayer_client import RelayerClient, shared_relayer
from tests.support.chain import LocalChain, module_chain
from tests.support.servers import Server

__all__ = ["module_chain"]

# The relayer is a process of its own; the mark makes pytest-django create the database it uses.
pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def relayer(
    local_chain: LocalChain, django_db_setup: None, django_db_blocker: Any, tmp_path_factory: Any
) -> Iterator[Server]:
    with shared_relayer(local_chain, django_db_blocker, tmp_path_factory.mktemp("relayer")) as server:
        yield server


@pytest.fixture(scope="module")
def agent(local_chain: LocalChain, relayer: Server) -> SigningKey:
    key = local_chain.new_agent(bond_atomic=10_000 * PRICE)
    local_chain.wait_until_final()
    return key


@pytest.fixture
async def paid_gateway(
    tmp_path: Path, upstream: Upstream, local_chain: LocalChain, relayer: Server, agent: SigningKey
) -> AsyncIterator[RunningGateway]:
    settings = make_settings(
        tmp_path,
        local_chain.gateway(LEXICON),
        upstream_url=upstream.url,
        network_url=relayer.url,
        net=local_chain.network,
        vendor=local_chain.vendor(LEXICON),
    )
    running = RunningGateway(settings)
    await running.start()
    yield running
    await running.close()


def relayer_state(relayer: Server, gateway: RunningGateway, agent: SigningKey) -> tuple[int, int]:
    """(charged_total, highest cumulative) of the channel, by the relayer."""
    with RelayerClient(relayer.url, gateway.settings.key) as client:
        answer = client.get(f"/liability/{agent.pubkey}?exclude_gateway={gateway.settings.key.pubkey}")
    channel = answer.json()["channel"]
    if channel is None or channel["highest"] is None:
        return 0, 0
    return int(channel["charged_total"]), int(channel["highest"]["cumulative"])


async def relayer_has(relayer: Server, gateway: RunningGateway, agent: SigningKey, total: int) -> None:
    async def has() -> bool:
        return await asyncio.to_thread(relayer_state, relayer, gateway, agent) == (total, total)

    await eventually(has, f"the relayer has {total}")


async def pay(gateway: RunningGateway, payer: Any, count: int) -> None:
    for _ in range(count):
        answer = await gateway.get("/paid", headers=payer.pay())
        assert answer.status == 200, (answer.status, answer.body)


async def test_what_was_charged_is_what_the_relayer_holds_through_an_outage_and_a_second_delivery(
    paid_gateway: RunningGateway, relayer: Server, agent: SigningKey
) -> None:
    gateway = paid_gateway
    payer = gateway.payer(agent)
    payer.total = start = await gateway.committed(payer)
    await pay(gateway, payer, 10)
    await relayer_has(relayer, gateway, agent, start + 10 * PRICE)

    relayer.process.kill()
    await pay(gateway, payer, 10)
    # The log as it is before its payments are delivered, to be delivered a second time below.
    await gateway.stop()
    log, copy = gateway.settings.data_dir / "log", gateway.settings.data_dir / "copy"
    shutil.copytree(log, copy)
    relayer.process.start()
    await asyncio.to_thread(relayer.process.wait_healthy)
    await gateway.start()
    await relayer_has(relayer, gateway, agent, start + 20 * PRICE)

    await gateway.stop()
    shutil.rmtree(log)
    copy.rename(log)
    await gateway.start()
    duplicates = 'machpay_gateway_delivered_total{status="duplicate"}'

    async def arrived_twice() -> bool:
        metrics = (await gateway.get("/metrics")).body.decode()
        return f"{duplicates} 10.0" in metrics or f"{duplicates} 20.0" in metrics

    await eventually(arrived_twice, "the payments arrive twice")
    assert await asyncio.to_thread(relayer_state, relayer, gateway, agent) == (start + 20 * PRICE,) * 2
    assert await gateway.committed(payer) == start + 20 * PRICE


async def test_a_gateway_that_lost_its_log_starts_where_the_relayer_is(
    paid_gateway: RunningGateway, relayer: Server, agent: SigningKey
) -> None:
    gateway = paid_gateway
    payer = gateway.payer(agent)
    payer.total = start = await gateway.committed(payer)
    await pay(gateway, payer, 5)
    await relayer_has(relayer, gateway, agent, start + 5 * PRICE)
    await gateway.stop()
    shutil.rmtree(gateway.settings.data_dir / "log")
    await gateway.start()
    stale = await gateway.get("/paid", headers=payer.headers(payer.intent(cumulative=payer.total)))
    correction = x402.parse_correction(stale.response.extra)
    assert correction is not None
    assert correction.committed_total == start + 5 * PRICE
    assert correction.voucher is not None
    assert correction.voucher.is_signed_by(agent.public)
    assert correction.voucher.cumulative == start + 5 * PRICE
    await pay(gateway, payer, 1)
    await relayer_has(relayer, gateway, agent, start + 6 * PRICE)


async def test_an_agent_without_a_bond_is_refused(paid_gateway: RunningGateway, upstream: Upstream) -> None:
    payer = paid_gateway.payer()
    answer = await paid_gateway.get("/paid", headers=payer.pay())
    assert (answer.status, answer.required.error) == (402, "insufficient_bond")
    assert upstream.seen == []


async def test_the_relayer_knows_the_gateway_by_its_heartbeats(paid_gateway: RunningGateway) -> None:
    async def registered() -> bool:
        health = (await paid_gateway.get("/health")).json()["components"]["registration"]
        return health["registered"] is True

    await eventually(registered, "the gateway is registered")


async def test_a_decision_of_the_network_reaches_the_gateway_while_its_lease_runs(
    paid_gateway: RunningGateway, relayer: Server, local_chain: LocalChain, upstream: Upstream
) -> None:
    agent = await asyncio.to_thread(local_chain.new_agent, bond_atomic=10_000 * PRICE)
    await asyncio.to_thread(local_chain.wait_until_final)
    payer = paid_gateway.payer(agent)
    await pay(paid_gateway, payer, 3)
    served = len(upstream.seen)

    await asyncio.to_thread(decide, enforcement.set_kill_switch, agent.pubkey, True, "lost key", "owner")
    for _ in range(600):
        answer = await paid_gateway.get("/paid", headers=payer.headers(payer.intent()))
        if answer.status == 402:
            break
        served += 1
        await asyncio.sleep(0.05)
    assert (answer.status, answer.required.error) == (402, "agent_suspended")
    assert len(upstream.seen) == served

    await asyncio.to_thread(decide, enforcement.set_kill_switch, agent.pubkey, False, "found it", "owner")

    async def served_again() -> bool:
        # The lease was revoked: it is given back before there is another.
        return (await paid_gateway.get("/paid", headers=payer.pay())).status == 200

    await eventually(served_again, "the agent is served again")


def decide(service: Any, *arguments: Any) -> None:
    """What an operator does, in a connection of its own."""
    try:
        service(*arguments)
    finally:
        connection.close()
