"""Optimistic mode: look-ups, refreshing, an absent relayer, and a gateway that lost its log."""

import asyncio
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from machpay.protocol import x402
from machpay.protocol.keys import SigningKey
from machpay.protocol.snapshots import ChannelState, Limits
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import BOND, PRICE, Payer
from tests.gateway.network_standin import Account, NetworkStandIn
from tests.gateway.servers import Upstream

START = Callable[..., Any]
OPTIMISTIC = 'mode = "optimistic"\n'


@pytest.fixture
async def gateway(start_gateway: START) -> RunningGateway:
    running: RunningGateway = await start_gateway(solvency=OPTIMISTIC)
    return running


async def code(gateway: RunningGateway, payer: Payer) -> str:
    answer = await gateway.get("/paid", headers=payer.pay())
    return "served" if answer.status == 200 else str(answer.required.error)


@pytest.mark.parametrize(
    ("account", "expected"),
    [
        (Account(bond=PRICE), "served"),
        (Account(bond=PRICE - 1), "insufficient_bond"),
        (Account(bond=0), "insufficient_bond"),
        (Account(external=BOND - PRICE), "served"),
        (Account(external=BOND - PRICE + 1), "insufficient_bond"),
        (Account(pending_withdrawal=BOND), "insufficient_bond"),
        (Account(claims=BOND), "insufficient_bond"),
        (Account(status="SLASHED"), "agent_slashed"),
        (Account(status="SUSPENDED"), "agent_suspended"),
        (Account(limits=Limits(per_call=str(PRICE - 1))), "budget_exceeded"),
        (Account(limits=Limits(per_day="5000"), remaining_today=str(PRICE - 1)), "budget_exceeded"),
    ],
)
async def test_the_relayers_snapshot_decides(
    gateway: RunningGateway, net: NetworkStandIn, upstream: Upstream, account: Account, expected: str
) -> None:
    payer = gateway.payer()
    net.accounts[payer.key.pubkey] = account
    assert await code(gateway, payer) == expected
    assert len(upstream.seen) == (expected == "served")


async def test_own_unsettled_charges_count_at_once(gateway: RunningGateway, net: NetworkStandIn) -> None:
    payer = gateway.payer()
    net.accounts[payer.key.pubkey] = Account(bond=3 * PRICE)
    assert [await code(gateway, payer) for _ in range(4)] == ["served"] * 3 + ["insufficient_bond"]


