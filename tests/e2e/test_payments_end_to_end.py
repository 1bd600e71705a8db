"""Agents pay through both gateways; the relayer, the ledger and the chain all come to the same sums."""

import asyncio
import json
from collections import Counter

import httpx
import pytest

from machpay import MachPayClient, MachPayConfig
from machpay.chain.accounts import Batch
from machpay.chain.client import ChainClient
from machpay.client.errors import OutstandingLiabilityError, TimelockError
from machpay.protocol.keys import SigningKey
from machpay.protocol.proofs import InclusionProof
from machpay.protocol.signed_requests import sign_request
from tests.e2e.conftest import Running, finish, wait_until
from tests.support.http import LOCAL

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def liability(running: Running, agent: str, gateway_index: int) -> dict:
    """What the relayer tells one gateway about an agent, asked with that gateway's own key."""
    offer = running.demo["gateways"][gateway_index]["gateway"]
    name = next(
        n for n in ("gateway-lexicon", "gateway-atlas") if running.network.keys.get(n).pubkey == offer
    )
    key = running.network.keys.get(name)
    target = f"/liability/{agent}?exclude_gateway={offer}"
    response = httpx.get(
        running.network.url("relayer") + target, headers=sign_request(key, "GET", target), **LOCAL
    )
    assert response.status_code == 200, response.text
    return response.json()


def test_two_processes_on_one_key_pay_both_gateways_and_every_sum_agrees(running: Running) -> None:
    gateways = running.demo["gateways"]
    running.settle_everything()
    balances_before = {g["vendor"]: running.vendor_balance(g["vendor"]) for g in gateways}
    charged_before = {g["gateway"]: running.charged(g["gateway"]) for g in gateways}
    stored_before = {g["gateway"]: running.stored_digests(g["gateway"]) for g in gateways}
    bonds_before = running.total("bond")
    payers = [
        running.start_payer("--agent", "0", "--calls", "80", "--in-flight", "16"),
        running.start_payer("--agent", "0", "--calls", "80", "--in-flight", "16"),
        running.start_payer("--agent", "1", "--calls", "80", "--in-flight", "16"),
    ]
    results = [finish(payer) for payer in payers]
    assert [r["failures"] for r in results] == [[], [], []]
    assert [len(r["payments"]) for r in results] == [80, 80, 80]

    held = {p["digest"]: p for r in results for p in r["payments"]}
    assert len(held) == 240
    charged: Counter[str] = Counter()
    for payment in held.values():
        charged[payment["gateway"]] += payment["charged"]
    prices = {g["gateway"]: g["price_atomic"] for g in gateways}
    assert all(p["charged"] == prices[p["gateway"]] for p in held.values())

    for gateway in gateways:
        name = gateway["gateway"]
        wait_until(
            lambda g=name: running.charged(g) - charged_before[g] == charged[g],
            f"the relayer has every charge of {name}",
        )
        assert running.stored_digests(name) == stored_before[name] | {
            digest: p["charged"] for digest, p in held.items() if p["gateway"] == name
        }
    running.settle_everything()
    assert running.trial_balance() == 0
    for gateway in gateways:
        vendor = gateway["vendor"]
        assert running.vendor_balance(vendor) - balances_before[vendor] == charged[gateway["gateway"]]
    statuses = running.rows(
        "SELECT status, count(*) FROM payment_intents WHERE encode(digest, 'hex') = ANY(%s) GROUP BY 1",
        list(held),
    )
    assert statuses == [("SETTLED", 240)]
    assert bonds_before - running.total("bond") == sum(charged.values())


def test_the_relayer_tells_each_gateway_what_the_agent_owes_elsewhere(running: Running) -> None:
    running.settle_everything()
    agent = running.demo["agents"][2]["agent"]
    bond = running.total("bond", agent)
    paid_before = {g: running.charged_by(agent, g) for g in (g["gateway"] for g in running.demo["gateways"])}
    # With recon paused, what is paid now stays a liability.
    worker = running.network.processes["worker"]
    worker.kill()
    try:
        result = finish(running.start_payer("--agent", "2", "--calls", "10", "--in-flight", "2"))
        assert result["failures"] == []
        paid: Counter[str] = Counter()
        for payment in result["payments"]:
            paid[payment["gateway"]] += payment["charged"]
        first, second = (g["gateway"] for g in running.demo["gateways"])
        wait_until(
            lambda: running.unsettled() == sum(paid.values()),
            "the relayer has the ten payments",
        )
        for index, (own, other) in enumerate(((first, second), (second, first))):
            answer = liability(running, agent, index)
            assert answer["external_liability"] == paid[other]
            assert {g["gateway_id"]: g["liability"] for g in answer["gateways"]} == {other: paid[other]}
            snapshot = answer["snapshot"]
            assert snapshot["liability"] == str(paid[own] + paid[other])
            assert snapshot["bond"] == str(bond)
            assert snapshot["mode"] == "lease"
            # Its own lease, unless it was given back meanwhile.
            assert snapshot["lease"] is None or snapshot["lease"]["channel"] == answer["channel"]["address"]
            assert snapshot["status"] == "ACTIVE"
            assert answer["channel"]["charged_total"] == str(paid_before[own] + paid[own])
    finally:
        worker.start()
    running.settle_everything()


