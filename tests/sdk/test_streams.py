"""Streamed answers and repeated calls against a real gateway: paid once, or not at all."""

import asyncio

import pytest
from aiohttp import web

from machpay.client.errors import (
    GatewayUnreachableError,
    ResponseLostError,
    UnresolvedPaymentError,
)
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE
from tests.sdk.relay import Relay


def channel_of(client, gateway):
    return client._book.channel(gateway.settings.key.public)


async def test_pieces_arrive_while_the_upstream_still_writes(client, gateway, upstream, net):
    async with client.stream(gateway.url + "/paid?mode=stream") as response:
        assert (response.status_code, response.payment.charged) == (200, PRICE)
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"data: first\n\n"
        assert channel_of(client, gateway).unresolved == PRICE
        upstream.release.set()
        assert b"".join([piece async for piece in pieces]) == b"data: second\n\n"
    payment = response.payment
    assert client.verify_receipt(payment.receipt, gateway=payment.gateway, digest=payment.digest)
    assert (channel_of(client, gateway).unresolved, channel_of(client, gateway).served) == (0, PRICE)
    await eventually(lambda: net.charged == PRICE, "the relayer knows the charge")


async def test_lines_and_bodies_can_be_streamed_up_and_down(client, gateway, upstream):
    upstream.release.set()
    async with client.stream(gateway.url + "/paid?mode=stream", "POST", json={"q": 1}) as response:
        lines = [line async for line in response.aiter_lines() if line]
    assert lines == ["data: first", "data: second"]
    assert (upstream.seen[-1][0], upstream.seen[-1][3]) == ("POST", b'{"q":1}')


async def test_a_caller_that_stops_reading_has_paid_and_goes_on(client, gateway, upstream):
    async with client.stream(gateway.url + "/paid?mode=stream") as response:
        assert await anext(response.aiter_bytes()) == b"data: first\n\n"
    assert channel_of(client, gateway).unresolved == 0
    upstream.release.set()
    assert (await client.pay_and_call(gateway.url + "/paid")).payment.served_total == 2 * PRICE


async def test_an_answer_that_the_upstream_breaks_off_costs_nothing(client, gateway, upstream):
    async with client.stream(gateway.url + "/paid?mode=broken") as response:
        assert response.payment.charged == PRICE
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"first half"
        upstream.release.set()
        with pytest.raises(ResponseLostError) as raised:
            await anext(pieces)
    assert (raised.value.charged, raised.value.digest) == (0, response.payment.digest)
    assert raised.value.receipt.is_signed_by(gateway.settings.key.public)
    channel = channel_of(client, gateway)
    assert (channel.unresolved, channel.served) == (0, 0)
    assert (await client.pay_and_call(gateway.url + "/paid")).payment.served_total == PRICE


async def test_a_free_route_streams_too(client, gateway, upstream):
    async with client.stream(gateway.url + "/free?mode=stream") as response:
        assert response.payment is None
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"data: first\n\n"
        upstream.release.set()
        assert await anext(pieces) == b"data: second\n\n"


async def test_a_free_answer_that_breaks_off_is_unreachable(client, gateway, upstream):
    async with client.stream(gateway.url + "/free?mode=broken") as response:
        upstream.release.set()
        with pytest.raises(GatewayUnreachableError):
            await response.aread()


async def test_a_failure_is_read_and_costs_nothing(client, gateway):
    async with client.stream(gateway.url + "/paid?mode=status-503") as response:
        assert (response.status_code, response.text, response.charged) == (503, "status-503", 0)


async def test_an_error_inside_the_block_closes_the_answer(client, gateway, upstream):
    with pytest.raises(KeyError):
        async with client.stream(gateway.url + "/paid?mode=stream") as response:
            raise KeyError
    assert response.is_closed
    assert channel_of(client, gateway).unresolved == 0


# ---- repeating


async def test_a_failure_that_charged_nothing_is_repeated_as_often_as_allowed(client, gateway, net, upstream):
    response = await client.pay_and_call(gateway.url + "/paid?mode=status-503", retries=2)
    assert (response.status_code, response.charged, len(upstream.seen)) == (503, 0, 3)
    assert channel_of(client, gateway).signed == PRICE
    response = await client.pay_and_call(gateway.url + "/paid?mode=status-404", retries=2)
    assert (response.status_code, len(upstream.seen)) == (404, 4)


async def test_success_after_failure_is_charged_once(client, gateway, net, upstream):
    fail = iter([True, True, False])

    async def sometimes(request):
        return web.Response(status=502 if next(fail) else 200)

    upstream._sometimes = sometimes
    response = await client.pay_and_call(gateway.url + "/paid?mode=sometimes", retries=5)
    assert (response.status_code, response.payment.served_total) == (200, PRICE)
    await eventually(lambda: len(net.items) == 3, "all three are delivered")
    assert net.charged == PRICE


async def test_a_lost_answer_that_was_charged_is_not_repeated(start_gateway, make_client, net, upstream):
    gateway = await start_gateway(upstream="\n[responses]\nmax_bytes = 0")
    async with Relay(gateway.url) as relay:
        client = await make_client(resends=0)
        assert (await client.pay_and_call(relay.url + "/paid")).charged == PRICE
        relay.plan.extend(["cut after"])
        with pytest.raises(ResponseLostError) as raised:
            await client.pay_and_call(relay.url + "/paid", retries=3)
    assert raised.value.charged == PRICE
    await eventually(lambda: net.charged == 2 * PRICE, "the relayer knows both")
    assert len(upstream.seen) == 2


async def test_an_unknown_outcome_is_asked_for_again_under_one_identifier(make_client, relay, net, upstream):
    client = await make_client(timeout_s=1.0)
    assert (await client.pay_and_call(relay.url + "/paid")).charged == PRICE
    call = asyncio.create_task(client.pay_and_call(relay.url + "/paid?mode=slow", retries=20))
    await eventually(lambda: len(relay.seen) > 8, "the client has asked more than once")
    upstream.release.set()
    response = await call
    assert (response.json(), response.payment.charged) == ({"late": True}, PRICE)
    assert response.payment.attempts == 1
    await eventually(lambda: net.charged == 2 * PRICE, "the relayer knows both")
    assert [target for _method, target, *_ in upstream.seen] == ["/paid", "/paid?mode=slow"]
    # Nothing of the call is left open: the next payment is accepted as it is.
    assert (await client.pay_and_call(relay.url + "/paid")).payment.served_total == 3 * PRICE


async def test_without_retries_an_unknown_outcome_is_reported(make_client, relay, upstream):
    client = await make_client(timeout_s=1.0)
    assert (await client.pay_and_call(relay.url + "/paid")).charged == PRICE
    with pytest.raises(UnresolvedPaymentError):
        await client.pay_and_call(relay.url + "/paid?mode=slow")
    assert len(upstream.seen) == 2


async def test_what_never_arrived_is_repeated(make_client, relay, upstream):
    client = await make_client(resends=0)
    relay.plan.extend(["cut before", "pass"])
    assert (await client.pay_and_call(relay.url + "/free", retries=1)).status_code == 200
    assert len(upstream.seen) == 1


async def test_many_streams_at_once_are_charged_exactly(client, gateway, net, upstream):
    upstream.release.set()

    async def read() -> int:
        async with client.stream(gateway.url + "/paid?mode=chunked") as response:
            return len(await response.aread())

    assert await asyncio.gather(*(read() for _ in range(16))) == [40] * 16
    await eventually(lambda: net.charged == 16 * PRICE, "the relayer knows every charge")
