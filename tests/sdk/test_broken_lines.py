"""When the line breaks: a call is paid at most once, and its outcome is found out or reported as unknown."""

import asyncio
import time
from dataclasses import dataclass

import pytest
from aiohttp import web

from machpay.client.errors import (
    GatewayUnreachableError,
    ReceiptError,
    ResponseLostError,
    UnresolvedPaymentError,
)
from machpay.protocol.identifiers import DECLARATION, EXTENSION
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE, network
from tests.sdk.model import GATEWAY
from tests.sdk.relay import Relay
from tests.sdk.scripted import Scripted


@pytest.fixture
async def warm(make_client, relay):
    """A client that knows the price and has paid once."""
    client = await make_client(timeout_s=1.0)
    await client.pay_and_call(relay.url + "/paid")
    return client


async def test_a_request_that_never_arrived_is_sent_again(warm, relay, upstream, net):
    relay.plan.append("cut before")
    response = await warm.pay_and_call(relay.url + "/paid")
    assert (response.payment.charged, response.payment.attempts) == (PRICE, 1)
    first, second = relay.seen[-2:]
    assert first == second
    await eventually(lambda: net.charged == 2 * PRICE, "one charge per call")
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("spoil", ["cut after", "swallow", "cut body", "twice"])
async def test_an_answer_that_was_lost_is_fetched_again_and_not_paid_again(warm, relay, upstream, net, spoil):
    relay.plan.append(spoil)
    response = await warm.pay_and_call(relay.url + "/paid?x=1")
    assert (response.status_code, response.json()) == (200, {"path": "/paid?x=1", "body": 0})
    assert (response.payment.charged, response.payment.served_total) == (PRICE, 2 * PRICE)
    await eventually(lambda: net.charged == 2 * PRICE, "the lost one was charged once")
    assert len(upstream.seen) == 2
    assert (await warm.pay_and_call(relay.url + "/paid")).payment.served_total == 3 * PRICE


async def test_a_failure_whose_answer_was_lost_is_told_and_costs_nothing(warm, relay, upstream):
    relay.plan.append("cut after")
    response = await warm.pay_and_call(relay.url + "/paid?mode=status-500")
    assert (response.status_code, response.charged) == (500, 0)
    assert len(upstream.seen) == 2


@pytest.fixture
async def forgetful(start_gateway, make_client):
    """A gateway that keeps no answers, a client that has paid it once, and the line between them."""
    gateway = await start_gateway(upstream="\n[responses]\nmax_bytes = 0")
    async with Relay(gateway.url) as line:
        client = await make_client(timeout_s=2.0)
        await client.pay_and_call(line.url + "/paid")
        yield client, line


@pytest.mark.parametrize("spoil", ["cut after", "swallow", "cut body"])
async def test_an_answer_that_is_no_longer_kept_is_reported_with_its_receipt(forgetful, upstream, net, spoil):
    client, line = forgetful
    line.plan.append(spoil)
    with pytest.raises(ResponseLostError) as raised:
        await client.pay_and_call(line.url + "/paid")
    assert raised.value.charged == PRICE
    assert raised.value.receipt.receipt.digest == raised.value.digest
    await eventually(lambda: net.charged == 2 * PRICE, "the lost one was charged once")
    assert len(upstream.seen) == 2
    assert (await client.pay_and_call(line.url + "/paid")).payment.served_total == 3 * PRICE


async def test_a_slow_upstream_is_unresolved_until_it_answers(warm, relay, upstream, gateway):
    with pytest.raises(UnresolvedPaymentError) as raised:
        await warm.pay_and_call(relay.url + "/paid?mode=slow")
    digest = raised.value.digest
    lookup = await warm.look_up(relay.url, digest)
    assert (lookup.status, lookup.in_flight, lookup.receipt) == ("unknown", True, None)
    channel = warm._book.channel(gateway.settings.key.public)
    assert channel.unresolved == PRICE
    other = await warm.pay_and_call(relay.url + "/paid")
    assert other.payment.served_total == 2 * PRICE
    assert channel.unresolved == PRICE
    upstream.release.set()

    async def served() -> bool:
        return (await warm.look_up(relay.url, digest)).status == "served"

    await eventually(served, "it is served")
    assert channel.unresolved == 0
    assert (await warm.pay_and_call(relay.url + "/paid")).payment.served_total == 4 * PRICE