async def test_concurrent_payments_never_exceed_the_bond(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    net.accounts[payer.key.pubkey] = Account(bond=5 * PRICE)
    results = await asyncio.gather(*(code(gateway, payer) for _ in range(20)))
    assert sorted(results) == ["insufficient_bond"] * 15 + ["served"] * 5


async def test_the_cap_bounds_what_one_agent_owes(start_gateway: START) -> None:
    gateway = await start_gateway(solvency=OPTIMISTIC + f"cap_atomic = {2 * PRICE}")
    first, second = gateway.payer(), gateway.payer()
    assert [await code(gateway, first) for _ in range(3)] == ["served", "served", "insufficient_bond"]
    assert await code(gateway, second) == "served"


async def test_settlement_frees_credit(gateway: RunningGateway, net: NetworkStandIn) -> None:
    payer = gateway.payer()
    account = net.accounts[payer.key.pubkey] = Account(bond=2 * PRICE)
    assert [await code(gateway, payer) for _ in range(3)] == ["served", "served", "insufficient_bond"]
    # Settled on-chain: the bond fell by what was paid, and was topped up by one price.
    account.bond = PRICE
    account.channel = ChannelState(str(channel_of(gateway, payer)), str(2 * PRICE), str(2 * PRICE), None)
    await eventually_served(gateway, payer)


def channel_of(gateway: RunningGateway, payer: Payer) -> Any:
    return gateway.settings.network.channel(payer.key.public, gateway.settings.key.public)


async def eventually_served(gateway: RunningGateway, payer: Payer) -> None:
    async def served() -> bool:
        return await code(gateway, payer) == "served"

    await eventually(served, "the agent is served")


async def test_a_suspension_takes_effect_without_a_restart(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    account = net.accounts[payer.key.pubkey] = Account()
    assert await code(gateway, payer) == "served"
    account.status = "SUSPENDED"

    async def suspended() -> bool:
        return await code(gateway, payer) == "agent_suspended"

    await eventually(suspended, "the agent is refused as suspended")


async def test_a_forged_signature_never_causes_a_look_up(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    answer = await gateway.get("/paid", headers=payer.headers(payer.intent(), signature=bytes(64)))
    assert answer.required.error == "invalid_signature"
    assert net.look_ups == []


async def test_one_look_up_serves_everybody_who_waits_for_it(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    net.look_up_delay = asyncio.Event()
    calls = [asyncio.create_task(gateway.get("/paid", headers=payer.pay())) for _ in range(8)]
    await eventually(lambda: bool(net.look_ups), "a look-up")
    await asyncio.sleep(0.05)
    assert net.look_ups == [payer.key.pubkey]
    net.look_up_delay.set()
    assert {answer.status for answer in await asyncio.gather(*calls)} == {200}


async def test_a_look_up_that_takes_too_long_is_503_and_charges_nothing(
    start_gateway: START, net: NetworkStandIn, upstream: Upstream
) -> None:
    gateway = await start_gateway(solvency=OPTIMISTIC + "lookup_timeout_ms = 50")
    payer = gateway.payer()
    net.look_up_delay = asyncio.Event()
    answer = await gateway.get("/paid", headers=payer.pay())
    assert (answer.status, answer.json()["code"]) == (503, "solvency_unknown")
    assert answer.headers["Retry-After"] == "1"
    assert upstream.seen == []
    net.look_up_delay.set()
    # The same payment is good once the answer is there: a refusal that is no decision uses nothing up.
    payer.total = 0
    await eventually_served(gateway, payer)


async def test_strangers_cannot_pile_up_look_ups(
    start_gateway: START, net: NetworkStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machpay_gateway.solvency.looking_up.MAX_WAITING", 3)
    gateway = await start_gateway(solvency=OPTIMISTIC + "lookup_timeout_ms = 5000")
    net.look_up_delay = asyncio.Event()
    waiting = [asyncio.create_task(gateway.get("/paid", headers=gateway.payer().pay())) for _ in range(3)]
    await eventually(lambda: len(net.look_ups) == 3, "three look-ups")
    # The fourth is refused while the others still wait.
    assert (await gateway.get("/paid", headers=gateway.payer().pay())).status == 503
    assert len(net.look_ups) == 3
    net.look_up_delay.set()
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}


async def test_a_known_agent_is_served_while_the_relayer_is_away_and_a_new_one_is_not(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    known, new = gateway.payer(), gateway.payer()
    assert await code(gateway, known) == "served"
    net.down = True
    assert await code(gateway, known) == "served"
    answer = await gateway.get("/paid", headers=new.pay())
    assert answer.status == 503


async def test_credit_that_is_too_old_counts_no_more(start_gateway: START, net: NetworkStandIn) -> None:
    gateway = await start_gateway(solvency=OPTIMISTIC + "stale_s = 0.3")
    payer = gateway.payer()
    assert await code(gateway, payer) == "served"
    net.down = True
    await asyncio.sleep(0.5)
    assert (await gateway.get("/paid", headers=payer.pay())).status == 503


async def test_a_gateway_that_lost_its_log_starts_where_the_relayer_and_chain_are(
    start_gateway: START, net: NetworkStandIn, upstream: Upstream
) -> None:
    gateway = await start_gateway(solvency=OPTIMISTIC)
    payer = gateway.payer()
    for _ in range(3):
        assert await code(gateway, payer) == "served"
    await eventually(lambda: net.charged == 3 * PRICE, "delivered")
    highest = net.batches[-1].vouchers[0]
    await gateway.stop()
    shutil.rmtree(gateway.settings.data_dir / "log")
    address = str(channel_of(gateway, payer))
    net.accounts[payer.key.pubkey] = Account(
        channel=ChannelState(address, charged_total=str(3 * PRICE), settled=str(2 * PRICE), highest=highest)
    )
    await gateway.start()
    # What was signed before covers nothing new; the correction carries the agent's own voucher.
    answer = await gateway.get("/paid", headers=payer.headers(payer.intent(cumulative=3 * PRICE)))
    correction = x402.parse_correction(answer.response.extra)
    assert correction is not None
    assert correction.committed_total == 3 * PRICE
    assert correction.voucher is not None
    assert correction.voucher.is_signed_by(payer.key.public)
    assert await code(gateway, payer) == "served"
    assert await gateway.committed(payer) == 4 * PRICE
    # And it is in the new log.
    await gateway.stop()
    net.accounts[payer.key.pubkey] = Account()
    await gateway.start()
    assert await gateway.committed(payer) == 4 * PRICE


async def test_without_log_and_relayer_rows_the_chains_watermark_is_the_start(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    state = ChannelState(
        str(channel_of(gateway, payer)), charged_total="0", settled=str(7 * PRICE), highest=None
    )
    net.accounts[payer.key.pubkey] = Account(channel=state)
    answer = await gateway.get("/paid", headers=payer.pay())
    correction = x402.parse_correction(answer.response.extra)
    assert correction is not None
    assert (correction.committed_total, correction.voucher) == (7 * PRICE, None)
    payer.total = 7 * PRICE
    assert await code(gateway, payer) == "served"


async def test_a_voucher_that_is_not_the_agents_is_not_believed(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer, liar = gateway.payer(), SigningKey.generate()
    intent = payer.intent(cumulative=50 * PRICE)
    forged = x402.voucher_json(intent.voucher(intent.sign(liar)))
    state = ChannelState(str(channel_of(gateway, payer)), str(9 * PRICE), "0", forged)
    net.accounts[payer.key.pubkey] = Account(channel=state)
    payer.total = 0
    assert (await gateway.get("/paid", headers=payer.pay())).status == 503
