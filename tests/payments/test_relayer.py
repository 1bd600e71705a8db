"""The relayer process over HTTP, with the local chain behind it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from django.db import connection
from django.utils import timezone

from apps.payments.models import AgentMirror, Aggregation, AggregationItem, Channel, Gateway, PaymentIntent
from devnet.offers import ATLAS, LEXICON
from machpay.protocol.aggregates import AggregationList
from machpay.protocol.encoding import to_b64
from machpay.protocol.keys import SigningKey
from machpay.protocol.signed_requests import sign_request
from tests.payments.relayer_client import RelayerClient, batch, shared_relayer
from tests.support.chain import LocalChain, Payer
from tests.support.servers import Server

USDC = 1_000_000
pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def relayer(
    local_chain: LocalChain, django_db_setup, django_db_blocker, tmp_path_factory
) -> Iterator[Server]:
    """One process for this module. Every test brings its own agents."""
    with shared_relayer(local_chain, django_db_blocker, tmp_path_factory.mktemp("relayer")) as server:
        yield server


@pytest.fixture
def gateway(relayer: Server, local_chain: LocalChain) -> Iterator[RelayerClient]:
    with RelayerClient(relayer.url, local_chain.gateway(LEXICON)) as client:
        yield client


@pytest.fixture
def payer(local_chain: LocalChain) -> Payer:
    """An agent without a bond, paying LEXICON."""
    return local_chain.payer(SigningKey.generate(), LEXICON)


def bonded_agent(chain: LocalChain, bond_atomic: int) -> SigningKey:
    agent = chain.new_agent(bond_atomic=bond_atomic)
    chain.wait_until_final()
    return agent


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is this problem."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), (
        answer.text
    )
    problem: dict[str, Any] = answer.json()
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def stored_of(payer: Payer) -> int:
    return PaymentIntent.objects.filter(agent=payer.agent.pubkey).count()


# ---- settlements


def test_every_item_is_answered_in_order(gateway, payer):
    good, void, forged = payer.pay(100), payer.pay(50, charged=0), payer.pay(70)
    body = batch(gateway.key, good, void, forged)
    body["batch"][2]["amount"] = "71"
    body["batch"].insert(1, {"agent": "nonsense"})

    answer = gateway.post("/settlements", body)

    assert answer.status_code == 200
    assert answer.json() == {
        "accepted": 2,
        "rejected": 2,
        "duplicates": 0,
        "results": [
            {"digest": good.intent.digest.hex(), "status": "accepted", "retry": False},
            {"digest": "", "status": "rejected", "retry": False, "code": "malformed"},
            {"digest": void.intent.digest.hex(), "status": "accepted", "retry": False},
            {
                "digest": answer.json()["results"][3]["digest"],
                "status": "rejected",
                "retry": False,
                "code": "invalid_signature",
            },
        ],
    }
    channel = Channel.objects.get(address=str(payer.channel))
    assert (channel.charged_total_atomic, channel.vendor) == (100, str(payer.vendor))


def test_a_batch_sent_again_is_all_duplicates(gateway, payer):
    payments = [payer.pay(10) for _ in range(5)]
    assert gateway.deliver(*payments)["accepted"] == 5

    again = gateway.deliver(*payments)

    assert (again["accepted"], again["duplicates"], again["rejected"]) == (0, 5, 0)
    assert stored_of(payer) == 5


def test_vouchers_travel_with_the_batch(gateway, payer):
    payment, ahead = payer.pay(10), payer.pay(990)
    body = batch(gateway.key, payment, vouchers=[ahead.voucher])
    body["vouchers"].append({"channel": "nonsense"})

    assert gateway.post("/settlements", body).json()["accepted"] == 1
    assert Channel.objects.get(address=str(payer.channel)).highest_cumulative_atomic == 1000


def test_an_empty_batch_is_answered(gateway):
    assert gateway.post("/v1/settlements", batch(gateway.key)).json() == {
        "accepted": 0,
        "rejected": 0,
        "duplicates": 0,
        "results": [],
    }


def test_eight_connections_posting_the_same_batches_store_each_payment_once(relayer, local_chain):
    key = local_chain.gateway(LEXICON)
    payers = [local_chain.payer(SigningKey.generate(), LEXICON) for _ in range(4)]
    batches = [[payer.pay(3) for payer in payers for _ in range(5)] for _ in range(5)]

    def work(number: int) -> int:
        with RelayerClient(relayer.url, key) as client:
            order = batches[number % 5 :] + batches[: number % 5]
            return sum(client.deliver(*payments)["accepted"] for payments in order)

    with ThreadPoolExecutor(8) as pool:
        accepted = list(pool.map(work, range(8)))

    assert sum(accepted) == 100
    for payer in payers:
        assert Channel.objects.get(address=str(payer.channel)).charged_total_atomic == 75
        assert stored_of(payer) == 25


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed"),
        (b"[]", 400, "malformed"),
        (b'{"gateway_id": "\xff", "batch": []}', 400, "malformed"),
        (b'{"batch": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "malformed"),
        (b" " * (4 * 1024 * 1024 + 1), 413, "body_too_large"),
        ({"gateway_id": "somebody else", "batch": []}, 403, "not_yours"),
        ({"gateway_id": "", "batch": [{}] * 1001}, 413, "batch_too_large"),
    ],
    ids=["not-json", "not-an-object", "not-text", "too-deep", "too-large", "another-gateway", "too-many"],
)
def test_a_body_that_is_no_batch_is_refused(gateway, body, status, code):
    before = PaymentIntent.objects.count()
    refused(gateway.post("/settlements", body), status, code)
    assert PaymentIntent.objects.count() == before


def test_a_gateway_that_is_not_on_chain_is_refused(relayer, local_chain):
    stranger = SigningKey.generate()
    payment = local_chain.payer(SigningKey.generate(), LEXICON)
    with RelayerClient(relayer.url, stranger) as client:
        answer = client.post("/settlements", batch(stranger, payment.pay(10)))
        assert refused(answer, 403, "unknown_gateway")["detail"]
        assert answer.headers["retry-after"] == "2"
        heartbeat = client.post("/heartbeat", {"gateway_id": stranger.pubkey})
    assert heartbeat.json() == {"status": "ok", "registered": False}
    assert not Gateway.objects.filter(pubkey=stranger.pubkey).exists()
    assert stored_of(payment) == 0


# ---- signed requests


def test_requests_are_refused_unless_signed_right(gateway: RelayerClient, payer: Payer):
    body = msgspec.json.encode(batch(gateway.key, payer.pay(10)))

    def send(headers: dict[str, str], content: bytes = body, target: str = "/settlements") -> httpx.Response:
        return gateway.http.post(target, content=content, headers=headers)

    signed = sign_request(gateway.key, "POST", "/settlements", body)
    refused(send({}), 400, "malformed")
    refused(send({**signed, "X-MachPay-Nonce": "7"}), 400, "malformed")
    refused(send({**signed, "X-MachPay-Key": payer.agent.pubkey}), 401, "invalid_signature")
    refused(send({**signed, "X-MachPay-Timestamp": "1700000000"}), 401, "invalid_signature")
    refused(send(signed, content=body + b" "), 401, "invalid_signature")
    refused(send(signed, target="/v1/settlements"), 401, "invalid_signature")
    assert stored_of(payer) == 0
    assert send(signed).json()["accepted"] == 1
    refused(send(signed), 401, "request_replayed")
    assert stored_of(payer) == 1


# ---- heartbeat


def test_a_heartbeat_registers_what_the_gateway_says(gateway):
    body = {
        "gateway_id": gateway.key.pubkey,
        "version": "v1.0.0",
        "uptime_seconds": 3600,
        "stats": {"requests_total": 15000, "requests_per_minute": 250.5, "active_agents": 45},
        "url": "http://127.0.0.1:9000",
        "vendor": "ignored",
        "seq": 12,
    }
    assert gateway.post("/v1/heartbeat", body).json() == {"status": "ok", "registered": True}
    row = Gateway.objects.get(pubkey=gateway.key.pubkey)
    assert (row.status, row.version, row.uptime_seconds, row.log_seq, row.url) == (
        "UP",
        "v1.0.0",
        3600,
        12,
        "http://127.0.0.1:9000",
    )
    assert row.stats == body["stats"]


@pytest.mark.parametrize(
    "change",
    [{"uptime_seconds": -1}, {"seq": "x"}, {"stats": 5}, {"version": "a\x00"}, {"stats": {"a": "\x00"}}],
)
def test_a_heartbeat_that_cannot_be_kept_is_refused(gateway, change):
    refused(gateway.post("/heartbeat", {"gateway_id": gateway.key.pubkey, **change}), 400, "malformed")


def test_a_heartbeat_for_somebody_else_is_refused(gateway, payer):
    refused(gateway.post("/heartbeat", {"gateway_id": payer.agent.pubkey}), 403, "not_yours")


# ---- liability


def test_the_briefs_two_gateways(relayer, local_chain):
    """50 USDC through A, 30 through B: 80 together; A is told 30, B is told 50."""
    agent = bonded_agent(local_chain, 100 * USDC)
    at_a, at_b = local_chain.payer(agent, LEXICON), local_chain.payer(agent, ATLAS)
    with (
        RelayerClient(relayer.url, local_chain.gateway(LEXICON)) as a,
        RelayerClient(relayer.url, local_chain.gateway(ATLAS)) as b,
    ):
        a.deliver(at_a.pay(50 * USDC))
        first = a.get(f"/liability/{agent.pubkey}").json()
        assert (first["snapshot"]["liability"], first["snapshot"]["bond"]) == (
            str(50 * USDC),
            str(100 * USDC),
        )
        b.deliver(at_b.pay(30 * USDC))
        assert a.get(f"/liability/{agent.pubkey}").json()["external_liability"] == 80 * USDC

        for_a = a.get(f"/liability/{agent.pubkey}?exclude_gateway={a.key.pubkey}").json()
        for_b = b.get(f"/v1/liability/{agent.pubkey}?exclude_gateway={b.key.pubkey}").json()

    assert (for_a["agent"], for_a["external_liability"]) == (agent.pubkey, 30 * USDC)
    assert for_a["gateways"] == [{"gateway_id": b.key.pubkey, "liability": 30 * USDC}]
    assert for_b["external_liability"] == 50 * USDC
    assert for_a["snapshot"] == for_b["snapshot"]
    assert for_a["snapshot"].pop("slot") > 0
    assert for_a["snapshot"] == {
        "bond": str(100 * USDC),
        "pending_withdrawal": "0",
        "claims": "0",
        "liability": str(80 * USDC),
        "leases": "0",
        "lease": None,
        "status": "ACTIVE",
        "limits": {"per_call": None, "per_day": None},
        "remaining_today": None,
        "mode": "lease",
        "cap": None,
    }
    assert for_a["channel"]["charged_total"] == str(50 * USDC)
    assert for_a["channel"]["highest"]["cumulative"] == str(50 * USDC)


def test_a_bond_deposited_a_moment_ago_is_found_on_chain(gateway, local_chain):
    agent = bonded_agent(local_chain, 7 * USDC)

    answer = gateway.get(f"/liability/{agent.pubkey}").json()

    assert answer["snapshot"]["bond"] == str(7 * USDC)
    assert AgentMirror.objects.get(agent=agent.pubkey).bond_atomic == 7 * USDC


def test_an_agent_sees_itself_and_nobody_else(relayer, local_chain):
    agent, other = bonded_agent(local_chain, 5 * USDC), SigningKey.generate()
    with RelayerClient(relayer.url, agent) as client:
        own = client.get(f"/liability/{agent.pubkey}")
        assert own.json()["snapshot"]["bond"] == str(5 * USDC)
        assert own.json()["channel"] is None
        refused(client.get(f"/liability/{other.pubkey}"), 403, "not_yours")


def test_an_agent_that_does_not_exist_has_no_bond(gateway):
    agent = SigningKey.generate().pubkey

    answer = gateway.get(f"/liability/{agent}")

    assert answer.status_code == 200
    assert (answer.json()["snapshot"]["bond"], answer.json()["external_liability"]) == ("0", 0)
    assert not AgentMirror.objects.filter(agent=agent).exists()


def test_keys_that_are_none_are_refused(gateway, payer):
    refused(gateway.get("/liability/nonsense"), 400, "malformed")
    refused(gateway.get(f"/liability/{payer.agent.pubkey}?exclude_gateway=x"), 400, "malformed")


# ---- the process


def test_paths_and_methods_that_do_not_exist(gateway):
    refused(gateway.get("/"), 404, "not_found")
    refused(gateway.get("/v1"), 404, "not_found")
    refused(gateway.get("/v1settlements"), 404, "not_found")
    refused(gateway.get("/settlements"), 405, "method_not_allowed")
    refused(gateway.post("/liability/x", {}), 405, "method_not_allowed")


def test_health_and_metrics(gateway):
    health = gateway.http.get("/health", headers={"X-Request-ID": "trace-7"})
    assert health.headers["x-request-id"] == "trace-7"
    assert health.json() == {
        "status": "ok",
        "service": "relayer",
        "components": {
            "database": {"status": "ok"},
            "redis": {"status": "ok"},
            "intake": {"status": "ok", "batches_in_flight": 0},
        },
    }
    metrics = gateway.http.get("/metrics").text
    assert 'machpay_relayer_items_total{result="accepted"}' in metrics


def test_a_new_gateway_is_told_which_network_this_is(gateway, relayer, local_chain):
    network = local_chain.network
    assert gateway.http.get("/v1/network").json() == {
        "network": network.caip2,
        "program_id": str(network.program_id),
        "mint": str(network.mint),
        "domain": str(network.domain),
    }


# ---- aggregations


def proposed(chain: LocalChain, payer: Payer) -> str:
    """A proposal over everything the payer was charged, as recon makes it, committed; returns its id."""

    def make() -> str:
        try:
            row = Channel.objects.get(address=str(payer.channel))
            made = Aggregation.objects.create(
                agent_id=payer.agent.pubkey,
                amount_atomic=payer.served,
                expires_at=timezone.now() + timedelta(minutes=1),
            )
            AggregationItem.objects.create(
                aggregation=made,
                channel=row,
                cumulative_atomic=payer.served,
                settled_before_atomic=0,
                voucher_atomic=row.highest_cumulative_atomic,
                context=bytes(row.highest_context or b""),
                signature=bytes(row.highest_signature or b""),
            )
            return str(made.id)
        finally:
            connection.close()

    # Outside of the test's own transaction, which nobody else sees.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()


def test_an_agent_sees_and_signs_its_own_proposals(
    relayer: Server, gateway: RelayerClient, local_chain: LocalChain
) -> None:
    payer = local_chain.payer(bonded_agent(local_chain, 10 * USDC), LEXICON)
    gateway.deliver(payer.pay(700), payer.pay(300, charged=100))
    network = local_chain.network
    with RelayerClient(relayer.url, payer.agent) as agent:
        assert agent.get("/aggregations").json() == {"proposals": []}
        name = proposed(local_chain, payer)
        answer = agent.get(f"/v1/aggregations?agent={payer.agent.pubkey}")
        (found,) = msgspec.json.decode(answer.content, type=AggregationList).proposals
        aggregate, vouchers = found.parse(domain=network.domain, mint=network.mint, agent=payer.agent.public)
        assert (found.id, found.amount) == (name, "800")
        assert [total.cumulative for total in aggregate.totals] == [800]
        assert [voucher.cumulative for voucher in vouchers] == [1_000]
        assert aggregate.covers(vouchers)

        sign = f"/aggregations/{name}/sign"
        refused(agent.post(sign, {"signature": "?"}), 400, "malformed")
        stranger = to_b64(aggregate.sign(gateway.key))
        refused(agent.post(sign, {"signature": stranger}), 422, "invalid_signature")
        good = {"signature": to_b64(aggregate.sign(payer.agent))}
        refused(gateway.post(sign, good), 404, "unknown_aggregation")
        refused(agent.post("/aggregations/x/sign", good), 404, "unknown_aggregation")
        for _ in range(2):
            assert agent.post(sign, good).json() == {"id": name, "status": "SIGNED"}
        assert agent.get("/aggregations").json() == {"proposals": []}
    refused(gateway.get(f"/aggregations?agent={payer.agent.pubkey}"), 403, "not_yours")
