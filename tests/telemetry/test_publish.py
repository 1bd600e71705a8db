"""What the receiver tells the live pages: everything to the parties, nothing about them to the public."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import settings

from apps.telemetry.routes import route_class
from machpay.protocol.keys import SigningKey
from tests.telemetry.senders import Sender

pytestmark = pytest.mark.django_db


@pytest.fixture
def live() -> Iterator[redis.client.PubSub]:
    with redis.Redis.from_url(settings.REDIS_URL) as client, client.pubsub() as pubsub:
        pubsub.psubscribe("live:*")
        assert pubsub.get_message(timeout=30) is not None
        yield pubsub


def messages(live: redis.client.PubSub, count: int) -> dict[str, dict[str, Any]]:
    """The next `count` messages by channel, and that there is not one more."""
    received = [live.get_message(timeout=30) for _ in range(count)]
    assert live.get_message(timeout=0.3) is None
    return {message["channel"].decode(): json.loads(message["data"]) for message in received if message}


def test_a_payment_is_published_to_its_parties_in_full_and_to_the_ticker_anonymously(
    gateway: Sender, live: redis.client.PubSub
) -> None:
    payer, key = SigningKey.generate().pubkey, gateway.key.pubkey
    event = gateway.payment(
        payer, route="/users/812/posts?secret=1", latency_ms=7.5, city="Lyon", service="lexicon"
    )
    event["time"] = event["time"][:19] + ".987654+00:00"
    assert gateway.send(event).status_code == 202
    received = messages(live, 3)
    full = {
        "id": event["id"],
        "time": event["time"].replace("+00:00", "Z"),
        "gateway": key,
        "agent": payer,
        "vendor": None,
        "service": "lexicon",
        "route": "/users/812/posts?secret=1",
        "amount_atomic": "1500",
        "charged_atomic": "1200",
        "http_status": 200,
        "latency_ms": 7.5,
        "city": "Lyon",
    }
    assert received[f"live:vendor:{key}"]["data"] == received[f"live:agent:{payer}"]["data"] == full
    assert received["live:ticker"]["data"] == {
        "time": event["time"][:19] + "Z",
        "amount_atomic": "1200",
        "route": "/users/:id/posts",
        "regions": [None, "Lyon"],
    }
    assert {message["event"] for message in received.values()} == {"payment"}
    ids = {message["id"] for message in received.values()}
    assert event["id"] not in ids


def test_a_blocked_request_is_told_to_its_parties_only(gateway: Sender, live: redis.client.PubSub) -> None:
    payer = SigningKey.generate().pubkey
    assert gateway.send(gateway.blocked(agent_id=payer, required_amount="5")).status_code == 202
    received = messages(live, 2)
    assert set(received) == {f"live:vendor:{gateway.key.pubkey}", f"live:agent:{payer}"}
    for message in received.values():
        assert message["event"] == "blocked"
        assert (message["data"]["reason"], message["data"]["required_amount_atomic"]) == (
            "insufficient_bond",
            "5",
        )


def test_a_payment_that_charged_nothing_is_not_on_the_ticker(
    gateway: Sender, live: redis.client.PubSub
) -> None:
    payer = SigningKey.generate().pubkey
    assert gateway.send(gateway.payment(payer, status="void", charged="0")).status_code == 202
    assert set(messages(live, 2)) == {f"live:vendor:{gateway.key.pubkey}", f"live:agent:{payer}"}


def test_a_duplicate_is_not_published_again(gateway: Sender, live: redis.client.PubSub) -> None:
    event = gateway.payment(SigningKey.generate().pubkey)
    assert gateway.send(event, event).status_code == 202
    messages(live, 3)
    assert gateway.send(event).json()["duplicates"] == 1
    assert messages(live, 0) == {}


def test_other_events_are_stored_and_not_published(gateway: Sender, live: redis.client.PubSub) -> None:
    assert gateway.send(gateway.event()).status_code == 202
    assert messages(live, 0) == {}


@pytest.mark.parametrize(
    ("route", "shown"),
    [
        (None, None),
        ("GET /embed?text=private", "GET /embed"),
        ("/orders/0193f2aa-7c11-7d3e-9d30-7a1f0c2b4e55/items", "/orders/:id/items"),
        ("/agents/7xKXtg2CW87d97TXJSDpbD5jBkheTqA83TZRuJosgAsU", "/agents/:id"),
        ("/a/b/c/d/e/f", "/a/b/c/d"),
        ("/countries/", "/countries/"),
        ("é" * 300, "é" * 80),
    ],
)
def test_a_route_is_shown_without_what_identifies_one_request(route: str | None, shown: str | None) -> None:
    assert route_class(route) == shown
