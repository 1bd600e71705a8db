"""The stock Python clients of the `x402` package pay a real gateway with our scheme classes."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
import requests
from x402 import x402Client, x402ClientSync
from x402.http.clients.httpx import PaymentError, x402HttpxClient
from x402.http.clients.requests import PaymentError as RequestsPaymentError
from x402.http.clients.requests import x402_requests

from machpay import Budgets, MachPayConfig, Proposal
from machpay.client.errors import (
    ApprovalDeniedError,
    BudgetExceededError,
    ConfigError,
    GatewayExposureError,
    GatewayMismatchError,
    NotAllowedError,
    PriceTooHighError,
)
from machpay.client.receipts import ReceiptFile
from machpay.client.store import state_path
from machpay.protocol.keys import SigningKey
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.requests import request_hash
from machpay.protocol.x402 import RESPONSE_HEADER, SIGNATURE_HEADER, decode_response
from machpay.x402 import MachPayScheme, MachPaySchemeSync
from machpay.x402.client import NETWORKS
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import PRICE, ROUTES, network
from tests.sdk.scripted import Scripted, changed


def a_config(key: SigningKey, **settings: Any) -> MachPayConfig:
    return MachPayConfig(**{"key": key, "network": network(), **settings})


def an_httpx_client(config: MachPayConfig) -> x402HttpxClient:
    return x402HttpxClient(x402Client().register(NETWORKS, MachPayScheme(config)))


def a_session(config: MachPayConfig) -> requests.Session:
    return x402_requests(x402ClientSync().register(NETWORKS, MachPaySchemeSync(config)))


def charged(answer: Any) -> int:
    """What the answer's receipt says was taken."""
    return SignedReceipt.from_json(
        decode_response(answer.headers[RESPONSE_HEADER]).extra["receipt"]
    ).receipt.charged


async def test_httpx_pays_with_method_query_and_body(key, gateway, upstream, net):
    async with an_httpx_client(a_config(key)) as http:
        first = await http.get(gateway.url + "/paid?x=1")
        second = await http.post(gateway.url + "/paid?y=%C3%BC", json={"text": "hello"})
        free = await http.get(gateway.url + "/free")
    assert (first.status_code, second.status_code, free.status_code) == (200, 200, 200)
    assert (charged(first), charged(second)) == (PRICE, PRICE)
    assert RESPONSE_HEADER not in free.headers
    assert [(method, target) for method, target, *_ in upstream.seen] == [
        ("GET", "/paid?x=1"),
        ("POST", "/paid?y=%C3%BC"),
        ("GET", "/free"),
    ]
    await eventually(lambda: net.charged == 2 * PRICE, "the relayer knows both charges")


async def test_requests_pays_too(key, gateway, upstream, net):
    def work() -> list[Any]:
        with a_session(a_config(key)) as session:
            return [
                session.get(gateway.url + "/paid?x=1"),
                session.post(gateway.url + "/paid", json={"text": "hello"}),
                session.get(gateway.url + "/paid?x=2"),
            ]

    answers = await asyncio.to_thread(work)
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [charged(answer) for answer in answers] == [PRICE, PRICE, PRICE]
    await eventually(lambda: net.charged == 3 * PRICE, "the relayer knows all three charges")


@pytest.mark.parametrize("budgets", [Budgets(), Budgets(per_call_atomic=PRICE, per_day_atomic=2 * PRICE)])
async def test_httpx_recovers_after_its_state_is_lost(key, gateway, budgets):
    async with an_httpx_client(a_config(key)) as http:
        for number in range(3):
            assert charged(await http.get(f"{gateway.url}/paid?x={number}")) == PRICE
    # The signature that was too low authorised nothing: no budget pays for it.
    async with an_httpx_client(a_config(key, budgets=budgets)) as http:
        answer = await http.get(gateway.url + "/paid")
        assert (answer.status_code, charged(answer)) == (200, PRICE)
        # The total is known again: no correction is needed any more.
        answer = await http.get(gateway.url + "/paid")
        assert (answer.status_code, charged(answer)) == (200, PRICE)
    assert await gateway.committed(gateway.payer(key)) == 5 * PRICE


async def test_requests_recovers_after_its_state_is_lost(key, gateway):
    def work() -> list[int]:
        with a_session(a_config(key)) as session:
            return [session.get(gateway.url + "/paid").status_code for _ in range(2)]

    assert await asyncio.to_thread(work) == [200, 200]
    assert await asyncio.to_thread(work) == [200, 200]
    assert await gateway.committed(gateway.payer(key)) == 4 * PRICE


