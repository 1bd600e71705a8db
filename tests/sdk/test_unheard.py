"""Payments whose caller has gone: every charge gets its receipt all the same."""

import asyncio

import pytest

from machpay import MachPayClient, MachPayConfig
from machpay.client.receipts import KeptReceipt
from machpay.client.store import state_path
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE, network


def charges(client: MachPayClient) -> list[int]:
    assert client.receipts is not None
    return [KeptReceipt.from_line(line).signed.receipt.charged for line in client.receipts.lines()]


async def cancelled_in_the_upstream(client: MachPayClient, gateway, upstream) -> None:
    served = len(upstream.seen)
    call = asyncio.create_task(client.pay_and_call(gateway.url + "/paid?mode=slow"))
    await eventually(lambda: len(upstream.seen) > served, "the upstream was asked")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_cancelled_calls_receipt_arrives_later(make_client, gateway, upstream, tmp_path):
    client = await make_client(state_dir=tmp_path)
    await client.pay_and_call(gateway.url + "/paid")
    await cancelled_in_the_upstream(client, gateway, upstream)
    channel = client._book.channel(gateway.settings.key.public)
    assert (channel.unresolved, charges(client)) == (PRICE, [PRICE])
    upstream.release.set()
    await eventually(lambda: charges(client) == [PRICE, PRICE], "the receipt is heard of")
    assert (channel.unresolved, channel.served) == (0, 2 * PRICE)
    assert (await client.pay_and_call(gateway.url + "/paid")).payment.served_total == 3 * PRICE


async def test_a_client_that_closes_asks_once_more(key, gateway, upstream, net, tmp_path, monkeypatch):
    monkeypatch.setattr("machpay.client.unheard.FIRST_PAUSE_S", 600)
    config = MachPayConfig(key=key, network=network(), state_dir=tmp_path, timeout_s=60.0)
    async with MachPayClient(config) as client:
        await cancelled_in_the_upstream(client, gateway, upstream)
        upstream.release.set()
        await eventually(lambda: net.charged == PRICE, "the call has ended")
    assert charges(client) == [PRICE]


async def test_a_payment_that_another_process_still_waits_for_is_counted_once(
    make_client, gateway, upstream, tmp_path, monkeypatch
):
    first = await make_client(state_dir=tmp_path)
    call = asyncio.create_task(first.pay_and_call(gateway.url + "/paid?mode=slow"))
    await eventually(lambda: len(upstream.seen) == 1, "the upstream was asked")
    monkeypatch.setattr("machpay.client.unheard.CLOCK_SKEW_S", -600)
    second = await make_client(state_dir=tmp_path)
    unheard = second._exchange.unheard
    await eventually(lambda: len(unheard._waiting) == 1, "it knows the payment")
    upstream.release.set()
    assert (await call).charged == PRICE
    await eventually(lambda: not unheard._waiting, "it has heard of it")
    assert charges(second) == [PRICE]


async def test_a_file_that_cannot_be_read_stops_no_payment(key, gateway, tmp_path):
    config = MachPayConfig(key=key, network=network(), state_dir=tmp_path, timeout_s=60.0)
    state_path(tmp_path, key.pubkey, network(), "sent.jsonl").mkdir()
    async with MachPayClient(config) as client:
        assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE
    assert charges(client) == [PRICE]
