"""Paying a real gateway over real HTTP: prices, charges, concurrency, two processes on one key."""

import asyncio
from dataclasses import replace

import pytest

from machpay import MachPayClient, MachPayConfig
from machpay.client.errors import (
    GatewayMismatchError,
    GatewayUnreachableError,
    InsufficientBondError,
    PaymentRefusedError,
    PriceTooHighError,
)
from machpay.protocol.keys import SigningKey
from machpay.protocol.requests import MAX_BOUND_BODY_BYTES
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import PRICE, network
from tests.gateway.network_standin import Account


async def test_a_paid_call_is_served_charged_and_receipted(client, gateway, upstream, net):
    response = await client.pay_and_call(url=gateway.url + "/paid?x=1", method="GET")
    assert response.status_code == 200
    assert response.json() == {"path": "/paid?x=1", "body": 0}
    payment = response.payment
    assert (payment.amount, payment.charged, payment.served_total, payment.attempts) == (
        PRICE,
        PRICE,
        PRICE,
        1,
    )
    assert payment.gateway == gateway.settings.key.pubkey
    assert payment.vendor == str(gateway.settings.vendor)
    assert client.verify_receipt(payment.receipt, gateway=payment.gateway, digest=payment.digest)
    await eventually(lambda: net.charged == PRICE, "the relayer knows the charge")
    assert list(net.items) == [payment.digest.hex()]
    assert len(upstream.seen) == 1


async def test_the_price_is_learned_once_per_route_and_then_paid_up_front(client, gateway, upstream):
    for number in range(5):
        response = await client.pay_and_call(f"{gateway.url}/paid?x={number}")
        assert response.payment.charged == PRICE
    metrics = (await gateway.get("/metrics")).body.decode()
    counted = [line for line in metrics.splitlines() if line.startswith("machpay_gateway_requests_total")]
    assert sorted(line.rpartition("} ")[2] for line in counted) == ["1.0", "5.0"]


async def test_bodies_headers_and_parameters_reach_the_upstream_as_paid_for(client, gateway, upstream):
    response = await client.pay_and_call(
        gateway.url + "/paid", "POST", json={"text": "héllo"}, params={"q": "a b"}, headers={"X-Own": "1"}
    )
    assert response.payment.charged == PRICE
    method, target, headers, body = upstream.seen[-1]
    assert (method, target, body) == (
        "POST",
        "/paid?q=a+b",
        '{"text":"héllo"}'.encode(),
    ) or target == "/paid?q=a%20b"
    assert headers["x-own"] == "1" or headers["X-Own"] == "1"
    assert not [name for name in headers if name.lower().startswith("payment")]


@pytest.mark.parametrize(
    "target", ["/paid?", "/paid?a=%C3%BC&b=%2F", "/paid?a=1&a=2", "/paid?q=" + "x" * 4_000]
)
async def test_unusual_targets_are_signed_exactly_as_sent(client, gateway, target):
    response = await client.pay_and_call(gateway.url + target)
    assert (response.status_code, response.payment.charged) == (200, PRICE)


async def test_a_body_above_the_binding_limit_is_bound_to_its_route(client, gateway):
    response = await client.pay_and_call(
        gateway.url + "/paid", "POST", content=b"x" * (MAX_BOUND_BODY_BYTES + 1)
    )
    assert response.payment.charged == PRICE
    response = await client.pay_and_call(gateway.url + "/paid", "POST", content=b"x")
    assert response.payment.charged == PRICE


async def test_a_free_route_costs_nothing(client, gateway):
    response = await client.pay_and_call(gateway.url + "/free")
    assert (response.status_code, response.payment) == (200, None)


async def test_head_on_a_priced_route_tells_the_price_and_pays_nothing(client, gateway, net):
    response = await client.pay_and_call(gateway.url + "/paid", "HEAD")
    assert (response.status_code, response.payment) == (402, None)
    await client.pay_and_call(gateway.url + "/paid")
    assert (await client.pay_and_call(gateway.url + "/paid", "HEAD")).status_code == 402
    await eventually(lambda: net.charged == PRICE, "only the GET was charged")


@pytest.mark.parametrize("status", [301, 404, 500, 503])
async def test_what_is_not_served_is_not_charged(client, gateway, net, status):
    response = await client.pay_and_call(f"{gateway.url}/paid?mode=status-{status}")
    assert response.status_code == status
    assert (response.payment.charged, response.payment.served_total) == (0, 0)
    response = await client.pay_and_call(gateway.url + "/paid")
    assert response.payment.receipt.receipt.served_total == PRICE
    await eventually(lambda: len(net.items) == 2, "both are delivered")
    assert net.charged == PRICE


async def test_an_upstream_that_breaks_its_promise_costs_nothing(client, gateway):
    response = await client.pay_and_call(gateway.url + "/paid?mode=short")
    assert response.status_code == 502
    assert response.payment.charged == 0


async def test_sixteen_in_flight_are_charged_exactly(client, gateway, net):
    charges = []
    for _ in range(4):
        calls = (client.pay_and_call(f"{gateway.url}/paid?x={number}") for number in range(16))
        charges += [response.payment.charged for response in await asyncio.gather(*calls)]
    assert charges == [PRICE] * 64
    await eventually(lambda: net.charged == 64 * PRICE, "the relayer knows every charge")
    assert len(net.items) == 64


async def test_three_processes_on_one_key_are_all_served_and_charged_exactly(make_client, gateway, net):
    clients = [await make_client() for _ in range(3)]

    async def caller(client: MachPayClient) -> int:
        responses = [await client.pay_and_call(gateway.url + "/paid") for _ in range(10)]
        return sum(response.payment.charged for response in responses if response.payment)

    charges = await asyncio.gather(*(caller(client) for client in clients for _ in range(8)))
    assert charges == [10 * PRICE] * 24
    await eventually(lambda: net.charged == 240 * PRICE, "the relayer knows every charge")
    assert len(net.items) == 240


