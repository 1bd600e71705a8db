"""What the receiver counts for Prometheus."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

EVENTS: Final = Counter(
    "machpay_receiver_events", "Events by outcome: new, duplicate or refused.", ["outcome"]
)
REQUESTS: Final = Counter(
    "machpay_receiver_requests", "Ingest requests by the status they were answered with.", ["status"]
)
WAITING_ROWS: Final = Gauge("machpay_receiver_waiting_rows", "Events accepted and not yet committed.")
FLUSH_ROWS: Final = Histogram(
    "machpay_receiver_flush_rows", "Events per transaction.", buckets=(1, 10, 50, 100, 250, 500, 1000, 2000)
)
FLUSH_SECONDS: Final = Histogram(
    "machpay_receiver_flush_seconds",
    "Duration of one transaction.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
LIVE_PUBLISHED: Final = Counter("machpay_receiver_live_published", "Messages sent to the live pages.")
LIVE_DROPPED: Final = Counter(
    "machpay_receiver_live_dropped", "Messages for the live pages that Redis could not take."
)
