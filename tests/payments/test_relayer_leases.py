"""Leases and changes over real connections: the relayer process, several gateways, the local chain."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.utils import timezone

from apps.payments.models import Channel, Lease
from apps.payments.services import enforcement, gateways
from devnet.chain import MIN_BOND_ATOMIC
from devnet.offers import ATLAS, LEXICON
from machpay.chain.accounts import GatewayAccount
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.settlements import ResolvedPayment, to_item
from tests.payments.relayer_client import RelayerClient, shared_relayer
from tests.support.chain import LocalChain, Payer
from tests.support.database import committed
from tests.support.servers import Server

USDC = 1_000_000
pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def relayer(
    local_chain: LocalChain, django_db_setup, django_db_blocker, tmp_path_factory
) -> Iterator[Server]:
    """One process for this module. Every test brings its own agents."""
    folder = tmp_path_factory.mktemp("relayer")
    terms = {"LEASE_SHARE_PERCENT": "100", "LEASE_GRACE_S": "1"}
    with shared_relayer(local_chain, django_db_blocker, folder, **terms) as server:
        yield server


def bonded_agent(chain: LocalChain, bond_atomic: int) -> SigningKey:
    agent = chain.new_agent(bond_atomic=bond_atomic)
    chain.wait_until_final()
    return agent


def new_gateway(chain: LocalChain) -> SigningKey:
    """A gateway that the registry knows, serving LEXICON's vendor."""
    key = SigningKey.generate()
    account = GatewayAccount(255, False, key.public, chain.vendor(LEXICON), 0, 0)
    committed(lambda: gateways.remember([account]))
    return key


def payer_of(chain: LocalChain, agent: SigningKey, gateway: SigningKey) -> Payer:
    channel = chain.network.channel(agent.public, gateway.public)
    return Payer(agent, gateway, chain.vendor(LEXICON), channel)


def lease_body(payment: ResolvedPayment, amount: int, last_seq: int = 0) -> dict[str, Any]:
    return {
        "agent": str(payment.agent),
        "channel": str(payment.intent.channel),
        "amount": str(amount),
        "intent": msgspec.to_builtins(to_item(payment)),
        "last_seq": last_seq,
    }


def ask(client: RelayerClient, payment: ResolvedPayment, amount: int, last_seq: int = 0) -> dict[str, Any]:
    answer = client.post("/leases", lease_body(payment, amount, last_seq))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def wish(payer: Payer, amount: int) -> ResolvedPayment:
    """A payment that is only shown to the relayer, and so has no place in the gateway's log."""
    payment = payer.pay(amount, charged=0)
    payer.seq -= 1
    return payment


def exposure(agent: SigningKey) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT payments_exposure(%s)", [agent.pubkey])
        return int(cursor.fetchone()[0])


# ---- asking


def test_a_lease_comes_with_the_standing_it_makes(relayer, local_chain):
    agent = bonded_agent(local_chain, 10 * USDC)
    payer = local_chain.payer(agent, LEXICON)
    with RelayerClient(relayer.url, payer.gateway) as client:
        told = ask(client, payer.pay(1_000), 50_000)
        again = client.post("/v1/leases", lease_body(payer.pay(1_000), 50_000)).json()

    assert (told["amount"], told["up_to"], told["refused"]) == ("50000", "50000", None)
    assert 59_000 < told["valid_ms"] <= 60_000
    snapshot = told["snapshot"]
    assert (snapshot["bond"], snapshot["leases"], snapshot["liability"]) == (str(10 * USDC), "50000", "0")
    assert (snapshot["lease"]["lease_id"], snapshot["mode"]) == (told["lease_id"], "lease")
    assert told["channel"]["charged_total"] == "0"
    assert again["lease_id"] == told["lease_id"]


def test_a_gateway_without_an_intent_of_the_agent_gets_nothing(relayer, local_chain):
    agent = bonded_agent(local_chain, 10 * USDC)
    payer, gateway = local_chain.payer(agent, LEXICON), local_chain.gateway(LEXICON)
    good = payer.pay(1_000)
    elsewhere = local_chain.payer(agent, ATLAS).pay(1_000)
    by_another = payer_of(local_chain, SigningKey.generate(), gateway).pay(1_000)
    body = lease_body(good, 10_000)
    with RelayerClient(relayer.url, gateway) as client:
        for changes, status, code in (
            ({"intent": {**body["intent"], "amount": "2000"}}, 403, "intent_refused"),
            ({"intent": msgspec.to_builtins(to_item(by_another))}, 403, "intent_refused"),
            ({"intent": msgspec.to_builtins(to_item(elsewhere))}, 400, "malformed"),
            ({"channel": str(elsewhere.intent.channel)}, 403, "not_yours"),
            ({"amount": "0"}, 400, "malformed"),
            ({"agent": "nobody"}, 400, "malformed"),
        ):
            answer = client.post("/leases", {**body, **changes})
            assert (answer.status_code, answer.json()["code"]) == (status, code), (changes, answer.text)
        assert client.post("/leases", {"agent": agent.pubkey}).json()["code"] == "malformed"
    with RelayerClient(relayer.url, SigningKey.generate()) as stranger:
        assert stranger.post("/leases", body).json()["code"] == "unknown_gateway"
        assert stranger.get("/changes").json()["code"] == "unknown_gateway"
    assert not Lease.objects.filter(agent=agent.pubkey).exists()