async def test_a_payment_that_cannot_be_looked_up_now_is_unresolved_until_it_can(warm, relay, gateway):
    relay.plan.extend(["cut after", *["cut before"] * 20])
    with pytest.raises(UnresolvedPaymentError) as raised:
        await warm.pay_and_call(relay.url + "/paid")
    channel = warm._book.channel(gateway.settings.key.public)
    assert channel.unresolved == PRICE
    relay.plan.clear()
    assert (await warm.look_up(relay.url, raised.value.digest)).status == "served"
    assert channel.unresolved == 0


async def test_a_connection_that_was_never_made_leaves_nothing_behind(make_client, relay, gateway):
    client = await make_client(resends=0)
    await client.pay_and_call(relay.url + "/paid")
    channel = client._book.channel(gateway.settings.key.public)
    await relay.__aexit__()
    # The pooled connection is closed by now, or breaks with the first request; then none can be made.
    for _ in range(3):
        with pytest.raises((GatewayUnreachableError, UnresolvedPaymentError)) as raised:
            await client.pay_and_call(relay.url + "/paid")
    assert isinstance(raised.value, GatewayUnreachableError)
    assert channel.unresolved <= PRICE


async def test_a_cancelled_call_stays_counted(warm, relay, upstream, gateway):
    call = asyncio.create_task(warm.pay_and_call(relay.url + "/paid?mode=slow"))
    await eventually(lambda: len(upstream.seen) == 2, "the upstream was asked")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    channel = warm._book.channel(gateway.settings.key.public)
    assert channel.unresolved == PRICE
    upstream.release.set()
    assert (await warm.pay_and_call(relay.url + "/paid")).payment.charged == PRICE


async def test_a_restarted_gateway_goes_on_being_paid(make_client, gateway, net):
    client = await make_client()
    await client.pay_and_call(gateway.url + "/paid")
    await gateway.stop()
    with pytest.raises(GatewayUnreachableError):
        await client.pay_and_call(gateway.url + "/paid")
    await gateway.start()
    response = await client.pay_and_call(gateway.url + "/paid")
    assert response.payment.served_total == 2 * PRICE
    await eventually(lambda: net.charged == 2 * PRICE, "both charges arrived")


async def test_a_repeated_call_that_nobody_answers_any_more_is_still_unresolved(make_client, relay, gateway):
    """Its first payment was served, the answer was lost, and then the gateway was gone: not "nothing was sent"."""
    client = await make_client(timeout_s=1.0)
    await client.pay_and_call(relay.url + "/paid")
    channel = client._book.channel(gateway.settings.key.public)
    relay.plan.extend(["cut after", *["cut before"] * 20])
    call = asyncio.create_task(client.pay_and_call(relay.url + "/paid", retries=1))
    await eventually(lambda: channel.unresolved == PRICE and len(relay.plan) < 15, "it is looked up in vain")
    await relay.__aexit__()
    with pytest.raises(UnresolvedPaymentError) as raised:
        await call
    error = raised.value
    assert PRICE <= channel.unresolved == PRICE * (1 + len(error.earlier))
    found = [await client.look_up(gateway.url, digest) for digest in (*error.earlier, error.digest)]
    assert "served" in [one.status for one in found]


async def test_a_payment_of_which_nobody_can_tell_is_not_called_free(client, scripted_behind_a_proxy):
    """A proxy answers for the gateway, which serves meanwhile, and the look-up is answered by the proxy too."""
    server = scripted_behind_a_proxy
    with pytest.raises(UnresolvedPaymentError) as raised:
        await client.pay_and_call(server.url + "/x")
    assert raised.value.digest == server.paid[0].intent.digest
    assert client._book.channel(GATEWAY.public).unresolved == PRICE


