"""The caller's own payment identifier: across processes and crashes a call is served and charged once."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from machpay.client.errors import ConfigError, GatewayMismatchError
from machpay.sync import MachPayClient as BlockingClient
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE, network
from tests.sdk.scripted import Scripted

ROOT = Path(__file__).parents[2]
IDENTIFIER = "order-0123456789-abcdef"


async def test_the_same_identifier_is_answered_from_memory_in_another_process(
    make_client, gateway, net, upstream
):
    first, second = await make_client(), await make_client()
    url = gateway.url + "/paid?x=1"
    one = await first.pay_and_call(url, payment_id=IDENTIFIER)
    again = await second.pay_and_call(url, payment_id=IDENTIFIER)
    assert (one.json(), one.payment.is_repeated) == (again.json(), False)
    assert (again.payment.is_repeated, again.payment.digest) == (True, one.payment.digest)
    assert again.payment.receipt == one.payment.receipt
    own = await first.pay_and_call(url, payment_id=IDENTIFIER)
    assert own.payment.is_repeated
    assert len(upstream.seen) == 1
    await eventually(lambda: net.charged == PRICE, "one charge")
    # The totals of both go on as if nothing had happened.
    for client, total in ((first, 2), (second, 3)):
        assert (await client.pay_and_call(gateway.url + "/paid")).payment.served_total == total * PRICE


async def test_another_request_under_the_identifier_is_a_conflict(client, gateway, net, upstream):
    await client.pay_and_call(gateway.url + "/paid?x=1", payment_id=IDENTIFIER)
    response = await client.pay_and_call(gateway.url + "/paid?x=2", payment_id=IDENTIFIER)
    assert (response.status_code, response.json()["code"]) == (409, "identifier_conflict")
    assert response.payment is None
    assert len(upstream.seen) == 1
    assert await gateway.committed(gateway.payer(client._key)) == PRICE


async def test_a_call_that_came_to_nothing_frees_its_identifier(client, gateway, upstream):
    failed = await client.pay_and_call(gateway.url + "/paid?mode=status-503", payment_id=IDENTIFIER)
    assert (failed.status_code, failed.charged) == (503, 0)
    again = await client.pay_and_call(gateway.url + "/paid?mode=status-503", payment_id=IDENTIFIER)
    assert (again.status_code, again.charged) == (503, 0)
    assert len(upstream.seen) == 2


async def test_a_stream_under_an_identifier_is_repeated_too(make_client, gateway, upstream):
    url = gateway.url + "/paid?mode=chunked"
    bodies = []
    for _ in range(2):
        client = await make_client()
        async with client.stream(url, payment_id=IDENTIFIER) as response:
            bodies.append(b"".join([piece async for piece in response.aiter_bytes()]))
    assert bodies[0] == bodies[1] == b"".join(b"piece %d\n" % number for number in range(5))
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("identifier", ["short", "x" * 129, "spaces are not good", "umlaut-äöü-0123456789"])
async def test_an_identifier_that_no_gateway_takes_is_refused_before_anything_is_sent(
    client, gateway, upstream, identifier
):
    with pytest.raises(ConfigError, match="payment_id"):
        await client.pay_and_call(gateway.url + "/paid", payment_id=identifier)
    assert upstream.seen == []


async def test_a_gateway_that_knows_no_identifiers_is_not_paid_under_one(make_client):
    server = Scripted(network=network())
    await server.start()
    try:
        client = await make_client()
        with pytest.raises(GatewayMismatchError, match="identifiers"):
            await client.pay_and_call(server.url + "/x", payment_id=IDENTIFIER)
        assert server.paid == []
    finally:
        await server.stop()


async def test_the_blocking_client_takes_one_too(key, gateway, upstream):
    from machpay import MachPayConfig

    def work() -> list[bool]:
        with BlockingClient(MachPayConfig(key=key, network=network())) as client:
            answers = [client.pay_and_call(gateway.url + "/paid", payment_id=IDENTIFIER) for _ in range(2)]
            return [answer.payment is not None and answer.payment.is_repeated for answer in answers]

    assert await asyncio.to_thread(work) == [False, True]
    assert len(upstream.seen) == 1


PROCESS = """
import asyncio, json, sys
from pathlib import Path
from machpay import MachPayClient, MachPayConfig
from machpay.protocol.keys import SigningKey
from tests.gateway.factories import network

async def main(key, state, url, identifier):
    config = MachPayConfig(key=SigningKey.load(key), network=network(), state_dir=Path(state), timeout_s=30)
    async with MachPayClient(config) as client:
        response = await client.pay_and_call(url, payment_id=identifier)
        print(json.dumps({"body": response.json(), "charged": response.charged}), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_that_is_killed_while_it_pays_does_not_pay_twice(
    key, gateway, net, upstream, tmp_path
):
    key.save(tmp_path / "key.json")

    def start() -> "subprocess.Popen[str]":
        arguments = [tmp_path / "key.json", tmp_path, gateway.url + "/paid?mode=slow", IDENTIFIER]
        return subprocess.Popen(
            [sys.executable, "-c", PROCESS, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    # Killed while the upstream works on it, twice; the third process gets the answer.
    for _ in range(2):
        process = start()
        await eventually(lambda: len(upstream.seen) == 1, "the payment is being served")
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.communicate)
    third = start()
    upstream.release.set()
    out, err = await asyncio.to_thread(third.communicate)
    assert third.returncode == 0, err
    assert json.loads(out) == {"body": {"late": True}, "charged": PRICE}
    assert len(upstream.seen) == 1
    await eventually(lambda: net.charged == PRICE, "charged once")
    assert await gateway.committed(gateway.payer(key)) == PRICE
