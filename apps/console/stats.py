"""The network's figures, once a second: counted in one place, sampled in Redis, published to every page."""

import itertools
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import redis

from apps.console.selectors import Totals
from apps.core.redis import sync_redis

SAMPLES: Final = 60
RATE_OVER: Final = 10
_KEY: Final = "console:paid-calls"


class Sample(msgspec.Struct, array_like=True):
    """How many calls had been paid at a moment (unix seconds)."""

    at: float
    paid_calls: int


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` over the last samples, None before there are two; `history` one rate per sample, oldest first."""

    per_second: float | None
    history: list[float]


def record(totals: Totals) -> Rate:
    """Add a sample of now and return the rate with it. Raises `redis.RedisError`."""
    sample = msgspec.json.encode(Sample(time.time(), totals.paid_calls))
    with sync_redis().pipeline() as pipeline:
        pipeline.lpush(_KEY, sample)
        pipeline.ltrim(_KEY, 0, SAMPLES)
        pipeline.expire(_KEY, 10 * SAMPLES)
        pipeline.lrange(_KEY, 0, SAMPLES)
        return _rate(pipeline.execute()[-1])


def current_rate() -> Rate:
    """The rate as last sampled; unknown while Redis is away, so that the page still renders."""
    try:
        return _rate(sync_redis().lrange(_KEY, 0, SAMPLES))
    except redis.RedisError:
        return Rate(None, [])


def _rate(raw: Any) -> Rate:
    samples = [msgspec.json.decode(item, type=Sample) for item in reversed(raw)]
    if len(samples) < 2:
        return Rate(None, [])
    history = [_per_second(before, after) for before, after in itertools.pairwise(samples)]
    return Rate(_per_second(samples[-RATE_OVER - 1 :][0], samples[-1]), history)


def _per_second(before: Sample, after: Sample) -> float:
    elapsed = after.at - before.at
    # A database that was reset counts from zero again.
    return round(max(0, after.paid_calls - before.paid_calls) / elapsed, 1) if elapsed > 0 else 0.0


def event_data(totals: Totals, rate: Rate) -> dict[str, Any]:
    """The `stats` event: amounts as decimal strings of atomic units, the rate as calls per second."""
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "paid_calls": totals.paid_calls,
        "calls_per_second": rate.per_second,
        "charged_atomic": str(totals.charged_atomic),
        "unsettled_atomic": str(totals.unsettled_atomic),
        "settled_atomic": str(totals.settled_atomic),
        "gateways_up": totals.gateways_up,
        "gateways": totals.gateways,
    }
