"""The facilitator over HTTP: what stock x402 servers rely on, and every way in which it must not charge."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection
from solders.hash import Hash
from solders.instruction import Instruction
from solders.message import Message, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer

from apps.ledger import chart
from apps.ledger.selectors import balance
from apps.payments.models import AgentMirror, Channel, HostedReceipt, PaymentIntent
from apps.payments.services import gateways
from apps.payments.services.leases import Granted, Wish, grant
from devnet.offers import LEXICON
from machpay.chain.accounts import GatewayAccount
from machpay.chain.hosting import FacilitatorError, hosted_gateway, register_hosted_gateway
from machpay.chain.instructions import register_gateway
from machpay.protocol.keys import SigningKey, verify
from machpay.protocol.nonces import new_nonce, nonce_unix_ms
from machpay.protocol.receipts import SignedReceipt
from machpay.x402.__main__ import main as host
from tests.facilitator.conftest import PRICE, Facilitated
from tests.support.chain import LocalChain
from tests.support.database import committed

pytestmark = pytest.mark.django_db


def charged(shop: Facilitated) -> tuple[int, int]:
    """`(charge count, charged total)` of the agent's channel, as intents and as the channel's own totals."""
    rows = PaymentIntent.objects.filter(agent=shop.agent.pubkey)
    total = sum(row.charged_atomic for row in rows)
    channel = Channel.objects.filter(address=str(shop.channel)).first()
    assert (0 if channel is None else channel.charged_total_atomic) == total
    owed = balance(chart.spent_unsettled(shop.agent.pubkey, str(shop.network.mint)))
    assert -owed == total
    return len(rows), total


# ---- what a stock server sees


def test_it_says_what_it_supports(shop):
    assert shop.get("/supported").json() == {
        "kinds": [
            {
                "x402Version": 2,
                "scheme": "machpay-bond",
                "network": shop.network.caip2,
                "extra": {
                    "programId": str(shop.network.program_id),
                    "domain": str(shop.network.domain),
                    "asset": str(shop.network.mint),
                    "intentVersion": 1,
                },
            }
        ],
        "extensions": [],
        "signers": {},
    }


def test_a_payment_is_verified_then_settled_once(shop):
    payload = shop.payload()

    assert shop.verify(payload) == {"isValid": True, "payer": shop.agent.pubkey}
    assert charged(shop) == (0, 0)
    first = shop.settle(payload)
    again = shop.settle(payload)

    assert again == first
    receipt = SignedReceipt.from_json(first["extra"].pop("receipt"))
    assert first == {
        "success": True,
        "network": shop.network.caip2,
        "payer": shop.agent.pubkey,
        "amount": str(PRICE),
        "transaction": "",
        "extra": {"commitmentId": receipt.receipt.digest.hex(), "servedTotal": str(PRICE)},
    }
    assert receipt.is_signed_by(shop.gateway)
    assert (receipt.receipt.charged, receipt.receipt.served_total, receipt.receipt.http_status) == (
        PRICE,
        PRICE,
        200,
    )
    # It has bought its answer: a server that asks first does not work for it again.
    refused = shop.verify(payload)
    assert (refused["isValid"], refused["invalidReason"]) == (False, "nonce_replayed")
    assert refused["extra"] == {"receipt": receipt.to_json()}
    assert charged(shop) == (1, PRICE)


def test_less_than_the_signed_amount_may_be_charged(shop):
    payload = shop.payload(5 * PRICE)

    answer = shop.settle(payload, shop.requirements(amount="300"))

    assert (answer["success"], answer["amount"], answer["extra"]["servedTotal"]) == (True, "300", "300")
    assert charged(shop) == (1, 300)


def test_one_payment_settled_by_many_at_once_is_charged_once(shop):
    payload = shop.payload()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.ask("settle", payload).json(), range(8)))

    assert answers == [answers[0]] * 8
    assert answers[0]["success"] is True
    assert charged(shop) == (1, PRICE)


def test_payments_that_share_a_cumulative_are_charged_once(shop):
    payloads = [shop.payload(cumulative=PRICE) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda payload: shop.ask("settle", payload).json(), payloads))

    assert sorted((a["success"], a.get("errorReason")) for a in answers) == [
        *[(False, "cumulative_too_low")] * 5,
        (True, None),
    ]
    assert charged(shop) == (1, PRICE)


# ---- what helps a client that lost its state


def test_a_cumulative_that_is_too_low_is_answered_with_proof(shop):
    paid = shop.settle(shop.payload())
    shop.cumulative = 0

    answer = shop.verify(shop.payload())

    assert (answer["isValid"], answer["invalidReason"]) == (False, "cumulative_too_low")
    extra = answer["extra"]
    assert extra["committedTotal"] == str(PRICE)
    assert extra["receipt"] == paid["extra"]["receipt"]
    voucher = extra["voucher"]
    assert (voucher["channel"], voucher["cumulative"]) == (str(shop.channel), str(PRICE))
    assert shop.settle(shop.payload(cumulative=2 * PRICE))["success"] is True
    assert charged(shop) == (2, 2 * PRICE)
    assert HostedReceipt.objects.get(channel=str(shop.channel)).served_total_atomic == 2 * PRICE


# ---- refusals


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"amount": PRICE - 1}, "amount_too_low"),
        ({"deadline": 1_700_000_000}, "intent_expired"),
        ({"deadline": 4_000_000_000}, "intent_expired"),
        ({"channel": Pubkey.new_unique()}, "invalid_signature"),
        ({"cumulative": PRICE - 1}, "cumulative_too_low"),
    ],
)
def test_a_payment_that_breaks_a_rule_is_not_charged(shop, changes, reason):
    payload = shop.payload(changes.pop("amount", PRICE), **changes)

    answers = shop.verify(payload), shop.settle(payload)

    assert (answers[0]["isValid"], answers[0]["invalidReason"]) == (False, reason)
    assert (answers[1]["success"], answers[1]["errorReason"]) == (False, reason)
    assert charged(shop) == (0, 0)


def test_work_that_outlasts_the_deadline_is_still_paid(shop):
    nonce = new_nonce()
    payload = shop.payload(nonce=nonce, deadline=nonce_unix_ms(nonce) // 1000 + 1)
    time.sleep(2.1)

    assert shop.verify(payload)["invalidReason"] == "intent_expired"
    assert shop.settle(payload)["success"] is True
    assert charged(shop) == (1, PRICE)


def test_the_bond_is_the_limit(shop):
    price = shop.requirements(amount=str(60 * PRICE))
    assert shop.settle(shop.payload(60 * PRICE), price)["success"]

    answer = shop.settle(shop.payload(60 * PRICE), price)

    assert (answer["success"], answer["errorReason"]) == (False, "insufficient_bond")
    assert charged(shop) == (1, 60 * PRICE)


def test_an_agent_without_a_bond_is_refused(shop):
    shop.agent = SigningKey.generate()
    assert shop.verify(shop.payload())["invalidReason"] == "insufficient_bond"


def hold(shop: Facilitated, **fields: object) -> None:
    committed(lambda: AgentMirror.objects.filter(agent=shop.agent.pubkey).update(**fields))


def leasable(agent: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT payments_leasable(%s)", [agent])
        return int(cursor.fetchone()[0])


def test_what_is_leased_to_gateways_cannot_be_charged_twice(shop, local_chain):
    assert shop.verify(shop.payload())["isValid"]
    agent, gateway = shop.agent.pubkey, local_chain.gateway(LEXICON)
    channel = str(shop.network.channel(shop.agent.public, gateway.public))
    wish = Wish(agent, channel, gateway.pubkey, str(shop.vendor), 5 * PRICE, PRICE, 0)
    account = GatewayAccount(255, False, gateway.public, shop.vendor, 0, 0)
    committed(lambda: gateways.remember([account]))
    before = committed(lambda: leasable(agent))
    leased = committed(lambda: grant(wish))
    free = committed(lambda: leasable(agent))
    assert isinstance(leased, Granted)
    assert 0 < free == before - leased.amount

    answer = shop.settle(shop.payload(free + 1), shop.requirements(amount=str(free + 1)))

    assert answer["errorReason"] == "insufficient_bond"
    assert shop.settle(shop.payload(free), shop.requirements(amount=str(free)))["success"]
    assert charged(shop) == (1, free)
    assert committed(lambda: leasable(agent)) == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "SUSPENDED"}, "agent_suspended"),
        ({"stopped": True}, "agent_suspended"),
        ({"status": "SLASHED"}, "agent_slashed"),
        ({"held_until_slot": 2**40}, "held"),
    ],
)
def test_an_agent_that_is_held_back_is_refused_at_once(shop, fields, reason):
    assert shop.verify(shop.payload())["isValid"]
    hold(shop, **fields)
    assert shop.settle(shop.payload())["errorReason"] == reason
    assert charged(shop) == (0, 0)


def test_the_agents_own_limits_hold(shop):
    assert shop.verify(shop.payload())["isValid"]
    hold(shop, limit_per_day_atomic=PRICE + 1)
    assert shop.settle(shop.payload())["success"]
    assert shop.settle(shop.payload())["errorReason"] == "budget_exceeded"
    hold(shop, limit_per_day_atomic=None, limit_per_call_atomic=PRICE - 1)
    assert shop.settle(shop.payload())["errorReason"] == "budget_exceeded"
    assert charged(shop) == (1, PRICE)


def test_another_payment_under_the_same_nonce_is_refused(shop):
    nonce = new_nonce()
    assert shop.settle(shop.payload(nonce=nonce))["success"]

    answer = shop.settle(shop.payload(nonce=nonce))

    assert answer["errorReason"] == "nonce_replayed"
    assert charged(shop) == (1, PRICE)


def test_a_payment_for_another_request_is_refused(shop):
    other = shop.requirements(extra={"requestHash": "ab" * 32})
    answer = shop.settle(shop.payload(), other)
    assert (answer["success"], answer["errorReason"]) == (False, "request_mismatch")
    assert charged(shop) == (0, 0)


def test_a_payment_for_another_gateway_or_vendor_is_refused(shop, local_chain):
    elsewhere = shop.payload()
    elsewhere.payload.gateway = local_chain.gateway(LEXICON).pubkey
    assert shop.settle(elsewhere)["errorReason"] == "wrong_gateway"
    assert shop.settle(shop.payload(accepted=shop.requirements(pay_to=shop.agent.pubkey)))["errorReason"] == (
        "request_mismatch"
    )
    assert charged(shop) == (0, 0)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"x402Version": 2},
        [],
        None,
        7,
        {"x402Version": 2, "accepted": {}, "payload": {"signature": "0x00"}},
    ],
)
def test_a_malformed_payload_is_the_buyers_fault(shop, payload):
    answer = shop.verify(payload)
    assert (answer["isValid"], answer["invalidReason"]) == (False, "invalid_payload")


def test_a_version_1_payload_is_named_as_such(shop):
    answer = shop.ask("verify", shop.payload(), version=1).json()
    assert answer["invalidMessage"] == "x402 version 1 is not supported, version 2 is"


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"pay_to": "nobody"}, "paymentRequirements.payTo"),
        ({"amount": "1.5"}, "paymentRequirements.amount"),
        ({"max_timeout_seconds": 0}, "maxTimeoutSeconds"),
        ({"network": "solana:x"}, "network or asset"),
    ],
)
def test_requirements_that_cannot_be_met_are_the_sellers_fault(shop, changes, detail):
    answer = shop.ask("settle", shop.payload(), shop.requirements(**changes))
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert detail in answer.json()["detail"]
    assert charged(shop) == (0, 0)


def test_a_vendor_that_is_not_hosted_is_told_so(shop):
    stranger = Pubkey.new_unique()
    required = shop.requirements(pay_to=str(stranger))
    (gateway,) = [shop.get(f"/gateways/{stranger}").json()["gateway"]]
    shop.gateway = Pubkey.from_string(gateway)

    answer = shop.ask("settle", shop.payload(accepted=required), required)

    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert f"{gateway} is not registered on chain as a gateway of {stranger}" in answer.json()["detail"]


def test_other_paths_methods_and_bodies_are_refused(shop):
    assert shop.get("/verify").status_code == 405
    assert shop.get("/nothing").status_code == 404
    assert shop.post("/settle", "no object").status_code == 400
    no_text = b'{"paymentRequirements": {"scheme": "\xff"}}'
    assert shop.http.post(f"{shop.url}/verify", content=no_text).status_code == 400
    assert shop.post("/settle", {"paymentPayload": "x" * 100_000}).status_code == 413


# ---- hosted gateways


async def test_a_hosted_gateway_is_registered_once(shop, local_chain: LocalChain):
    hosted = await hosted_gateway(shop.url, shop.vendor)
    assert (hosted.vendor, hosted.gateway, hosted.registered) == (str(shop.vendor), str(shop.gateway), True)


def test_registering_again_changes_nothing(shop, local_chain: LocalChain):
    vendor = local_chain.keys.get(f"vendor-{LEXICON.vendor}")
    network = local_chain.network
    before = local_chain.call(lambda client: client.gateway(shop.gateway))
    again = local_chain.call(lambda client: register_hosted_gateway(client, network, shop.url, vendor))
    assert again == shop.gateway
    assert local_chain.call(lambda client: client.gateway(shop.gateway)) == before


def test_the_command_registers_and_says_so(shop, relayer, local_chain, tmp_path, capsys):
    vendor = local_chain.keys.path(f"vendor-{LEXICON.vendor}")
    common = ["--facilitator", shop.url, "--rpc", local_chain.rpc_url]

    assert host(["host", *common, "--vendor-keypair", str(vendor), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"vendor": str(shop.vendor), "gateway": str(shop.gateway)}

    SigningKey.generate().save(tmp_path / "poor.json")
    assert host(["host", *common, "--vendor-keypair", str(tmp_path / "poor.json")]) == 1
    assert host(["host", *common, "--vendor-keypair", str(tmp_path / "none.json")]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("machpay.x402: ")) == ("", 2)


async def test_a_facilitator_that_is_away_is_named():
    with pytest.raises(FacilitatorError, match=r"http://127\.0\.0\.1:1/gateways/"):
        await hosted_gateway("http://127.0.0.1:1", Pubkey.new_unique())


@pytest.mark.parametrize("version", ["legacy", "v0"])
def test_only_the_registration_itself_is_co_signed(shop, version):
    vendor = SigningKey.generate().public
    gateway = Pubkey.from_string(shop.get(f"/gateways/{vendor}").json()["gateway"])
    wanted = register_gateway(shop.network, gateway=gateway, authority=vendor)
    drain = transfer(TransferParams(from_pubkey=gateway, to_pubkey=vendor, lamports=1))

    def ask(payer: Pubkey, *instructions: Instruction) -> tuple[int, dict[str, str], bytes]:
        message = (
            MessageV0.try_compile(payer, list(instructions), [], Hash.new_unique())
            if version == "v0"
            else Message.new_with_blockhash(list(instructions), payer, Hash.new_unique())
        )
        raw = to_bytes_versioned(message)
        answer = shop.post(f"/gateways/{vendor}", {"message": base64.b64encode(raw).decode()})
        return answer.status_code, answer.json(), raw

    status, answer, raw = ask(vendor, wanted)
    assert (status, answer["gateway"]) == (200, str(gateway))
    assert verify(gateway, raw, bytes(Signature.from_string(answer["signature"])))
    for refused in (ask(vendor, wanted, drain), ask(gateway, wanted), ask(vendor, drain)):
        assert (refused[0], refused[1]["code"]) == (400, "malformed")
    for message in ("", "AAAA", "not base64", base64.b64encode(b"\x80" * 2000).decode()):
        assert shop.post(f"/gateways/{vendor}", {"message": message}).status_code == 400


def test_a_relayer_without_its_key_runs_no_facilitator(local_chain, tmp_path, django_db_setup):
    from tests.payments.relayer_client import RelayerClient, running_relayer

    with (
        running_relayer(local_chain, tmp_path) as server,
        RelayerClient(server.url, SigningKey.generate()) as client,
    ):
        answer = client.http.get("/facilitator/supported")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
