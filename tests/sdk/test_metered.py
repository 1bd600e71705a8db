"""Metered prices: the ceiling is signed, what was used is charged, and a stream says at its end what it cost."""

import asyncio

import pytest

from machpay import MachPayConfig
from machpay.sync import MachPayClient as BlockingClient
from tests.gateway.conftest import eventually
from tests.gateway.factories import ROUTES, network

METERED = f'{ROUTES}\n[[routes]]\npath = "/metered"\nprice_atomic = 1000\nmetered = true\n'


@pytest.fixture
async def gateway(start_gateway):
    return await start_gateway(routes=METERED)


async def test_a_whole_answer_costs_what_the_vendor_names(client, gateway, net):
    response = await client.pay_and_call(gateway.url + "/metered?mode=metered&amount=250")
    payment = response.payment
    assert (payment.amount, payment.charged, payment.is_final) == (1_000, 250, True)
    # What was not charged is there for the next call.
    response = await client.pay_and_call(gateway.url + "/metered?mode=metered&amount=1000")
    assert (response.charged, response.payment.served_total) == (1_000, 1_250)
    await eventually(lambda: net.charged == 1_250, "the relayer knows what was used")


async def test_a_stream_names_its_ceiling_first_and_its_cost_at_the_end(client, gateway, upstream, net):
    url = gateway.url + "/metered?mode=trailer&amount=420"
    async with client.stream(url) as response:
        pieces = response.aiter_bytes()
        first = await anext(pieces)
        assert (response.payment.is_final, response.charged, response.payment.receipt) == (False, 1_000, None)
        upstream.release.set()
        rest = b"".join([piece async for piece in pieces])
    assert (first + rest).decode().split() == ["first", "second"]
    assert (response.payment.is_final, response.charged) == (True, 420)
    assert client.verify_receipt(
        response.payment.receipt, gateway=response.payment.gateway, digest=response.payment.digest
    )
    assert client._book.channel(gateway.settings.key.public).unresolved == 0
    await eventually(lambda: net.charged == 420, "the relayer knows what was used")


async def test_a_stream_that_is_read_at_once_is_final_too(client, gateway, upstream):
    upstream.release.set()
    response = await client.pay_and_call(gateway.url + "/metered?mode=trailer&amount=77")
    assert (response.payment.is_final, response.charged) == (True, 77)


async def test_telemetry_counts_what_a_stream_has_cost_in_the_end(make_client, gateway, upstream):
    client = await make_client(receiver_url="http://127.0.0.1:9")
    upstream.release.set()
    for amount in (5, 60):
        async with client.stream(f"{gateway.url}/metered?mode=trailer&amount={amount}") as response:
            await response.aread()
    (entry,) = client._telemetry._interactions.values()
    assert (entry.attempts, entry.success, entry.spend_atomic) == (2, 2, 65)


async def test_the_blocking_client_sees_the_final_cost(key, gateway, upstream):
    upstream.release.set()

    def work() -> tuple[bool, int]:
        with (
            BlockingClient(MachPayConfig(key=key, network=network())) as client,
            client.stream(gateway.url + "/metered?mode=trailer&amount=5") as response,
        ):
            assert b"".join(response.iter_bytes())
            payment = response.payment
            assert payment is not None
            return payment.is_final, response.charged

    assert await asyncio.to_thread(work) == (True, 5)


async def test_what_a_stream_has_cost_is_heard_of_after_its_reader_left(client, gateway, upstream):
    async def read_a_piece() -> None:
        async with client.stream(gateway.url + "/metered?mode=trailer&amount=420") as response:
            async for _piece in response.aiter_bytes():
                has_read.set()
                break

    has_read = asyncio.Event()
    reading = asyncio.create_task(read_a_piece())
    channel = client._book.channel(gateway.settings.key.public)
    await eventually(has_read.is_set, "it reads")
    # It waits in vain for the end of a stream that goes on, and is cancelled there or before.
    await asyncio.wait([reading], timeout=0.3)
    reading.cancel()
    await asyncio.wait([reading])
    upstream.release.set()
    await eventually(lambda: channel.unresolved == 0, "the receipt is heard of")
    assert channel.served == 420