async def test_an_answer_of_success_of_which_nobody_can_tell_is_not_called_free(
    client, scripted_behind_a_proxy
):
    """Something between drops the gateway's word and answers the look-up itself."""
    server = scripted_behind_a_proxy
    server.bare = lambda arrived: web.Response(text="data")
    with pytest.raises(ReceiptError) as raised:
        await client.pay_and_call(server.url + "/x")
    assert (raised.value.response.text, raised.value.digest) == ("data", server.paid[0].intent.digest)
    assert client._book.channel(GATEWAY.public).unresolved == PRICE


@pytest.mark.parametrize(("remembers_s", "is_settled"), [(0, False), (3_600, True)])
async def test_unknown_is_free_only_if_the_gateway_would_still_know_it(make_client, remembers_s, is_settled):
    """Something between answers for the gateway; the gateway itself has no such payment (any more)."""
    server = Scripted(network=network(), extensions={EXTENSION: DECLARATION}, remembers_s=remembers_s)
    server.bare = lambda arrived: web.Response(status=504)
    await server.start()
    client = await make_client(resends=0)
    try:
        if is_settled:
            response = await client.pay_and_call(server.url + "/x")
            assert (response.status_code, response.payment) == (504, None)
        else:
            with pytest.raises(UnresolvedPaymentError):
                await client.pay_and_call(server.url + "/x")
    finally:
        await server.stop()
    assert client._book.channel(GATEWAY.public).unresolved == (0 if is_settled else PRICE)


async def test_a_busy_gateway_is_asked_again_when_it_says_and_no_longer(make_client, busy):
    began = time.monotonic()
    client = await make_client(busy_wait_s=2.5)
    response = await client.pay_and_call(busy.url + "/x")
    assert (response.status_code, response.payment) == (503, None)
    # Twice a second of waiting fit; the same bytes each time, so that it could have been charged once at most.
    assert len({arrived.header for arrived in busy.paid}) == 1
    assert len(busy.paid) == 3
    assert time.monotonic() - began >= 2
    assert client._book.channel(GATEWAY.public).unresolved == 0


async def test_a_gateway_that_wants_more_patience_than_there_is_is_not_waited_for(make_client, busy):
    busy.wait = "3600"
    client = await make_client()
    response = await client.pay_and_call(busy.url + "/x")
    assert (response.status_code, len(busy.paid)) == (503, 1)


async def test_how_often_a_busy_gateway_is_asked_again_is_bounded(make_client, busy):
    busy.wait = "0"
    client = await make_client(busy_resends=2)
    assert (await client.pay_and_call(busy.url + "/x")).status_code == 503
    assert len(busy.paid) == 3
    busy.calm_after = 5
    assert (await client.pay_and_call(busy.url + "/x")).payment.charged == PRICE
    assert len(busy.paid) == 5


@pytest.fixture
async def busy():
    """A gateway that takes nothing now: 503 with `Retry-After`, until it has seen `calm_after` payments."""
    server = BusyGateway(network=network())
    server.bare = server.put_off
    await server.start()
    yield server
    await server.stop()


@dataclass
class BusyGateway(Scripted):
    wait: str = "1"
    calm_after: int = 1_000

    def put_off(self, arrived):
        calm = len(self.paid) >= self.calm_after
        return None if calm else web.Response(status=503, headers={"Retry-After": self.wait})


@pytest.fixture
async def scripted_behind_a_proxy():
    server = Unreachable(network=network(), extensions={EXTENSION: DECLARATION})
    server.bare = lambda arrived: web.Response(status=504)
    await server.start()
    yield server
    await server.stop()


class Unreachable(Scripted):
    async def _look_up(self, request):
        return web.Response(status=503, headers={"Retry-After": "1"})
