"""Prometheus metrics of one gateway, in a registry of its own so that several can live in one process."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Counted(Collector):
    """One counter, read from where it is counted."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._text, value=self._read())


class Metrics:
    """What `/metrics` shows. Amounts are atomic units."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests by what became of them", "kind", "route")
        self.refusals = self._counter("refusals", "Payments that were refused", "code")
        self.charged_atomic = self._counter("charged_atomic", "Sum of charges")
        self.voided = self._counter("voided", "Accepted payments that were not charged")
        self.events_sent = self._counter("events_sent", "Events that the receiver took")
        self.events_spilled = self._counter(
            "events_spilled", "Events put on disk because the receiver was away"
        )
        self.events_dropped = self._counter("events_dropped", "Events that never reached the receiver")
        self.delivered = self._counter("delivered", "Completed payments that the relayer has", "status")
        self.paid_seconds = Histogram(
            "machpay_gateway_paid_seconds",
            "From the paid request's arrival to the last byte of its answer",
            registry=self.registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self.in_flight = Gauge("machpay_gateway_in_flight", "Exchanges under way", registry=self.registry)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is shown."""
        Gauge(f"machpay_gateway_{name}", text, registry=self.registry).set_function(read)

    def watch_counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A counter that somebody else counts, read when it is shown."""
        self.registry.register(_Counted(f"machpay_gateway_{name}", text, read))

    def describe(self, **facts: str) -> None:
        """What never changes while this process runs, as labels of `machpay_gateway_info`."""
        Gauge("machpay_gateway_info", "This gateway", labelnames=list(facts), registry=self.registry).labels(
            **facts
        ).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"machpay_gateway_{name}", text, labels, registry=self.registry)

    def render(self) -> bytes:
        return generate_latest(self.registry)
