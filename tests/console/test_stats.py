"""The figures once a second: what is published, and how the rate is found."""

import json
import time
from collections.abc import Iterator

import pytest
import redis
from django.conf import settings

from apps.console import stats
from apps.console.selectors import Totals
from apps.console.tasks import publish_stats
from apps.core.redis import sync_redis
from tests.console import rows

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_samples() -> Iterator[None]:
    sync_redis().delete("console:paid-calls")
    yield
    sync_redis().delete("console:paid-calls")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, settable."""
    now = [1_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def totals(paid_calls: int) -> Totals:
    return Totals(
        paid_calls, charged_atomic=0, settled_atomic=0, unsettled_atomic=0, gateways=0, gateways_up=0
    )


def test_the_figures_are_published() -> None:
    gateway = rows.gateway()
    rows.gateway("DOWN")
    rows.channel(gateway, charged=3_000, settled=1_000, calls=3)
    # Claimed ahead of every charge: that pays nobody else.
    rows.channel(gateway, charged=0, settled=1_500, calls=0)
    with redis.Redis.from_url(settings.REDIS_URL) as client, client.pubsub() as pubsub:
        pubsub.subscribe("live:stats")
        assert pubsub.get_message(timeout=30) is not None
        assert publish_stats() is True
        message = pubsub.get_message(timeout=30)
    assert message is not None
    event = json.loads(message["data"])
    assert event["event"] == "stats"
    del event["data"]["time"]
    assert event["data"] == {
        "paid_calls": 3,
        "calls_per_second": None,
        "charged_atomic": "3000",
        "unsettled_atomic": "2000",
        "settled_atomic": "2500",
        "gateways_up": 1,
        "gateways": 2,
    }


def test_the_rate_is_that_of_the_last_ten_samples(clock: list[float]) -> None:
    for second, calls in enumerate([0, 1_000, *(1_000 + 50 * n for n in range(1, 12))]):
        clock[0] = 1_000.0 + second
        rate = stats.record(totals(calls))
    assert rate.per_second == 50.0
    assert rate.history == [1_000.0] + [50.0] * 11
    assert stats.current_rate() == rate


def test_late_samples_count_by_the_time_between_them(clock: list[float]) -> None:
    stats.record(totals(0))
    clock[0] += 4
    assert stats.record(totals(100)).per_second == 25.0


def test_only_a_minute_of_samples_is_kept(clock: list[float]) -> None:
    for second in range(80):
        clock[0] = 1_000.0 + second
        rate = stats.record(totals(second))
    assert rate.history == [1.0] * stats.SAMPLES


def test_counting_again_from_zero_is_not_a_negative_rate(clock: list[float]) -> None:
    stats.record(totals(500))
    clock[0] += 1
    assert stats.record(totals(3)).per_second == 0.0