async def test_the_stock_client_and_ours_pay_with_one_key_in_turn(key, gateway, client):
    async with an_httpx_client(a_config(key)) as http:
        for _ in range(4):
            assert charged(await http.get(gateway.url + "/paid")) == PRICE
            assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE
    assert await gateway.committed(gateway.payer(key)) == 8 * PRICE


async def test_totals_and_receipts_are_kept_where_our_own_client_keeps_them(
    key, gateway, make_client, tmp_path
):
    config = a_config(key, state_dir=tmp_path)
    scheme = MachPayScheme(config)
    async with x402HttpxClient(x402Client().register(NETWORKS, scheme)) as http:
        for _ in range(3):
            assert charged(await http.get(gateway.url + "/paid")) == PRICE
    scheme.close()
    kept = list(ReceiptFile(state_path(tmp_path, key.pubkey, network(), "receipts.jsonl")).lines())
    assert len(kept) == 3
    ours = await make_client(state_dir=tmp_path)
    response = await ours.pay_and_call(gateway.url + "/paid")
    assert (response.payment.attempts, response.payment.served_total) == (1, 4 * PRICE)


async def test_nothing_is_charged_for_what_was_not_served(key, gateway):
    async with an_httpx_client(a_config(key)) as http:
        failed = await http.get(gateway.url + "/paid?mode=status-503")
        assert (failed.status_code, charged(failed)) == (503, 0)
        served = await http.get(gateway.url + "/paid")
        assert (served.status_code, charged(served)) == (200, PRICE)
    assert await gateway.committed(gateway.payer(key)) == PRICE


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"max_price_atomic": PRICE - 1}, PriceTooHighError),
        ({"budgets": Budgets(per_call_atomic=PRICE - 1)}, BudgetExceededError),
        ({"budgets": Budgets(allowed_vendors=[SigningKey(b"x" * 32).pubkey])}, NotAllowedError),
        ({"budgets": Budgets(approve=lambda proposal: False)}, ApprovalDeniedError),
        ({"network": replace(network(), mint=SigningKey(b"n" * 32).public)}, None),
    ],
)
async def test_the_agents_own_rules_hold_before_anything_is_signed(key, gateway, upstream, settings, kind):
    async with an_httpx_client(a_config(key, **settings)) as http:
        with pytest.raises(PaymentError) as caught:
            await http.get(gateway.url + "/paid")
    if kind is not None:
        assert type(caught.value.__cause__) is kind
    with a_session(a_config(key, **settings)) as session, pytest.raises(RequestsPaymentError) as blocking:
        await asyncio.to_thread(session.get, gateway.url + "/paid")
    assert kind is None or type(blocking.value.__cause__) is kind
    assert upstream.seen == []
    assert await gateway.committed(gateway.payer(key)) == 0


async def test_a_day_budget_stops_the_stock_client(key, gateway, tmp_path):
    config = a_config(key, state_dir=tmp_path, budgets=Budgets(per_day_atomic=2 * PRICE))
    async with an_httpx_client(config) as http:
        for _ in range(2):
            assert charged(await http.get(gateway.url + "/paid")) == PRICE
    async with an_httpx_client(config) as http:
        with pytest.raises(PaymentError) as caught:
            await http.get(gateway.url + "/paid")
    assert isinstance(caught.value.__cause__, BudgetExceededError)
    assert await gateway.committed(gateway.payer(key)) == 2 * PRICE


async def test_approval_may_be_asked_of_a_coroutine(key, gateway):
    asked: list[Proposal] = []

    async def approve(proposal: Proposal) -> bool:
        asked.append(proposal)
        return True

    config = a_config(key, budgets=Budgets(approve=approve))
    async with an_httpx_client(config) as http:
        assert charged(await http.get(gateway.url + "/paid?q=1")) == PRICE
    assert [(p.url, p.price_atomic) for p in asked] == [(gateway.url + "/paid", PRICE)]
    with a_session(config) as session, pytest.raises(RequestsPaymentError) as caught:
        await asyncio.to_thread(session.get, gateway.url + "/paid")
    assert isinstance(caught.value.__cause__, ConfigError)


async def test_approval_is_asked_once_although_a_lost_state_takes_two_signatures(key, gateway, client):
    asked: list[int] = []

    def approve(proposal: Proposal) -> bool:
        asked.append(proposal.price_atomic)
        return True

    assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE
    async with an_httpx_client(a_config(key, budgets=Budgets(approve=approve))) as http:
        assert charged(await http.get(gateway.url + "/paid")) == PRICE
        assert asked == [PRICE]
        assert charged(await http.get(gateway.url + "/paid")) == PRICE
    assert asked == [PRICE, PRICE]


def test_an_allow_list_of_origins_is_refused_because_a_scheme_sees_none(key):
    with pytest.raises(ConfigError, match="allowed_vendors"):
        MachPayScheme(a_config(key, budgets=Budgets(allowed_origins=["https://api.example"])))


