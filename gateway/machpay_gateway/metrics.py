"""Prometheus metrics of one gateway, in a registry of its own so that several can live in one process.

What every request counts is counted here in plain integers, by the event loop's thread alone, and turned into samples
when it is asked for.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Read(Collector):
    """One number, read from where it is kept."""

    def __init__(self, family: type[Any], name: str, text: str, read: Callable[[], float]) -> None:
        self._family = family
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> Iterator[Metric]:
        yield self._family(self._name, self._text, value=self._read())


class Tally(Collector):
    """A counter, one number per set of label values."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        # Without labels there is one number, and it is shown from the start.
        self._counts: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def add(self, amount: int, *values: str) -> None:
        """Count `amount` more under these label values."""
        counts = self._counts
        counts[values] = counts.get(values, 0) + amount

    def value(self, *values: str) -> int:
        """What was counted under these label values."""
        return self._counts.get(values, 0)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        yield family


class Durations(Collector):
    """A histogram of seconds."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        buckets, so_far = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            so_far += count
            buckets.append((bound, so_far))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


class Metrics:
    """What `/metrics` shows. Amounts are atomic units."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._tally("requests", "Requests by what became of them", "kind", "route")
        self.refusals = self._tally("refusals", "Payments that were refused", "code")
        self.charged_atomic = self._tally("charged_atomic", "Sum of charges")
        self.voided = self._tally("voided", "Accepted payments that were not charged")
        self.events_sent = self._tally("events_sent", "Events that the receiver took")
        self.events_spilled = self._tally(
            "events_spilled", "Events put on disk because the receiver was away"
        )
        self.events_dropped = self._tally("events_dropped", "Events that never reached the receiver")
        self.delivered = self._tally("delivered", "Completed payments that the relayer has", "status")
        self.paid_seconds = Durations(
            "machpay_gateway_paid_seconds",
            "From the paid request's arrival to the last byte of its answer",
            LATENCY_BUCKETS_S,
        )
        self.registry.register(self.paid_seconds)
        self.in_flight = 0
        """Exchanges under way."""
        self.watch("in_flight", "Exchanges under way", lambda: self.in_flight)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is shown."""
        self.registry.register(_Read(GaugeMetricFamily, f"machpay_gateway_{name}", text, read))

    def watch_counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A counter that somebody else counts, read when it is shown."""
        self.registry.register(_Read(CounterMetricFamily, f"machpay_gateway_{name}", text, read))

    def describe(self, **facts: str) -> None:
        """What never changes while this process runs, as labels of `machpay_gateway_info`."""
        Gauge("machpay_gateway_info", "This gateway", labelnames=list(facts), registry=self.registry).labels(
            **facts
        ).set(1)

    def _tally(self, name: str, text: str, *labels: str) -> Tally:
        tally = Tally(f"machpay_gateway_{name}", text, labels)
        self.registry.register(tally)
        return tally

    def render(self) -> bytes:
        return generate_latest(self.registry)