def test_an_intent_of_ten_minutes_ago_is_no_reason_for_a_lease(relayer, local_chain):
    agent = bonded_agent(local_chain, 10 * USDC)
    payer = local_chain.payer(agent, LEXICON)
    signed_at = int(time.time()) - 640
    old = PaymentIntent(payer.channel, 1_000, new_nonce(signed_at * 1000), 1_000, signed_at + 600, bytes(32))
    payment = msgspec.structs.replace(payer.pay(1_000), intent=old, signature=old.sign(agent), receipt=None)
    with RelayerClient(relayer.url, payer.gateway) as client:
        answer = client.post("/leases", lease_body(payment, 10_000))
    assert (answer.status_code, answer.json()["detail"]) == (403, "the intent is not recent")
    assert not Lease.objects.filter(agent=agent.pubkey).exists()


def test_an_agent_without_a_bond_gets_its_standing_instead_of_a_lease(relayer, local_chain):
    payer = local_chain.payer(SigningKey.generate(), LEXICON)
    with RelayerClient(relayer.url, payer.gateway) as client:
        told = ask(client, payer.pay(1_000), 10_000)
    assert (told["lease_id"], told["refused"], told["snapshot"]["bond"]) == (None, "insufficient_bond", "0")


# ---- many gateways, one bond