@pytest.fixture
async def scripted():
    server = Scripted(network=network())
    await server.start()
    yield server
    await server.stop()


async def test_a_total_that_nothing_proves_is_not_followed(key, scripted):
    scripted.refuse = lambda arrived: "cumulative_too_low"
    scripted.correct = lambda arrived: {"committedTotal": "5000000"}
    async with an_httpx_client(a_config(key)) as http:
        with pytest.raises(PaymentError) as caught:
            await http.get(scripted.url + "/paid")
    assert isinstance(caught.value.__cause__, GatewayExposureError)
    assert (len(scripted.paid), scripted.signed) == (1, PRICE)


async def test_a_gateway_that_hashes_the_request_otherwise_is_paid_once_more(key, scripted):
    stale = b"\x77" * 32
    scripted.change_offer = changed(request_hash=stale)

    def refuse(arrived: Any) -> str | None:
        return "request_mismatch" if arrived.intent.request_hash == stale else None

    scripted.refuse = refuse
    # From the second 402 on the gateway names the right hash.
    original = scripted._required

    def required(offer: Any, code: str, extra: dict[str, object]) -> Any:
        if code == "request_mismatch":
            offer = replace(offer, request_hash=b"\x78" * 32)
        return original(offer, code, extra)

    scripted._required = required  # type: ignore[method-assign]
    async with an_httpx_client(a_config(key)) as http:
        answer = await http.get(scripted.url + "/paid")
    assert answer.status_code == 200
    assert [arrived.intent.request_hash for arrived in scripted.paid] == [stale, b"\x78" * 32]


async def test_an_offer_of_another_deployment_is_not_paid(key, scripted):
    scripted.change_offer = changed(program_id=SigningKey(b"q" * 32).public)
    async with an_httpx_client(a_config(key)) as http:
        with pytest.raises(PaymentError) as caught:
            await http.get(scripted.url + "/paid")
    assert isinstance(caught.value.__cause__, GatewayMismatchError)
    assert scripted.paid == []


async def test_version_1_of_x402_gets_a_clear_answer(gateway: RunningGateway, upstream):
    async with httpx.AsyncClient() as http:
        answer = await http.get(gateway.url + "/paid", headers={"X-PAYMENT": "eyJ4NDAyVmVyc2lvbiI6MX0="})
    assert answer.status_code == 400
    problem = answer.json()
    assert problem["code"] == "x402_version"
    assert SIGNATURE_HEADER in problem["detail"]
    assert "version 2" in problem["detail"]
    assert upstream.seen == []


async def test_the_gateway_tells_a_scheme_what_the_request_is_hashed_to(key, gateway, upstream):
    payer = gateway.payer(key)
    answer = await gateway.get("/paid?x=2", headers=payer.pay("/paid?x=1"))
    assert (answer.status, answer.response.error_reason) == (402, "request_mismatch")
    assert answer.response.extra["requestHash"] == request_hash("GET", "/paid?x=2").hex()
    assert answer.response.extra["binding"] == "request"
    assert upstream.seen == []


async def test_a_metered_stream_is_paid_and_the_next_total_is_learned(key, start_gateway, upstream, caplog):
    routes = f'{ROUTES}\n[[routes]]\npath = "/metered"\nprice_atomic = 1000\nmetered = true\n'
    gateway = await start_gateway(routes=routes)
    upstream.release.set()
    async with an_httpx_client(a_config(key)) as http:
        answer = await http.get(gateway.url + "/metered?mode=trailer&amount=70")
        assert (answer.status_code, answer.text.split()) == (200, ["first", "second"])
        answer = await http.get(gateway.url + "/paid")
        assert charged(answer) == PRICE
    assert await gateway.committed(gateway.payer(key)) == 70 + PRICE
    assert [record for record in caplog.records if record.name.startswith("machpay.x402")] == []


async def test_the_stock_clients_own_cap_knows_the_token(key, start_gateway, upstream):
    """A dollar a payment, which it can only tell from the asset's decimals."""
    routes = "".join(
        f'\n[[routes]]\nmethod = "GET"\npath = "/{name}"\nprice_atomic = {price}\n'
        for name, price in (("dollar", 1_000_000), ("more", 1_000_001))
    )
    gateway = await start_gateway(routes=routes)
    async with an_httpx_client(a_config(key, max_price_atomic=10**9)) as http:
        assert charged(await http.get(gateway.url + "/dollar")) == 1_000_000
        with pytest.raises(PaymentError, match="spend_controls"):
            await http.get(gateway.url + "/more")
    assert len(upstream.seen) == 1
