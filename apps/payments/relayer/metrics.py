"""What the relayer counts."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

ITEMS: Final = Counter("machpay_relayer_items_total", "Delivered payments by outcome.", ["result"])
REFUSED: Final = Counter("machpay_relayer_refused_total", "Delivered payments refused, by code.", ["code"])
BATCH_SECONDS: Final = Histogram(
    "machpay_relayer_batch_seconds",
    "From a batch's last byte to its commit.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
IN_FLIGHT: Final = Gauge("machpay_relayer_batches_in_flight", "Batches being checked or stored.")
LOOK_UPS: Final = Counter("machpay_relayer_chain_lookups_total", "Look-ups on the chain.", ["kind", "result"])
FACILITATED: Final = Counter(
    "machpay_facilitator_requests_total", "Payments that stock servers forwarded.", ["step", "result"]
)
LEASES: Final = Counter(
    "machpay_relayer_leases_total", "Requests for leases, by outcome, and releases.", ["result"]
)
