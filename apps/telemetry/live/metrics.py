"""What the stream process counts for Prometheus."""

from typing import Final

from prometheus_client import Counter, Gauge

STREAMS: Final = Gauge("machpay_live_streams", "Open streams.")
CONNECTED: Final = Gauge("machpay_live_connected", "1 while the hub's Redis subscription is up.")
MESSAGES: Final = Counter("machpay_live_messages", "Messages received from Redis.")
DROPPED: Final = Counter("machpay_live_dropped", "Messages dropped because a stream was too slow.")
