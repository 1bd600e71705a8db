"""Lease mode: what is charged stays within what was leased, whatever the relayer, the clock and the traffic do."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from solders.pubkey import Pubkey

from machpay.protocol.changes import NetworkRules
from machpay.protocol.snapshots import Limits
from machpay_gateway.solvency.looking_up import LookUps
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import PRICE, Payer
from tests.gateway.network_standin import Account, NetworkStandIn
from tests.gateway.servers import Upstream

START = Callable[..., Any]


async def code(gateway: RunningGateway, payer: Payer) -> str:
    answer = await gateway.get("/paid", headers=payer.pay())
    if answer.status == 200:
        return "served"
    return str(answer.required.error) if answer.status == 402 else str(answer.json()["code"])


async def until(gateway: RunningGateway, payer: Payer, expected: str) -> None:
    async def answers() -> bool:
        # A total that was signed for a refused payment is no loss: the next one signs it again.
        total = payer.total
        answer = await code(gateway, payer)
        if answer not in (expected, "served"):
            payer.total = total
        return answer == expected

    await eventually(answers, expected)


def account(net: NetworkStandIn, payer: Payer, **fields: Any) -> Account:
    made = net.accounts[payer.key.pubkey] = Account(**fields)
    return made


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"bond": PRICE}, "served"),
        ({"bond": PRICE - 1}, "insufficient_bond"),
        ({"claims": 10**9}, "insufficient_bond"),
        ({"status": "SUSPENDED"}, "agent_suspended"),
        ({"status": "STOPPED"}, "agent_suspended"),
        ({"status": "SLASHED"}, "agent_slashed"),
        ({"limits": Limits(per_call=str(PRICE - 1))}, "budget_exceeded"),
        ({"refuse_lease": "budget_exceeded"}, "budget_exceeded"),
        ({"refuse_lease": "held"}, "insufficient_bond"),
        ({"refuse_lease": "not_delivered"}, "solvency_unknown"),
        ({"refuse_lease": "halted"}, "solvency_unknown"),
    ],
)
async def test_the_relayers_answer_decides(
    gateway: RunningGateway, net: NetworkStandIn, upstream: Upstream, fields: dict[str, Any], expected: str
) -> None:
    payer = gateway.payer()
    account(net, payer, **fields)
    assert await code(gateway, payer) == expected
    assert len(upstream.seen) == (expected == "served")


async def test_one_lease_serves_many_payments(gateway: RunningGateway, net: NetworkStandIn) -> None:
    payer = gateway.payer()
    assert [await code(gateway, payer) for _ in range(20)] == ["served"] * 20
    (asked,) = net.lease_requests
    assert (int(asked.amount), asked.last_seq) == (1_000 * PRICE, 0)


async def test_concurrent_payments_never_exceed_the_lease(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    account(net, payer, bond=5 * PRICE)
    results = await asyncio.gather(*(code(gateway, payer) for _ in range(20)))
    assert sorted(results) == ["insufficient_bond"] * 15 + ["served"] * 5


async def test_one_question_serves_everybody_who_waits_for_it(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    net.look_up_delay = asyncio.Event()
    calls = [asyncio.create_task(gateway.get("/paid", headers=payer.pay())) for _ in range(8)]
    await eventually(lambda: bool(net.look_ups), "a question")
    await asyncio.sleep(0.05)
    assert len(net.look_ups) == 1
    net.look_up_delay.set()
    assert {answer.status for answer in await asyncio.gather(*calls)} == {200}


async def test_a_slow_relayer_is_a_503_and_charges_nothing(
    start_gateway: START, net: NetworkStandIn, upstream: Upstream
) -> None:
    gateway = await start_gateway(solvency="lookup_timeout_ms = 50")
    payer = gateway.payer()
    net.look_up_delay = asyncio.Event()
    answer = await gateway.get("/paid", headers=payer.pay())
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert upstream.seen == []
    net.look_up_delay.set()
    payer.total = 0
    await until(gateway, payer, "served")


async def test_a_forged_signature_never_asks_for_a_lease(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    answer = await gateway.get("/paid", headers=payer.headers(payer.intent(), signature=bytes(64)))
    assert answer.required.error == "invalid_signature"
    assert net.lease_requests == []


async def test_a_lease_is_renewed_before_it_is_used_up_and_after_delivery(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    made = account(net, payer, lease_max=10 * PRICE)
    for paid in range(30):
        assert await code(gateway, payer) == "served", paid
        # Slow enough for the background: when this little is left, a renewal is under way.
        if made.up_to - (paid + 1) * PRICE <= 3 * PRICE:
            await eventually(lambda up_to=made.up_to: made.up_to > up_to, "renewed")
    assert net.lease_requests[1].last_seq >= 1
    assert made.up_to >= 31 * PRICE
    assert all(one.last_seq <= net.batches[-1].seq_to for one in net.lease_requests)


async def test_a_lease_serves_until_its_end_while_the_relayer_is_away(
    start_gateway: START, net: NetworkStandIn
) -> None:
    gateway = await start_gateway(solvency="lease_skew_s = 1.0\nlookup_timeout_ms = 100")
    known, new = gateway.payer(), gateway.payer()
    account(net, known, lease_valid_s=3.0)
    await until(gateway, known, "served")
    net.down = True
    assert await code(gateway, known) == "served"
    assert await code(gateway, new) == "solvency_unknown"
    # The lease ends `lease_skew_s` early, by this machine's monotonic clock.
    await until(gateway, known, "solvency_unknown")
    net.down = False
    await until(gateway, known, "served")


async def test_a_lease_that_is_over_when_it_is_granted_serves_nothing(
    start_gateway: START, net: NetworkStandIn, upstream: Upstream
) -> None:
    gateway = await start_gateway(solvency="lease_skew_s = 2.0")
    payer = gateway.payer()
    account(net, payer, lease_valid_s=1.0)
    assert await code(gateway, payer) == "solvency_unknown"
    assert (upstream.seen, await gateway.committed(payer)) == ([], 0)


async def test_strangers_do_not_keep_a_clients_lease_from_being_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("machpay_gateway.solvency.looking_up.MAX_WAITING", 2)
    look_ups: LookUps[str] = LookUps(timeout_s=60)
    relayer = asyncio.Event()

    async def fetch() -> str:
        await relayer.wait()
        return "answered"

    strangers = [look_ups.start(Pubkey.new_unique(), fetch, is_stranger=True) for _ in range(3)]
    assert strangers[2] is None
    renewal = look_ups.start(Pubkey.new_unique(), fetch, is_stranger=False)
    assert renewal is not None
    relayer.set()
    assert await renewal == "answered"
    await look_ups.close()


@pytest.mark.parametrize("mode", ["lease", "optimistic"])
async def test_a_change_that_cannot_be_read_does_not_end_the_following(
    start_gateway: START, net: NetworkStandIn, mode: str
) -> None:
    gateway = await start_gateway(solvency=f'mode = "{mode}"')
    payer = gateway.payer()
    account(net, payer)
    await until(gateway, payer, "served")
    net.accounts["nobody's key"] = Account()
    net.announce("nobody's key")

    async def component() -> Any:
        return (await gateway.get("/health")).json()["components"]["changes"]

    async def is_told() -> bool:
        return "agent" in (await component()).get("detail", "")

    await eventually(is_told, "the component's failure")
    net.changes.pop()
    net.accounts[payer.key.pubkey].status = "SUSPENDED"
    net.announce(payer.key.pubkey)
    await until(gateway, payer, "agent_suspended")

    async def is_well() -> bool:
        return await component() == {"status": "ok"}

    await eventually(is_well, "the stream to be read again")


async def test_the_loss_with_the_relayer_gone_is_bounded_by_the_lease(
    start_gateway: START, net: NetworkStandIn
) -> None:
    gateway = await start_gateway(solvency="lookup_timeout_ms = 100")
    payer = gateway.payer()
    account(net, payer, bond=100 * PRICE, lease_max=7 * PRICE)
    await until(gateway, payer, "served")
    net.down = True
    results = [await code(gateway, payer) for _ in range(12)]
    # Whether the bond has more to lease cannot be known now, so it is no refusal.
    assert results == ["served"] * 6 + ["solvency_unknown"] * 6
    assert await gateway.committed(payer) == 7 * PRICE


async def test_an_idle_lease_is_given_back_after_delivery(start_gateway: START, net: NetworkStandIn) -> None:
    gateway = await start_gateway(solvency="idle_s = 0.3")
    payer = gateway.payer()
    assert [await code(gateway, payer) for _ in range(3)] == ["served"] * 3
    lease_id = net.accounts[payer.key.pubkey].lease_id
    await eventually(lambda: bool(net.releases), "a release")
    assert (net.releases, len(net.items)) == ([(lease_id, 3)], 3)
    assert await code(gateway, payer) == "served"
    assert len(net.lease_requests) == 2


async def test_a_stopping_gateway_delivers_and_then_gives_its_leases_back(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payers = [gateway.payer() for _ in range(3)]
    for payer in payers:
        assert await code(gateway, payer) == "served"
    leases = {net.accounts[payer.key.pubkey].lease_id for payer in payers}
    await gateway.stop()
    assert {lease for lease, _ in net.releases} == leases
    assert len(net.items) == 3


async def test_a_lease_is_not_given_back_while_a_payment_is_served(
    start_gateway: START, net: NetworkStandIn, upstream: Upstream
) -> None:
    gateway = await start_gateway(solvency="idle_s = 0.2")
    payer = gateway.payer()
    call = asyncio.create_task(gateway.get("/paid?mode=slow", headers=payer.pay("/paid?mode=slow")))
    await eventually(lambda: bool(upstream.seen), "forwarded")
    await asyncio.sleep(1.2)
    assert net.releases == []
    upstream.release.set()
    assert (await call).status == 200
    await eventually(lambda: net.releases != [], "a release")
    assert len(net.items) == 1


async def test_a_revocation_takes_effect_at_once(gateway: RunningGateway, net: NetworkStandIn) -> None:
    payer, other = gateway.payer(), gateway.payer()
    assert [await code(gateway, payer), await code(gateway, other)] == ["served", "served"]
    made = net.accounts[payer.key.pubkey]
    lease_id, made.refuse_lease = made.lease_id, "held"
    net.announce(payer.key.pubkey, revoked=True)
    await until(gateway, payer, "insufficient_bond")
    await eventually(lambda: lease_id in dict(net.releases), "the release")
    assert await code(gateway, other) == "served"


@pytest.mark.parametrize("status", ["SUSPENDED", "STOPPED", "SLASHED"])
async def test_a_status_takes_effect_at_once_and_so_does_its_end(
    gateway: RunningGateway, net: NetworkStandIn, status: str
) -> None:
    payer = gateway.payer()
    assert await code(gateway, payer) == "served"
    made = net.accounts[payer.key.pubkey]
    made.status = status
    net.announce(payer.key.pubkey)
    await until(gateway, payer, "agent_slashed" if status == "SLASHED" else "agent_suspended")
    made.status = "ACTIVE"
    net.announce(payer.key.pubkey)
    await until(gateway, payer, "served")


async def test_a_new_limit_per_call_takes_effect_at_once(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    assert await code(gateway, payer) == "served"
    net.accounts[payer.key.pubkey].limits = Limits(per_call=str(PRICE - 1))
    net.announce(payer.key.pubkey)
    await until(gateway, payer, "budget_exceeded")


@pytest.mark.parametrize("mode", ["lease", "optimistic"])
async def test_the_networks_kill_switch_stops_everybody(
    start_gateway: START, net: NetworkStandIn, mode: str
) -> None:
    gateway = await start_gateway(solvency=f'mode = "{mode}"')
    payer = gateway.payer()
    assert await code(gateway, payer) == "served"
    net.rules = NetworkRules(halted=True)
    await until(gateway, payer, "solvency_unknown")
    assert await code(gateway, gateway.payer()) == "solvency_unknown"
    net.rules = NetworkRules()
    await until(gateway, payer, "served")


async def test_the_networks_cap_counts_all_gateways_in_optimistic_mode(
    start_gateway: START, net: NetworkStandIn
) -> None:
    net.rules = NetworkRules(mode="optimistic", cap=str(5 * PRICE))
    gateway = await start_gateway(solvency='mode = "optimistic"')
    payer = gateway.payer()
    account(net, payer, external=3 * PRICE)
    assert [await code(gateway, payer) for _ in range(3)] == ["served", "served", "insufficient_bond"]


async def test_a_change_that_overtakes_an_answer_wins(gateway: RunningGateway, net: NetworkStandIn) -> None:
    payer = gateway.payer()
    made = account(net, payer)
    net.look_up_delay = asyncio.Event()
    call = asyncio.create_task(code(gateway, payer))
    await eventually(lambda: bool(net.lease_requests), "a question")
    net.announce(payer.key.pubkey)
    # The stream was read once more after it said so.
    polls = net.polls
    await eventually(lambda: net.polls > polls + 1, "told")
    net.look_up_delay.set()
    assert await call == "solvency_unknown"
    assert made.lease_id is not None
    payer.total = 0
    await until(gateway, payer, "served")


async def test_a_crashed_gateway_asks_again_and_goes_on(start_gateway: START, net: NetworkStandIn) -> None:
    gateway = await start_gateway()
    payer = gateway.payer()
    assert [await code(gateway, payer) for _ in range(3)] == ["served"] * 3
    made = net.accounts[payer.key.pubkey]
    lease_id = made.lease_id
    await gateway.stop()
    # As after a crash: the relayer still holds the lease.
    made.lease_id, made.up_to = lease_id, 256 * PRICE
    await gateway.start()
    assert await code(gateway, payer) == "served"
    assert made.lease_id == lease_id
    assert net.lease_requests[-1].last_seq <= 3


async def test_a_smaller_payment_is_not_refused_for_a_larger_one(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    account(net, payer, bond=3 * PRICE)
    dear = await gateway.get("/dear", headers=payer.pay("/dear", price=5 * PRICE))
    assert dear.required.error == "insufficient_bond"
    again = await gateway.get("/dear", headers=payer.pay("/dear", price=5 * PRICE))
    assert again.required.error == "insufficient_bond"
    assert len(net.lease_requests) == 1
    assert await code(gateway, payer) == "served"
