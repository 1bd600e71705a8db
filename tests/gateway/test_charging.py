"""Charged only if served: statuses, failing and hanging upstreams, streams, clients that hang up."""

import asyncio
import dataclasses
import os
import threading
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from machpay.protocol import x402
from machpay.protocol.requests import route_hash
from machpay_gateway.log.records import Accept
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import PRICE
from tests.gateway.logs import records
from tests.gateway.network_standin import NetworkStandIn
from tests.gateway.servers import Upstream

START = Callable[..., Any]
LOOK_UP = "/.well-known/machpay/payments/"
SLOW = "/paid?mode=slow"


async def settled_as(net: NetworkStandIn, digest: bytes) -> tuple[str, str, int]:
    await eventually(lambda: digest.hex() in net.items, "the payment is delivered")
    item = net.items[digest.hex()]
    return item["status"], item["charged"], item["http_status"]


@pytest.mark.parametrize("status", [302, 304, 404, 500, 503])
async def test_an_answer_that_is_no_success_is_passed_on_for_nothing(
    gateway: RunningGateway, net: NetworkStandIn, status: int
) -> None:
    payer = gateway.payer()
    target = f"/paid?mode=status-{status}"
    intent = payer.intent(target)
    answer = await gateway.get(target, headers=payer.headers(intent))
    assert answer.status == status
    assert (answer.response.success, answer.response.amount) == (False, "0")
    assert answer.response.extra["commitmentId"] == intent.digest.hex()
    assert answer.response.extra["servedTotal"] == "0"
    assert await settled_as(net, intent.digest) == ("void", "0", status)
    # The total that was signed for nothing still covers the next payment.
    again = await gateway.get("/paid", headers=payer.headers(payer.intent(cumulative=PRICE)))
    assert again.response.amount == str(PRICE)
    assert await gateway.committed(payer) == PRICE


