"""What the gateway tells about itself: the packet, its logs, and what becomes of events while the receiver is away."""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from machpay.protocol.keys import SigningKey
from machpay_gateway.runtime import Runtime
from machpay_gateway.telemetry.log_events import BURST, LogEvents
from machpay_gateway.telemetry.packet import GcPauses, by_path
from machpay_gateway.telemetry.spill import Spill
from machpay_gateway.telemetry.traffic import Latencies, Period, RouteTraffic
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import PRICE, ROUTES, make_settings
from tests.gateway.network_standin import NetworkStandIn

TELEMETRY = "com.machpay.gateway.telemetry"
QUICK = ROUTES + "\n[telemetry]\nperiod_s = 0.2\n"
LITTLE_ROOM = ROUTES + "\n[telemetry]\nspill_bytes = 65536\n"
Start = Callable[..., Any]


def packets(net: NetworkStandIn) -> list[dict[str, Any]]:
    return [event["data"] for event in net.reports if event["type"] == TELEMETRY]


def metric(text: bytes, name: str) -> float:
    (line,) = [line for line in text.decode().splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


async def test_the_packets_add_up_to_what_happened(start_gateway: Start, net: NetworkStandIn) -> None:
    gateway: RunningGateway = await start_gateway(routes=QUICK)
    payer = gateway.payer()
    for _ in range(3):
        assert (await gateway.get("/paid", headers=payer.pay())).status == 200
    twice = payer.pay()
    assert (await gateway.get("/paid", headers=twice)).status == 200
    assert (await gateway.request("POST", "/paid", data=b"x")).status == 402
    assert (
        await gateway.get("/paid?mode=status-500", headers=payer.pay("/paid?mode=status-500"))
    ).status == 500
    assert (await gateway.get("/free")).status == 200
    assert (
        await gateway.get("/paid", headers=payer.headers(payer.intent(), signature=bytes(64)))
    ).status == 402
    poor = gateway.payer()
    net.accounts[poor.key.pubkey] = type(net.default)(bond=0)
    assert (await gateway.get("/dear", headers=poor.pay("/dear", price=5_000))).status == 402
    assert (await gateway.get("/nowhere")).status == 404

    def told() -> dict[str, Any]:
        routes: dict[str, dict[str, int]] = {}
        for packet in packets(net):
            for path, counts in packet["business"]["routes"].items():
                for status, count in counts.items():
                    if status != "latency_p99":
                        routes.setdefault(path, {}).setdefault(status, 0)
                        routes[path][status] += count
        return routes

    expected = {"/paid": {"200": 4, "402": 2, "500": 1}, "/free": {"200": 1}, "/dear": {"402": 1}}
    await eventually(lambda: told() == expected, f"every answer is told: {told()}")

    def total(name: str) -> int:
        return sum(packet["business"][name] for packet in packets(net))

    assert total("total_revenue") == 4 * PRICE
    names = ("solvency_rejects", "replay_attacks_blocked", "signature_failures")
    assert [total(name) for name in names] == [1, 0, 1]
    latencies = [
        route["latency_p99"] for packet in packets(net) for route in packet["business"]["routes"].values()
    ]
    assert all(0 < latency < 60_000 for latency in latencies)


async def test_a_packet_has_exactly_the_agreed_shape(start_gateway: Start, net: NetworkStandIn) -> None:
    gateway: RunningGateway = await start_gateway(routes=QUICK)
    await gateway.get("/paid")
    await eventually(lambda: len(packets(net)) >= 3, "packets")
    first, *later = packets(net)
    assert list(first) == [
        *("source", "gateway_id", "period_start", "period_end"),
        *("config", "system", "network", "business"),
    ]
    assert (first["source"], first["gateway_id"]) == ("gateway", gateway.settings.key.pubkey)
    assert first["config"]["accepted_mint"] == str(gateway.settings.network.mint)
    assert first["config"]["price_per_unit"] == PRICE
    assert set(first["system"]) == {
        *("cpu_usage_percent", "ram_usage_mb", "goroutines", "gc_pause_ns", "uptime_seconds")
    }
    assert first["system"]["ram_usage_mb"] > 10
    assert first["system"]["goroutines"] > 3
    assert set(first["network"]) == {"bytes_in", "bytes_out", "active_connections"}
    assert set(first["business"]) == {
        *("total_revenue", "routes", "solvency_rejects", "replay_attacks_blocked", "signature_failures")
    }
    assert set(first["business"]["routes"].get("/paid", {"402": 1, "latency_p99": 1})) == {
        "402",
        "latency_p99",
    }
    assert all("config" not in packet for packet in later)
    for before, after in zip([first, *later], later, strict=False):
        assert before["period_end"] == after["period_start"] < after["period_end"]
    assert sum(packet["network"]["bytes_in"] for packet in packets(net)) > 0


async def test_warnings_become_events_and_nothing_below(start_gateway: Start, net: NetworkStandIn) -> None:
    await start_gateway()
    logger = logging.getLogger("machpay_gateway.delivery")
    logger.info("nobody needs this")
    logger.warning("the %s is\x00 odd", "relayer")
    try:
        raise RuntimeError("inner")
    except RuntimeError:
        logger.exception("it broke")

    def logs() -> list[dict[str, Any]]:
        return [event["data"] for event in net.reports if event["type"] == "com.machpay.log"]

    await eventually(lambda: len(logs()) == 2, "two log events")
    assert logs() == [
        {"level": "warning", "msg": "the relayer is  odd", "fields": {"logger": "machpay_gateway.delivery"}},
        {
            "level": "error",
            "msg": "it broke",
            "fields": {"logger": "machpay_gateway.delivery", "exception": "RuntimeError: inner"},
        },
    ]


async def test_a_flood_of_warnings_is_cut_off_and_counted() -> None:
    seen: list[dict[str, Any]] = []
    with LogEvents(lambda _kind, _subject, data, *_rest: seen.append(data())) as handler:
        for number in range(BURST + 50):
            logging.getLogger("somewhere").warning("line %d", number)
        await asyncio.sleep(0)
        assert [event["msg"] for event in seen] == [f"line {number}" for number in range(BURST)]
        # A minute later.
        handler._at -= 60
        logging.getLogger("somewhere").error("after the flood")
        logging.getLogger("machpay_gateway.events").error("about sending")
        await asyncio.sleep(0)
    assert seen[-1]["fields"] == {"logger": "somewhere", "suppressed": 50}
    logging.getLogger("somewhere").error("nobody listens")
    await asyncio.sleep(0)
    assert len(seen) == BURST + 1


async def pay(gateway: RunningGateway, payer: Any, count: int) -> list[str]:
    """Pay; the digests, which are the events' ids."""
    digests = []
    for _ in range(count):
        answer = await gateway.get("/paid", headers=payer.pay())
        assert answer.status == 200, (answer.response.error_reason, answer.response.extra)
        digests.append(str(answer.response.extra["commitmentId"]))
    return digests


def authorized(net: NetworkStandIn) -> list[str]:
    return [event["id"] for event in net.events if event["type"].endswith("payment.authorized")]


async def test_events_outlast_an_outage_and_a_restart_in_order(
    start_gateway: Start, net: NetworkStandIn
) -> None:
    gateway: RunningGateway = await start_gateway()
    payer = gateway.payer()
    paid = await pay(gateway, payer, 2)
    await eventually(lambda: authorized(net) == paid, "the first events")
    net.receiver_down = True
    paid += await pay(gateway, payer, 3)
    spill = gateway.settings.data_dir / "spill"
    health: dict[str, Any] = {}

    async def on_disk() -> bool:
        health.update((await gateway.get("/health")).json())
        return bool(health["components"]["receiver"]["on_disk"] >= 3)

    await eventually(on_disk, "what the receiver did not take is on disk")
    assert health["status"] == "degraded"
    assert any(spill.iterdir())
    paid += await pay(gateway, payer, 2)
    await gateway.stop()
    net.receiver_down = False
    await gateway.start()
    paid += await pay(gateway, payer, 2)
    await eventually(lambda: len(authorized(net)) >= len(paid), f"all events: {authorized(net)}")
    assert authorized(net) == paid
    await eventually(lambda: list(spill.iterdir()) == [], "the disk is empty again")
    shown = (await gateway.get("/metrics")).body
    assert metric(shown, "machpay_gateway_events_dropped_total") == 0
    assert metric(shown, "machpay_gateway_events_waiting") == 0
    assert metric(shown, "machpay_gateway_events_disk_bytes") == 0
    assert metric(shown, "machpay_gateway_events_sent_total") >= 7


async def test_what_has_no_room_is_dropped_oldest_first_counted_and_said(
    start_gateway: Start, net: NetworkStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    # Many payments at once, more than one lease is for.
    gateway: RunningGateway = await start_gateway(routes=LITTLE_ROOM, solvency='mode = "optimistic"')
    payer = gateway.payer()
    net.receiver_down = True
    paid = await pay(gateway, payer, 120)
    await gateway.stop()
    assert "events dropped so far: the receiver is away and there is no more room on disk" in caplog.text
    net.receiver_down = False
    await gateway.start()
    await eventually(lambda: paid[-1] in authorized(net), "the latest event arrives")
    kept = authorized(net)
    assert 0 < len(kept) < len(paid)
    assert kept == paid[-len(kept) :]


async def test_what_is_dropped_while_the_gateway_stops_is_counted_too(
    start_gateway: Start,
    net: NetworkStandIn,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began, finish = threading.Event(), threading.Event()
    append = Spill.append

    def slow(spill: Spill, events: Sequence[bytes]) -> int:
        began.set()
        finish.wait(60)
        return append(spill, events)

    gateway: RunningGateway = await start_gateway(routes=LITTLE_ROOM, solvency='mode = "optimistic"')
    payer = gateway.payer()
    net.receiver_down = True
    monkeypatch.setattr(Spill, "append", slow)
    await pay(gateway, payer, 120)
    await eventually(began.is_set, "events go to the disk")
    stopping = asyncio.create_task(gateway.stop())
    # Long enough for the sender to be cancelled in the middle of it.
    await asyncio.sleep(0.1)
    finish.set()
    await stopping
    assert "events dropped so far: the receiver is away and there is no more room on disk" in caplog.text


async def test_the_start_says_what_it_found_and_serves_all_the_same(
    start_gateway: Start, net: NetworkStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "machpay_gateway.startup")
    net.down = True
    gateway: RunningGateway = await start_gateway()
    assert (await gateway.get("/free")).status == 200
    for what in ("relayer", "receiver"):
        words = f"{what} is away, until it is back"
        await eventually(lambda words=words: words in caplog.text, words)
    await gateway.stop()
    net.down = False
    await gateway.start()
    for what in ("relayer", "receiver"):
        words = f"{what} is well: {net.url}: ok"
        await eventually(lambda words=words: words in caplog.text, words)


async def test_an_agent_that_runs_out_is_told_of(start_gateway: Start, net: NetworkStandIn) -> None:
    gateway: RunningGateway = await start_gateway(routes=QUICK)
    payer = gateway.payer()
    net.accounts[payer.key.pubkey] = type(net.default)(bond=5 * PRICE)
    await pay(gateway, payer, 3)

    def told() -> list[dict[str, Any]]:
        return [event for event in net.events if event["type"] == "com.machpay.agent.insolvency_risk"]

    await eventually(lambda: bool(told()), "the risk is told")
    assert told()[0]["subject"] == payer.key.pubkey
    data = told()[0]["data"]
    assert int(data["remaining_balance"]) < int(data["burn_rate_1h"]) <= 3 * PRICE


async def test_metrics_show_the_state_now(gateway: RunningGateway, net: NetworkStandIn) -> None:
    await eventually(lambda: bool(net.heartbeats), "a heartbeat")
    payer = gateway.payer()
    await pay(gateway, payer, 2)
    await eventually(lambda: len(net.items) == 2, "delivered")
    shown = b""

    async def read() -> bool:
        nonlocal shown
        shown = (await gateway.get("/metrics")).body
        return (
            metric(shown, "machpay_gateway_undelivered") == 0
            and metric(shown, "machpay_gateway_registered") == 1
        )

    await eventually(read, "everything is delivered, and the relayer knows the gateway")
    assert metric(shown, "machpay_gateway_log_healthy") == 1
    assert metric(shown, "machpay_gateway_channels") == 1
    assert metric(shown, "machpay_gateway_registered") == 1
    assert metric(shown, "machpay_gateway_connections") >= 1
    assert metric(shown, "machpay_gateway_received_bytes_total") > 500
    assert metric(shown, "machpay_gateway_sent_bytes_total") > 500
    assert metric(shown, "machpay_gateway_heartbeat_age_seconds") < 30
    assert f'gateway="{gateway.settings.key.pubkey}"'.encode() in shown


async def test_payments_go_on_when_only_the_telling_has_stopped(tmp_path: Path, net: NetworkStandIn) -> None:
    async with Runtime(make_settings(tmp_path, SigningKey(b"g" * 32), network_url=net.url)) as runtime:
        for name, status in (("packets", "degraded"), ("delivery", "down")):
            runtime._stopped[name] = "stopped: an error"
            overall, components = runtime.health()
            assert (overall, components[name]["status"]) == (status, status)


def test_latencies_are_at_most_a_step_too_high() -> None:
    latencies = Latencies()
    for number in range(1, 1_001):
        latencies.add(number / 10)
    assert latencies.p99() == pytest.approx(99.0, rel=0.051)
    assert Latencies().p99() is None
    tiny = Latencies()
    tiny.add(0)
    assert tiny.p99() == 0.05


def test_methods_of_one_path_are_told_together() -> None:
    period = Period()
    for label, status, count in (
        ("GET /a", 200, 2),
        ("POST /a", 200, 1),
        ("POST /a", 402, 4),
        ("unlisted", 200, 9),
        ("GET /a b", 200, 1),
    ):
        route = period.routes.setdefault(label, RouteTraffic())
        route.statuses[status] += count
        for _ in range(count):
            route.latencies.add(1.0)
    told = {path: dict(route.statuses) for path, route in by_path(period).items()}
    assert told == {"unlisted": {200: 9}, "/a": {200: 3, 402: 4}, "/a b": {200: 1}}


def test_a_garbage_collection_is_timed() -> None:
    with GcPauses() as pauses:
        began = time.perf_counter_ns()
        gc.collect()
        took = time.perf_counter_ns() - began
        assert 0 < pauses.take_ns() <= took
        assert pauses.take_ns() == 0