async def test_a_process_that_lost_its_state_needs_one_more_round_trip(make_client, gateway):
    first = await make_client()
    for _ in range(3):
        await first.pay_and_call(gateway.url + "/paid")
    second = await make_client()
    response = await second.pay_and_call(gateway.url + "/paid")
    assert (response.payment.attempts, response.payment.served_total) == (2, 4 * PRICE)
    assert (await second.pay_and_call(gateway.url + "/paid")).payment.attempts == 1


async def test_a_process_with_a_state_file_goes_on_where_it_stopped(key, gateway, tmp_path):
    config = MachPayConfig(key=key, network=network(), state_dir=tmp_path / "state")
    payments = []
    for _ in range(3):
        async with MachPayClient(config) as client:
            payments.append((await client.pay_and_call(gateway.url + "/paid")).payment)
    assert [payment.attempts for payment in payments if payment] == [1, 1, 1]
    assert [payment.served_total for payment in payments if payment] == [PRICE, 2 * PRICE, 3 * PRICE]


async def test_a_price_above_the_limit_is_not_signed(make_client, gateway, net):
    client = await make_client(max_price_atomic=PRICE - 1)
    with pytest.raises(PriceTooHighError) as raised:
        await client.pay_and_call(gateway.url + "/paid")
    assert (raised.value.price_atomic, raised.value.max_price_atomic) == (PRICE, PRICE - 1)
    with pytest.raises(PriceTooHighError):
        await client.pay_and_call(gateway.url + "/dear", max_price_atomic=4_999)
    assert (await client.pay_and_call(gateway.url + "/paid", max_price_atomic=PRICE)).payment.charged == PRICE
    await eventually(lambda: len(net.items) == 1, "only one payment was signed")


async def test_an_agent_without_enough_bond_is_told_so(client, key, gateway, net, upstream):
    net.accounts[key.pubkey] = Account(bond=PRICE - 1)
    with pytest.raises(InsufficientBondError) as raised:
        await client.pay_and_call(gateway.url + "/paid")
    assert raised.value.code == "insufficient_bond"
    assert upstream.seen == []
    net.accounts[key.pubkey].bond = PRICE
    await eventually_paid(client, gateway)


async def eventually_paid(client: MachPayClient, gateway: RunningGateway) -> None:
    for _ in range(600):
        try:
            assert (await client.pay_and_call(gateway.url + "/paid")).payment is not None
        except InsufficientBondError:
            await asyncio.sleep(0.05)
        else:
            return
    pytest.fail("never: paid after the top-up")


@pytest.mark.parametrize(("status", "code"), [("SUSPENDED", "agent_suspended"), ("SLASHED", "agent_slashed")])
async def test_other_refusals_carry_their_code(client, key, gateway, net, upstream, status, code):
    net.accounts[key.pubkey] = Account(status=status)
    with pytest.raises(PaymentRefusedError) as raised:
        await client.pay_and_call(gateway.url + "/paid")
    assert (raised.value.code, raised.value.attempts) == (code, 1)
    assert upstream.seen == []


async def test_while_the_bond_cannot_be_looked_up_the_same_bytes_are_sent_again(client, relay, net, upstream):
    net.down = True
    call = asyncio.create_task(client.pay_and_call(relay.url + "/paid"))
    await eventually(lambda: len(relay.seen) == 2, "the payment was sent")
    net.down = False
    response = await call
    assert (response.status_code, response.payment.attempts) == (200, 1)
    assert len(upstream.seen) == 1
    _unpaid, first, *again = relay.seen
    assert set(again) <= {first}


async def test_a_gateway_that_cannot_take_payments_now_is_not_handed_higher_and_higher_totals(
    make_client, gateway, net, upstream
):
    client = await make_client(busy_resends=0)
    net.down = True
    for _ in range(3):
        response = await client.pay_and_call(gateway.url + "/paid")
        assert (response.status_code, response.payment, response.charged) == (503, None, 0)
    channel = client._book.channel(gateway.settings.key.public)
    assert (channel.signed, channel.unresolved) == (PRICE, 0)
    net.down = False
    assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE
    assert channel.signed == PRICE
    assert len(upstream.seen) == 1


async def test_a_gateway_of_another_network_is_refused_before_anything_is_signed(
    make_client, gateway, net, upstream
):
    other = replace(network(), program_id=SigningKey(b"q" * 32).public)
    client = await make_client(network=other)
    with pytest.raises(GatewayMismatchError, match="program"):
        await client.pay_and_call(gateway.url + "/paid")
    assert upstream.seen == []


async def test_a_gateway_with_another_key_than_the_pinned_one_is_refused(make_client, gateway, upstream):
    client = await make_client(pinned={gateway.url: SigningKey.generate().pubkey})
    with pytest.raises(GatewayMismatchError, match="belongs to gateway"):
        await client.pay_and_call(gateway.url + "/paid")
    assert upstream.seen == []


async def test_an_address_where_nobody_listens_is_unreachable(client):
    with pytest.raises(GatewayUnreachableError, match="ConnectError"):
        await client.pay_and_call("http://127.0.0.1:9/paid")


async def test_a_payment_can_be_looked_up_by_its_digest(client, gateway):
    response = await client.pay_and_call(gateway.url + "/paid")
    lookup = await client.look_up(gateway.url, response.payment.digest)
    assert (lookup.status, lookup.in_flight) == ("served", False)
    assert client.verify_receipt(
        lookup.receipt, gateway=gateway.settings.key.pubkey, digest=response.payment.digest
    )
    assert (await client.look_up(gateway.url, bytes(32))).status == "unknown"