async def test_a_void_payment_hands_its_voucher_to_the_relayer(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    target = "/paid?mode=status-500"
    intent = payer.intent(target, amount=9 * PRICE, cumulative=9 * PRICE)
    await gateway.get(target, headers=payer.headers(intent))
    await settled_as(net, intent.digest)
    (voucher,) = net.batches[-1].vouchers
    assert x402.parse_voucher(voucher).is_signed_by(payer.key.public)
    assert voucher["cumulative"] == str(9 * PRICE)


async def test_client_errors_are_charged_where_the_vendor_chose_so(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    for target, charged in (("/strict/a?mode=status-404", PRICE), ("/strict/a?mode=status-500", 0)):
        answer = await gateway.get(target, headers=payer.pay(target))
        assert answer.response.amount == str(charged)
    assert await gateway.committed(payer) == PRICE


async def test_an_upstream_that_is_down_is_502_for_nothing(start_gateway: START, net: NetworkStandIn) -> None:
    gateway = await start_gateway(upstream_url="http://127.0.0.1:1")
    payer = gateway.payer()
    intent = payer.intent()
    answer = await gateway.get("/paid", headers=payer.headers(intent))
    assert (answer.status, answer.json()["code"]) == (502, "upstream_unreachable")
    assert answer.response.success is False
    assert await settled_as(net, intent.digest) == ("void", "0", 502)
    assert (await gateway.get("/free")).status == 502


async def test_an_upstream_that_does_not_answer_in_time_is_504_for_nothing(
    start_gateway: START, net: NetworkStandIn
) -> None:
    gateway = await start_gateway(upstream="read_timeout_s = 0.2")
    payer = gateway.payer()
    intent = payer.intent("/paid?mode=slow")
    answer = await gateway.get("/paid?mode=slow", headers=payer.headers(intent))
    assert (answer.status, answer.json()["code"]) == (504, "upstream_timeout")
    assert await settled_as(net, intent.digest) == ("void", "0", 504)


async def test_an_upstream_that_wants_to_be_paid_itself_is_502(gateway: RunningGateway) -> None:
    payer = gateway.payer()
    target = "/paid?mode=status-402"
    answer = await gateway.get(target, headers=payer.pay(target))
    assert (answer.status, answer.json()["code"]) == (502, "upstream_payment_required")
    assert answer.response.success is False
    assert x402.REQUIRED_HEADER not in answer.headers
    assert (await gateway.get("/free?mode=status-402")).status == 502


async def test_an_answer_shorter_than_declared_is_502_for_nothing(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    intent = payer.intent("/paid?mode=short")
    answer = await gateway.get("/paid?mode=short", headers=payer.headers(intent))
    assert answer.status == 502
    assert await settled_as(net, intent.digest) == ("void", "0", 502)


async def test_a_chunked_answer_arrives_whole_and_is_charged(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    intent = payer.intent("/paid?mode=chunked")
    answer = await gateway.get("/paid?mode=chunked", headers=payer.headers(intent))
    assert answer.body == b"".join(b"piece %d\n" % number for number in range(5))
    assert await settled_as(net, intent.digest) == ("charged", "1000", 200)


async def test_a_stream_is_passed_on_as_it_comes_and_delivered_when_it_ended(
    gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    target = "/paid?mode=stream"
    intent = payer.intent(target)
    async with gateway.http.get(gateway.url + target, headers=payer.headers(intent)) as answer:
        assert answer.status == 200
        response = x402.decode_response(answer.headers[x402.RESPONSE_HEADER])
        assert (response.success, response.amount) == (True, "1000")
        assert await answer.content.readany() == b"data: first\n\n"
        # The charge is in the channel, but not yet final.
        assert await gateway.committed(payer) == PRICE
        assert (await gateway.get(LOOK_UP + intent.digest.hex())).json()["in_flight"] is True
        assert intent.digest.hex() not in net.items
        # Another payment in between, and another second: the receipt stays the one in the headers.
        assert (await gateway.get("/paid", headers=payer.pay())).status == 200
        await asyncio.sleep(1.1)
        upstream.release.set()
        assert await answer.content.read() == b"data: second\n\n"
    assert await settled_as(net, intent.digest) == ("charged", "1000", 200)
    assert net.items[intent.digest.hex()]["receipt"] == response.extra["receipt"]["signature"]


async def test_a_stream_that_breaks_off_is_not_charged_and_does_not_look_whole(
    gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    target = "/paid?mode=broken"
    intent = payer.intent(target)
    async with gateway.http.get(gateway.url + target, headers=payer.headers(intent)) as answer:
        assert await answer.content.readany() == b"first half"
        upstream.release.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    assert await settled_as(net, intent.digest) == ("void", "0", 502)
    assert await gateway.committed(payer) == 0
    assert (await gateway.get(LOOK_UP + intent.digest.hex())).json()["status"] == "void"


async def test_an_answer_waits_for_its_acceptance_to_be_on_the_disk_and_for_nothing_else(
    gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_is_free, sync = threading.Event(), os.fdatasync
    disk_is_free.set()

    def fdatasync(descriptor: int) -> None:
        assert disk_is_free.wait(60)
        sync(descriptor)

    monkeypatch.setattr("machpay_gateway.log.tail.os.fdatasync", fdatasync)
    payer, other = gateway.payer(), gateway.payer()
    # Two at a time, so that the disk is waited for in a thread.
    calls = [
        asyncio.create_task(gateway.get(SLOW, headers=p.headers(p.intent(SLOW)))) for p in (payer, other)
    ]
    await eventually(lambda: len(upstream.seen) == 2, "the requests reached the upstream")
    (path,) = (gateway.settings.data_dir / "log").glob("*.log")

    def accepted() -> int:
        return sum(type(record) is Accept for record, _ in records(path))

    await eventually(lambda: accepted() == 2, "their acceptance is on the disk")
    disk_is_free.clear()
    upstream.release.set()
    assert [(await call).status for call in calls] == [200, 200]
    late = asyncio.create_task(gateway.get("/paid", headers=payer.pay()))
    await eventually(lambda: len(upstream.seen) == 3, "the next request reached the upstream")
    assert await asyncio.wait([late], timeout=0.2) == (set(), {late})
    assert net.items == {}
    disk_is_free.set()
    assert (await late).status == 200
    await eventually(lambda: len(net.items) == 3, "all three are delivered")


async def test_a_client_that_hangs_up_before_the_answer_does_not_cancel_it(
    gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    target = "/paid?mode=slow"
    intent = payer.intent(target)
    call = asyncio.create_task(gateway.get(target, headers=payer.headers(intent)))
    await eventually(lambda: len(upstream.seen) == 1, "the request reached the upstream")
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    upstream.release.set()
    assert await settled_as(net, intent.digest) == ("charged", "1000", 200)
    found = (await gateway.get(LOOK_UP + intent.digest.hex())).json()
    assert (found["status"], found["receipt"]["charged"]) == ("served", "1000")


async def test_a_client_that_hangs_up_in_a_stream_is_charged_when_the_upstream_finished(
    gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    target = "/paid?mode=stream"
    intent = payer.intent(target)
    async with gateway.http.get(gateway.url + target, headers=payer.headers(intent)) as answer:
        await answer.content.readany()
        answer.close()
    upstream.release.set()
    assert await settled_as(net, intent.digest) == ("charged", "1000", 200)


async def test_a_client_that_hangs_up_in_its_own_request_pays_nothing(
    gateway: RunningGateway, upstream: Upstream
) -> None:
    payer = gateway.payer()
    headers = payer.headers(payer.intent("/paid", method="POST", body=b"x" * 100))
    _, writer = await asyncio.open_connection("127.0.0.1", URL(gateway.url).port)
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(["POST /paid HTTP/1.1", "Host: x", "Content-Length: 100", *lines, "", ""])
    writer.write(head.encode() + b"x" * 50)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await gateway.get("/free")).status == 200
    assert await gateway.committed(payer) == 0
    assert [seen[1] for seen in upstream.seen] == ["/free"]


async def test_a_streamed_upload_that_grows_too_large_pays_nothing(
    start_gateway: START, net: NetworkStandIn
) -> None:
    gateway = await start_gateway(upstream="max_body_bytes = 400000")
    payer = gateway.payer()
    intent = payer.intent("/paid", method="POST", bound_to=route_hash("POST", "/paid"))

    async def pieces() -> Any:
        for _ in range(5):
            yield b"x" * 100_000
            await asyncio.sleep(0.01)

    answer = await gateway.request("POST", "/paid", data=pieces(), headers=payer.headers(intent))
    assert answer.status == 413
    assert answer.response.success is False
    assert await settled_as(net, intent.digest) == ("void", "0", 413)


async def test_stopping_finishes_a_stream_and_hands_it_over(
    gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    target = "/paid?mode=stream"
    intent = payer.intent(target)
    async with gateway.http.get(gateway.url + target, headers=payer.headers(intent)) as answer:
        assert await answer.content.readany() == b"data: first\n\n"
        stopping = asyncio.create_task(gateway.stop())
        await asyncio.sleep(0.2)
        assert not stopping.done()
        upstream.release.set()
        assert await answer.content.read() == b"data: second\n\n"
    await stopping
    assert net.items[intent.digest.hex()]["charged"] == "1000"


async def test_a_stream_that_outlives_the_time_to_stop_keeps_its_charge(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    await gateway.stop()
    quick = msgspec.structs.replace(gateway.settings.gateway, shutdown_s=1.0)
    gateway.settings = dataclasses.replace(gateway.settings, gateway=quick)
    await gateway.start()
    payer = gateway.payer()
    target = "/paid?mode=endless"
    intent = payer.intent(target)
    async with gateway.http.get(gateway.url + target, headers=payer.headers(intent)) as answer:
        await answer.content.readany()
        async with asyncio.timeout(30):
            await gateway.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    assert intent.digest.hex() not in net.items
    await gateway.start()
    assert await settled_as(net, intent.digest) == ("charged", "1000", 200)


async def test_stopping_finishes_what_is_in_flight(
    gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    target = "/paid?mode=slow"
    intent = payer.intent(target)
    call = asyncio.create_task(gateway.get(target, headers=payer.headers(intent)))
    await eventually(lambda: len(upstream.seen) == 1, "the request reached the upstream")
    stopping = asyncio.create_task(gateway.stop())
    await asyncio.sleep(0.2)
    assert not stopping.done()
    upstream.release.set()
    answer = await call
    assert (answer.status, answer.response.amount) == (200, "1000")
    await stopping
    # Handed over before the process ended.
    assert net.items[intent.digest.hex()]["charged"] == "1000"
    assert not (gateway.settings.data_dir / "endpoint.json").exists()