def test_sixteen_gateways_at_once_never_hold_more_than_the_bond(relayer, local_chain):
    agent = bonded_agent(local_chain, 3 * USDC)
    room = 3 * USDC - MIN_BOND_ATOMIC
    keys = [new_gateway(local_chain) for _ in range(16)]
    done = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not done.is_set():
            seen.append(exposure(agent))
            time.sleep(0.01)
        connection.close()

    def sell(key: SigningKey) -> tuple[int, set[str]]:
        """Three times: lease, charge all of it in two payments, deliver, renew; then crash, or release."""
        payer, charged, codes = payer_of(local_chain, agent, key), 0, set()
        with RelayerClient(relayer.url, key) as client:
            for _ in range(3):
                told = ask(client, wish(payer, 20_000), USDC, last_seq=payer.seq)
                codes.add(told["refused"] or "granted")
                left = int(told["amount"])
                if not left:
                    continue
                payments = [payer.pay(left // 2), payer.pay(left - left // 2)]
                client.deliver(*payments)
                charged += left
                lease_id = told["lease_id"]
            if key in keys[::2] and charged:
                freed = client.post(f"/leases/{lease_id}/release", {"last_seq": payer.seq}).json()["freed"]
                assert freed == "0"
        return charged, codes

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(sell, keys))
    finally:
        done.set()
        watcher.join()

    charged = sum(amount for amount, _ in results)
    assert len(seen) > 5
    assert max(seen) <= room
    assert charged == exposure(agent) <= room
    # The bond was contended for: it was all used but for less than one payment, and somebody was told so.
    assert room - charged < 20_000
    assert set().union(*(codes for _, codes in results)) == {"granted", "insufficient_bond"}
    owed = Channel.objects.filter(agent=agent.pubkey).values_list("charged_total_atomic", flat=True)
    assert sum(owed) == charged


def test_the_briefs_two_gateways_with_leases(relayer, local_chain):
    """50 USDC at A, then 30 at B: 80 together; A sees 30 elsewhere, B sees 50; and nobody gets more than the bond."""
    agent = bonded_agent(local_chain, 100 * USDC)
    a, b = local_chain.payer(agent, LEXICON), local_chain.payer(agent, ATLAS)
    with RelayerClient(relayer.url, a.gateway) as at_a, RelayerClient(relayer.url, b.gateway) as at_b:
        fifty, thirty = a.pay(50 * USDC), b.pay(30 * USDC)
        assert int(ask(at_a, fifty, 50 * USDC)["amount"]) == 50 * USDC
        at_a.deliver(fifty)
        assert liability(at_a, agent)["snapshot"]["liability"] == str(50 * USDC)
        assert int(ask(at_b, thirty, 30 * USDC)["amount"]) == 30 * USDC
        at_b.deliver(thirty)
        from_a, from_b = liability(at_a, agent), liability(at_b, agent)
        twenty = ask(at_a, a.pay(20 * USDC), 20 * USDC, last_seq=1)
    assert from_a["snapshot"]["liability"] == from_b["snapshot"]["liability"] == str(80 * USDC)
    assert (from_a["external_liability"], from_b["external_liability"]) == (30 * USDC, 50 * USDC)
    # 100 - 80 is 20, of which min_bond stays.
    assert (twenty["refused"], twenty["lease_id"]) == ("insufficient_bond", None)


def liability(client: RelayerClient, agent: SigningKey) -> dict[str, Any]:
    answer = client.get(f"/liability/{agent.pubkey}?exclude_gateway={client.key.pubkey}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


# ---- the end of a lease


def test_a_crashed_gateways_lease_blocks_the_bond_until_its_grace_is_over(relayer, local_chain):
    agent = bonded_agent(local_chain, 3 * USDC)
    crashed, other = (payer_of(local_chain, agent, new_gateway(local_chain)) for _ in range(2))
    with (
        RelayerClient(relayer.url, crashed.gateway) as dead,
        RelayerClient(relayer.url, other.gateway) as alive,
    ):
        held = ask(dead, crashed.pay(2 * USDC), 2 * USDC)
        assert ask(alive, other.pay(2 * USDC), 2 * USDC)["refused"] == "insufficient_bond"
        move(held, ended_s=29, frees_s=3_600)
        assert ask(alive, other.pay(2 * USDC), 2 * USDC)["refused"] == "insufficient_bond"
        move(held, ended_s=31, frees_s=-1)
        assert int(ask(alive, other.pay(2 * USDC), 2 * USDC)["amount"]) == 2 * USDC
        # What the crashed gateway delivers after all is stored, although the bond is leased to another.
        assert dead.deliver(crashed.pay(7))["accepted"] == 1


def move(told: dict[str, Any], *, ended_s: int, frees_s: int) -> None:
    now = timezone.now()
    times = {"expires_at": now - timedelta(seconds=ended_s), "frees_at": now + timedelta(seconds=frees_s)}
    committed(lambda: Lease.objects.filter(id=told["lease_id"]).update(**times))


def test_a_release_waits_for_delivery(relayer, local_chain):
    agent = bonded_agent(local_chain, 3 * USDC)
    payer = payer_of(local_chain, agent, new_gateway(local_chain))
    first, second = payer.pay(1_000), payer.pay(500)
    with RelayerClient(relayer.url, payer.gateway) as client:
        lease_id = ask(client, first, 10_000)["lease_id"]
        client.deliver(first)
        early = client.post(f"/leases/{lease_id}/release", {"last_seq": 2})
        client.deliver(second)
        freed = client.post(f"/leases/{lease_id}/release", {"last_seq": 2})
        unknown = client.post(f"/leases/{agent.pubkey}/release", {"last_seq": 2})
    with RelayerClient(relayer.url, local_chain.gateway(ATLAS)) as other:
        foreign = other.post(f"/leases/{lease_id}/release", {"last_seq": 0})
    assert (early.status_code, early.json()["code"]) == (409, "not_delivered")
    assert (freed.status_code, freed.json()) == (200, {"lease_id": lease_id, "freed": "8500"})
    assert (unknown.status_code, foreign.json()["code"]) == (400, "unknown_lease")
    assert exposure(agent) == 1_500


def test_a_lease_survives_a_killed_relayer(relayer, local_chain):
    agent = bonded_agent(local_chain, 3 * USDC)
    payer, other = (payer_of(local_chain, agent, new_gateway(local_chain)) for _ in range(2))
    with RelayerClient(relayer.url, payer.gateway) as client:
        before = ask(client, payer.pay(1_500_000), 2 * USDC)
    relayer.process.kill()
    relayer.process.start()
    relayer.process.wait_healthy()
    with RelayerClient(relayer.url, other.gateway) as client:
        assert ask(client, other.pay(1 * USDC), USDC)["refused"] == "insufficient_bond"
    with RelayerClient(relayer.url, payer.gateway) as client:
        after = ask(client, payer.pay(1_500_000), 2 * USDC)
    assert (after["lease_id"], after["up_to"]) == (before["lease_id"], before["up_to"])


# ---- changes


def test_what_stops_an_agent_reaches_its_gateways_at_once(relayer, local_chain):
    agent = bonded_agent(local_chain, 3 * USDC)
    payer, other = local_chain.payer(agent, LEXICON), local_chain.payer(agent, ATLAS)
    with RelayerClient(relayer.url, payer.gateway) as client:
        lease_id = ask(client, payer.pay(1_000), 10_000)["lease_id"]
        with RelayerClient(relayer.url, other.gateway) as another:
            ask(another, other.pay(1_000), 10_000)
        start = client.get("/changes").json()
        assert (start["changes"], start["reset"]) == ([], False)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(follow, client, start["cursor"], agent)
            committed(lambda: enforcement.set_kill_switch(agent.pubkey, True, "test", "tester"))
            change = waiting.result(30)

        assert (change["status"], change["revoked"]) == ("STOPPED", [lease_id])
        assert (change["bond"], change["claims"]) == (str(3 * USDC), "0")
        assert ask(client, payer.pay(1_000), 10_000)["refused"] == "agent_suspended"
        assert liability(client, agent)["snapshot"]["status"] == "STOPPED"
        assert client.get("/v1/changes?after=nonsense").json()["reset"] is True


def follow(client: RelayerClient, cursor: str, agent: SigningKey) -> dict[str, Any]:
    """The first change of `agent` after `cursor`."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        told = client.get(f"/changes?after={cursor}").json()
        cursor = told["cursor"]
        for change in told["changes"]:
            if change["agent"] == agent.pubkey:
                return dict(change)
    pytest.fail("the change never came")
