"""Prometheus metrics of one gateway, in a registry of its own so that several can live in one process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


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
        self.events_dropped = self._counter("events_dropped", "Events that never reached the receiver")
        self.delivered = self._counter("delivered", "Completed payments that the relayer has", "status")
        self.paid_seconds = Histogram(
            "machpay_gateway_paid_seconds",
            "From the paid request's arrival to the last byte of its answer",
            registry=self.registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self.in_flight = Gauge("machpay_gateway_in_flight", "Exchanges under way", registry=self.registry)
        self.undelivered = Gauge(
            "machpay_gateway_undelivered",
            "Completed payments that the relayer does not have",
            registry=self.registry,
        )
        self.log_healthy = Gauge(
            "machpay_gateway_log_healthy", "1 if the log is writable", registry=self.registry
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"machpay_gateway_{name}", text, labels, registry=self.registry)

    def render(self) -> bytes:
        return generate_latest(self.registry)
