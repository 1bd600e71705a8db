"""The agent's packets, sent signed to a receiver over real HTTP; trouble with it touches no call."""

import asyncio
import time
from collections import deque

import pytest
from aiohttp import web

from machpay.client import telemetry
from machpay.client.errors import (
    GatewayUnreachableError,
    PaymentRefusedError,
    PriceTooHighError,
    UnresolvedPaymentError,
)
from machpay.client.telemetry import MAX_VENDORS, MAX_WAITING, p99
from machpay.protocol.signed_requests import verify_request
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE
from tests.gateway.servers import serve


class Receiver:
    """Keeps what it takes; answers `status`."""

    def __init__(self):
        self.events, self.status, self.asked, self.url = [], 202, 0, ""

    async def ingest(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        signer = verify_request("POST", request.path_qs, body, headers, now=time.time())
        assert headers["content-type"] == "application/cloudevents-batch+json"
        self.asked += 1
        if self.status == 202:
            events = await request.json()
            assert all(event["source"] == f"agent:{signer.pubkey}" for event in events)
            self.events += events
        return web.Response(status=self.status)


@pytest.fixture
async def receiver():
    receiver, app = Receiver(), web.Application()
    app.router.add_post("/v1/ingest", receiver.ingest)
    server = await serve(app)
    receiver.url = server.url
    yield receiver
    await server.stop()


async def test_a_packet_counts_every_call_by_vendor(make_client, gateway, receiver, key, monkeypatch):
    client = await make_client(receiver_url=receiver.url)
    for _ in range(2):
        await client.pay_and_call(gateway.url + "/paid")
    await client.pay_and_call(gateway.url + "/paid?mode=status-503")
    with pytest.raises(PriceTooHighError):
        await client.pay_and_call(gateway.url + "/dear", max_price_atomic=1)
    assert receiver.events == []
    await client.__aexit__(None, None, None)
    (event,) = receiver.events
    assert (event["type"], event["data"]["agent_id"]) == ("com.machpay.sdk.telemetry", key.pubkey)
    data = event["data"]
    assert data["period_start"] <= data["period_end"]
    assert data["wallet"] == {
        "sol_balance_lamports": None,
        "usdc_balance_atomic": None,
        "low_balance_warnings": 0,
    }
    paid = data["interactions"].pop(str(gateway.settings.vendor))
    assert paid.pop("vendor_latency_p99") > 0 < paid.pop("payment_latency_p99")
    assert paid == {"attempts": 3, "success": 2, "errors": {"http_503": 1}, "spend_atomic": 2 * PRICE}
    (unpaid,) = data["interactions"].values()
    assert (unpaid["errors"], unpaid["vendor_latency_p99"]) == ({"PriceTooHighError": 1}, None)


async def test_packets_go_out_every_period_and_start_anew(make_client, gateway, receiver, monkeypatch):
    monkeypatch.setattr(telemetry, "PERIOD_S", 0.02)
    client = await make_client(receiver_url=receiver.url)
    await client.pay_and_call(gateway.url + "/paid")
    await eventually(lambda: any(e["data"]["interactions"] for e in receiver.events), "a packet of the call")
    seen = len(receiver.events)
    await eventually(lambda: len(receiver.events) > seen + 2, "more packets")
    told = [entry for e in receiver.events for entry in e["data"]["interactions"].values()]
    assert [entry["spend_atomic"] for entry in told] == [PRICE]


async def test_packets_wait_for_a_receiver_that_is_away_and_the_oldest_are_dropped(
    make_client, gateway, receiver, monkeypatch, caplog
):
    monkeypatch.setattr(telemetry, "PERIOD_S", 0.005)
    receiver.status = 503
    client = await make_client(receiver_url=receiver.url)
    await eventually(lambda: client._telemetry.dropped >= 3, "some are dropped")
    assert len(client._telemetry._waiting) <= MAX_WAITING + 1
    assert "telemetry packets dropped so far: the receiver is away" in caplog.text
    assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE
    receiver.status = 202
    await eventually(lambda: len(receiver.events) > MAX_WAITING, "what waited arrives")
    assert len({event["id"] for event in receiver.events}) == len(receiver.events)


@pytest.mark.parametrize("status", [400, 503])
async def test_a_last_packet_that_is_not_taken_is_counted_as_dropped(make_client, gateway, receiver, status):
    receiver.status = status
    client = await make_client(receiver_url=receiver.url)
    await client.pay_and_call(gateway.url + "/free")
    await client.__aexit__(None, None, None)
    assert (receiver.asked, client._telemetry.dropped) == (1, 1)


async def test_a_client_that_called_nobody_has_nothing_to_tell(make_client, receiver):
    client = await make_client(receiver_url=receiver.url)
    await asyncio.sleep(0)
    await client.__aexit__(None, None, None)
    assert receiver.asked == 0


async def test_no_receiver_no_packets_and_an_unreachable_one_hurts_nobody(make_client, gateway):
    assert (await make_client())._telemetry is None
    client = await make_client(receiver_url="http://127.0.0.1:9")
    assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE


async def test_vendors_beyond_the_limit_are_counted_together(make_client, receiver):
    client = await make_client(receiver_url=receiver.url)
    await asyncio.sleep(0)
    for number in range(MAX_VENDORS + 5):
        client._telemetry.called(str(number), payment_ms=1, vendor_ms=None, spend_atomic=1, error=None)
    await client.__aexit__(None, None, None)
    interactions = receiver.events[0]["data"]["interactions"]
    assert (len(interactions), interactions["other"]["attempts"]) == (MAX_VENDORS + 1, 5)


def test_the_99th_percentile_is_a_sample():
    assert p99(deque()) is None
    assert p99(deque([7.0])) == 7.0
    assert p99(deque(float(number) for number in range(1, 201))) == 198.0


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (GatewayUnreachableError("http://h", "ConnectTimeout: no connection"), "timeout"),
        (GatewayUnreachableError("http://Timeout", "ConnectError: refused"), "GatewayUnreachableError"),
        (UnresolvedPaymentError("u", digest=b"", deadline=0, detail="ReadTimeout: no answer"), "timeout"),
        (PaymentRefusedError("insufficient_bond", gateway="g", digest=b"", attempts=1), "insufficient_bond"),
        (PaymentRefusedError("cumulative_too_low", gateway="g", digest=b"", attempts=16), "402_loop_failed"),
    ],
)
def test_failures_have_the_names_that_receivers_know(error, name):
    assert telemetry.error_name(error) == name
