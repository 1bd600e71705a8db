"""The exchange and its streams: who gets what, what a slow reader costs, and where a returning one goes on."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from apps.core import live
from apps.telemetry.live.exchange import Exchange, Message, Subscription
from apps.telemetry.live.hub import read_message
from apps.telemetry.live.stream import COALESCE_S, GAP, frames

TICKER = frozenset({"ticker"})


def message(name: str, topic: str = "ticker") -> Message:
    return Message(topic, name, f"id: {name}\n\n".encode())


@pytest.fixture
async def exchange() -> Exchange:
    return Exchange(replay_messages=4)


def names(subscription: Subscription) -> tuple[bool, list[str]]:
    had_gap, messages = subscription.drain()
    return had_gap, [message.id for message in messages]


async def test_a_message_reaches_the_watchers_of_its_topic_only(exchange: Exchange) -> None:
    with exchange.subscribe(TICKER) as first, exchange.subscribe(frozenset({"ticker", "stats"})) as second:
        exchange.deliver(message("a"))
        exchange.deliver(message("b", "stats"))
        exchange.deliver(message("c", "vendor:x"))
        assert names(first) == (False, ["a"])
        assert names(second) == (False, ["a", "b"])


async def test_a_closed_subscription_gets_nothing(exchange: Exchange) -> None:
    with exchange.subscribe(TICKER) as subscription:
        pass
    exchange.deliver(message("a"))
    assert names(subscription) == (False, [])


async def test_a_returning_reader_gets_what_it_missed(exchange: Exchange) -> None:
    for name, topic in (("a", "ticker"), ("b", "stats"), ("c", "ticker"), ("d", "ticker")):
        exchange.deliver(message(name, topic))
    with exchange.subscribe(TICKER, "a") as subscription:
        exchange.deliver(message("e"))
        assert names(subscription) == (False, ["c", "d", "e"])
    with exchange.subscribe(TICKER, "e") as subscription:
        assert names(subscription) == (False, [])


async def test_an_id_that_is_no_longer_kept_starts_with_a_gap(exchange: Exchange) -> None:
    for name in "abcde":
        exchange.deliver(message(name))
    with exchange.subscribe(TICKER, "a") as subscription:
        assert names(subscription) == (True, [])
    with exchange.subscribe(TICKER, "b") as subscription:
        assert names(subscription) == (False, ["c", "d", "e"])
    with exchange.subscribe(TICKER, "never sent") as subscription:
        assert names(subscription) == (True, [])


async def test_a_lost_connection_to_redis_is_a_gap_for_everyone_and_for_later_returns(
    exchange: Exchange,
) -> None:
    with exchange.subscribe(TICKER) as subscription:
        exchange.deliver(message("a"))
        exchange.mark_gap()
        exchange.deliver(message("b"))
        assert names(subscription) == (True, ["a", "b"])
    with exchange.subscribe(TICKER, "a") as returning:
        assert names(returning) == (True, [])


async def test_a_slow_reader_keeps_the_newest_messages_and_learns_of_the_gap() -> None:
    subscription = Subscription(TICKER, queue_messages=3)
    for name in "abcde":
        subscription.put(message(name))
    assert names(subscription) == (True, ["c", "d", "e"])
    subscription.put(message("f"))
    assert names(subscription) == (False, ["f"])


async def test_messages_that_arrive_together_leave_together() -> None:
    subscription = Subscription(TICKER)
    stream = frames(subscription, heartbeat_s=60)
    opening = await anext(stream)
    assert opening.startswith(b"retry: 1000\n\nevent: heartbeat\ndata: {")
    subscription.put(message("a"))
    assert await anext(stream) == b"id: a\n\n"
    # The stream now waits before it looks again: both of these are in its next chunk.
    following = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    subscription.put(message("b"))
    await asyncio.sleep(0)
    subscription.put(message("c"))
    assert await following == b"id: b\n\nid: c\n\n"
    assert COALESCE_S <= 0.03


async def test_a_gap_is_told_before_the_messages_that_follow_it() -> None:
    subscription = Subscription(TICKER)
    stream = frames(subscription, heartbeat_s=60)
    await anext(stream)
    subscription.mark_gap()
    subscription.put(message("a"))
    assert await anext(stream) == GAP + b"id: a\n\n"


async def test_heartbeats_come_in_silence_and_under_load() -> None:
    subscription = Subscription(TICKER)
    stream = frames(subscription, heartbeat_s=0.05)
    await anext(stream)
    assert (await anext(stream)).startswith(b"event: heartbeat\ndata: ")
    for _ in range(20):
        subscription.put(message("a"))
        chunk = await anext(stream)
        if b"event: heartbeat" in chunk:
            break
    else:
        pytest.fail("no heartbeat while messages arrive")


def test_a_message_becomes_one_frame() -> None:
    payload = live.encode("payment", {"amount_atomic": "1000", "text": "line\nbreak"})
    read = read_message(b"live:vendor:abc", payload)
    assert read.topic == "vendor:abc"
    assert read.frame == (
        b'id: %b\nevent: payment\ndata: {"amount_atomic":"1000","text":"line\\nbreak"}\n\n' % read.id.encode()
    )
    assert json.loads(payload)["id"] == read.id


def test_every_message_has_an_id_of_its_own() -> None:
    data = {"time": datetime.now(UTC)}
    assert live.encode("stats", data) != live.encode("stats", data)