def test_a_stranger_may_not_read_an_agents_liability(running: Running) -> None:
    target = f"/liability/{running.demo['agents'][0]['agent']}"
    url = running.network.url("relayer") + target
    assert httpx.get(url, **LOCAL).status_code in (400, 401)
    stranger = httpx.get(url, headers=sign_request(SigningKey.generate(), "GET", target), **LOCAL)
    assert stranger.status_code == 403


async def test_a_bond_is_withdrawn_only_once_what_was_charged_is_settled(running: Running) -> None:
    running.settle_everything()
    # With recon paused, what is paid now stays a liability.
    worker = running.network.processes["worker"]
    worker.kill()
    gateway = running.demo["gateways"][1]
    try:
        async with MachPayClient(MachPayConfig.from_demo(running.manifest_path, agent=2)) as client:
            bond = await client.get_bond_balance()
            response = await client.pay_and_call(url=gateway["url"] + gateway["paid_path"], method="GET")
            assert response.status_code == 200
            wait_until(lambda: running.unsettled() == gateway["price_atomic"], "the relayer has the payment")
            with pytest.raises(OutstandingLiabilityError) as owed:
                await client.withdraw_bond(1_000_000)
            assert owed.value.liability == gateway["price_atomic"]
            assert (await client.get_bond_info()).pending_withdrawal == 0
            worker.start()
            running.settle_everything()
            assert await client.withdraw_bond(1_000_000)
            with pytest.raises(TimelockError) as locked:
                await client.withdraw_bond(1_000_000)
            assert locked.value.amount == 1_000_000
            assert await client.cancel_withdrawal()
            assert await client.get_bond_balance() == bond - gateway["price_atomic"]
    finally:
        if not worker.running:
            worker.start()


async def test_a_new_agent_deposits_reads_its_bond_and_pays(running: Running, tmp_path) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "agent.json")
    network = running.network
    fund = await asyncio.create_subprocess_exec(
        *(network.processes["worker"].command[0], "manage.py", "demo_fund", key.pubkey, "7000000"),
        env=network.child_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await fund.communicate()
    assert fund.returncode == 0, output.decode()
    demo = {**running.demo, "agents": [{"agent": key.pubkey, "keypair_file": str(tmp_path / "agent.json")}]}
    manifest = tmp_path / "demo.json"
    manifest.write_text(json.dumps(demo))
    gateway = demo["gateways"][0]
    async with MachPayClient(MachPayConfig.from_demo(manifest)) as client:
        assert await client.get_bond_balance() == 0
        signature = await client.deposit_bond(5_000_000)
        assert signature
        assert await client.get_bond_balance() == 5_000_000
        response = await client.pay_and_call(url=gateway["url"] + gateway["paid_path"], method="GET")
        assert response.status_code == 200
        assert response.payment is not None
        assert response.payment.charged == gateway["price_atomic"]
        assert client.verify_receipt(response.payment.receipt, gateway=gateway["gateway"])


def test_every_payment_can_be_proven_against_the_chain(running: Running) -> None:
    payments = finish(running.start_payer("--agent", "2", "--calls", "6", "--in-flight", "3"))["payments"]
    assert len(payments) == 6
    with httpx.Client(base_url=running.demo["api_url"], **LOCAL) as api:
        for payment in payments:
            path = f"/v1/payments/{payment['digest']}/proof"
            wait_until(lambda at=path: api.get(at).status_code == 200, "the payment's batch is final")
            proof = InclusionProof.parse(api.get(path).content)
            assert (proof.leaf.digest.hex(), proof.leaf.charged) == (payment["digest"], payment["charged"])
            account = asyncio.run(batch_account(running, proof.batch.seq))
            assert proof.holds(root=account.root, leaf_count=account.leaf_count)


async def batch_account(running: Running, sequence: int) -> Batch:
    """The batch on the chain, which is all that a proof has to be trusted with."""
    async with ChainClient(running.network.url("chain"), running.network.network) as chain:
        account = await chain.batch(sequence, "finalized")
    assert account is not None
    return account
