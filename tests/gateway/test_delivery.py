"""Delivery: in order, each once, through outages, rejections and restarts."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from machpay.protocol.settlements import ItemResult, decode_item
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import PRICE, Payer
from tests.gateway.network_standin import NetworkStandIn

START = Callable[..., Any]


async def pay(gateway: RunningGateway, count: int, payer: Payer | None = None) -> list[str]:
    """Pay `count` times as one agent; the digests. The gateway then knows the agent, also while the relayer is away."""
    payer = payer or gateway.payer()
    digests = []
    for _ in range(count):
        intent = payer.intent()
        answer = await gateway.get("/paid", headers=payer.headers(intent))
        assert answer.status == 200, answer.body
        digests.append(intent.digest.hex())
    return digests


async def test_payments_arrive_in_order_with_consecutive_numbers_and_the_highest_voucher(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    digests = await pay(gateway, 30)
    await eventually(lambda: len(net.items) == 30, "all are delivered")
    assert list(net.items) == digests
    assert [item["seq"] for item in net.items.values()] == list(range(1, 31))
    for batch in net.batches:
        assert (batch.seq_from, batch.seq_to) == (
            decode_item(batch.batch[0]).seq,
            decode_item(batch.batch[-1]).seq,
        )
        (voucher,) = batch.vouchers
        assert int(voucher["cumulative"]) >= max(int(decode_item(raw).cumulative) for raw in batch.batch)


async def test_an_outage_delays_payments_and_loses_none(gateway: RunningGateway, net: NetworkStandIn) -> None:
    payer = gateway.payer()
    digests = await pay(gateway, 3, payer)
    await eventually(lambda: len(net.items) == 3, "the first are delivered")
    net.down = True
    payer_digests = [await served(gateway, payer) for _ in range(3)]
    assert len(net.items) == 3
    health = (await gateway.get("/health")).json()["components"]["delivery"]
    assert health["undelivered"] == 3
    net.down = False
    await eventually(lambda: len(net.items) == 6, "the rest is delivered")
    assert list(net.items) == digests + payer_digests


async def served(gateway: RunningGateway, payer: Payer) -> str:
    """One payment; its digest."""
    intent = payer.intent()
    assert (await gateway.get("/paid", headers=payer.headers(intent))).status == 200
    return intent.digest.hex()


async def test_what_a_stopped_gateway_could_not_deliver_is_delivered_by_the_next(
    start_gateway: START, net: NetworkStandIn
) -> None:
    gateway = await start_gateway()
    payer = gateway.payer()
    delivered = await pay(gateway, 2, payer)
    await eventually(lambda: len(net.items) == 2, "delivered")
    net.down = True
    waiting = await served(gateway, payer)
    await gateway.stop()
    assert list(net.items) == delivered
    net.down = False
    await gateway.start()
    await eventually(lambda: len(net.items) == 3, "delivered by the next process")
    assert list(net.items) == [*delivered, waiting]
    assert net.items[waiting]["seq"] == 3


async def test_a_final_rejection_goes_to_the_dead_letters_and_holds_nothing_up(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    net.verdicts[2] = ItemResult("", "rejected", retry=False, code="nonce_replayed")
    digests = await pay(gateway, 4)
    await eventually(lambda: len(net.items) == 3, "the others are delivered")
    assert list(net.items) == [digests[0], digests[2], digests[3]]
    path = gateway.settings.data_dir / "dead-letters.jsonl"
    await eventually(path.exists, "a dead letter")
    (line,) = path.read_bytes().splitlines()
    assert msgspec.json.decode(line)["rejected_code"] == "nonce_replayed"
    # The line is a settlement item that can be imported as it is.
    item = decode_item(line)
    assert (item.seq, item.charged) == (2, str(PRICE))

    async def moved_on() -> bool:
        health = (await gateway.get("/health")).json()["components"]["delivery"]
        return bool(health == {"status": "ok", "undelivered": 0})

    await eventually(moved_on, "the cursor moves on")


async def test_a_gateway_whose_disk_fails_stops_in_order_and_delivers_when_it_is_back(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    net.verdicts[1] = ItemResult("", "rejected", retry=False, code="nonce_replayed")
    dead_letters = gateway.settings.data_dir / "dead-letters.jsonl"
    dead_letters.mkdir()
    digests = await pay(gateway, 2)
    await eventually(lambda: bool(net.batches), "the relayer rejects it")
    await gateway.stop()
    # The last events left, and the log is free for the next start.
    await eventually(lambda: len(net.events) == 2, "the events")
    dead_letters.rmdir()
    await gateway.start()
    await eventually(lambda: list(net.items) == digests[1:], "the other is delivered")
    await eventually(dead_letters.exists, "a dead letter")


async def test_delivery_goes_on_when_a_disk_that_failed_is_well_again(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    net.verdicts[1] = ItemResult("", "rejected", retry=False, code="nonce_replayed")
    dead_letters = gateway.settings.data_dir / "dead-letters.jsonl"
    dead_letters.mkdir()

    async def failing() -> bool:
        health = (await gateway.get("/health")).json()["components"]["delivery"]
        return "dead-letters.jsonl" in str(health)

    digests = await pay(gateway, 2)
    await eventually(failing, "health names the file")
    dead_letters.rmdir()
    await eventually(lambda: list(net.items) == digests[1:], "the other is delivered")
    await eventually(dead_letters.exists, "a dead letter")
    digests += await pay(gateway, 1)
    await eventually(lambda: list(net.items) == digests[1:], "and what comes later")


async def test_an_item_to_be_retried_is_sent_again_before_anything_behind_it(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    net.verdicts[2] = ItemResult("", "rejected", retry=True, code="busy")
    digests = await pay(gateway, 4)
    await eventually(lambda: len(net.batches) >= 2, "it is sent again")
    net.verdicts.clear()
    await eventually(lambda: len(net.items) == 4, "all are delivered")
    assert sorted(net.items) == sorted(digests)
    assert not (gateway.settings.data_dir / "dead-letters.jsonl").exists()


async def test_a_batch_that_is_too_large_is_halved_and_an_item_that_is_goes_to_the_dead_letters(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    net.refuse_batches_with = 413
    await pay(gateway, 3)
    path = gateway.settings.data_dir / "dead-letters.jsonl"
    await eventually(lambda: path.exists() and len(path.read_bytes().splitlines()) == 3, "three dead letters")
    assert {msgspec.json.decode(line)["rejected_code"] for line in path.read_bytes().splitlines()} == {
        "too_large"
    }
    net.refuse_batches_with = None
    digests = await pay(gateway, 1)
    await eventually(lambda: list(net.items) == digests, "delivery goes on")


@pytest.mark.parametrize("status", [400, 401, 404, 500])
async def test_other_errors_are_retried_and_lose_nothing(
    gateway: RunningGateway, net: NetworkStandIn, status: int
) -> None:
    net.refuse_batches_with = status
    digests = await pay(gateway, 2)
    before = net.refused_batches
    await eventually(lambda: net.refused_batches > before, "it was tried")
    net.refuse_batches_with = None
    await eventually(lambda: list(net.items) == digests, "delivered")
    assert not (gateway.settings.data_dir / "dead-letters.jsonl").exists()


async def test_heartbeats_say_who_and_where(gateway: RunningGateway, net: NetworkStandIn) -> None:
    await pay(gateway, 2)
    await eventually(
        lambda: bool(net.heartbeats) and net.heartbeats[-1]["seq"] == 2, "a heartbeat after the payments"
    )
    beat = net.heartbeats[-1]
    assert beat["gateway_id"] == gateway.settings.key.pubkey
    assert beat["vendor"] == str(gateway.settings.vendor)
    assert beat["url"] == gateway.url
    assert set(beat["stats"]) == {"requests_total", "requests_per_minute", "active_agents"}
    assert beat["stats"]["requests_total"] == 2


async def test_a_gateway_that_is_not_registered_says_so(start_gateway: START, net: NetworkStandIn) -> None:
    net.registered = False
    gateway = await start_gateway()
    await eventually(lambda: bool(net.heartbeats), "a heartbeat")
    for _ in range(200):
        health = (await gateway.get("/health")).json()
        if health["components"]["registration"]["registered"] is False:
            break
    assert health["status"] == "degraded"
    assert health["components"]["registration"]["status"] == "degraded"


async def test_events_survive_a_short_absence_of_the_receiver(
    gateway: RunningGateway, net: NetworkStandIn
) -> None:
    payer = gateway.payer()
    first = await pay(gateway, 1, payer)
    await eventually(lambda: len(net.events) == 1, "the first event")
    net.down = True
    second = await served(gateway, payer)
    net.down = False
    await eventually(lambda: bool([e for e in net.events if e["id"] == second]), "the event came later")
    assert [e["id"] for e in net.events if e["type"].endswith("authorized")] == [*first, second]
