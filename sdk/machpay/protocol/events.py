"""CloudEvents 1.0 as gateways and agents send them to the receiver.

`source` is `gateway:<pubkey>` or `agent:<pubkey>` and must be the key that signs the request; `subject` is
the counterparty; (`source`, `id`) identifies an event, so sending one twice stores it once.
"""

from typing import Any, Final
from uuid import uuid4

import msgspec

PAYMENT_AUTHORIZED: Final = "com.machpay.payment.authorized"
REQUEST_BLOCKED: Final = "com.machpay.request.blocked"
INSOLVENCY_RISK: Final = "com.machpay.agent.insolvency_risk"
GATEWAY_TELEMETRY: Final = "com.machpay.gateway.telemetry"
SDK_TELEMETRY: Final = "com.machpay.sdk.telemetry"
LOG: Final = "com.machpay.log"

BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json"
EVENT_CONTENT_TYPE: Final = "application/cloudevents+json"


EventData = dict[str, Any] | msgspec.Raw


class CloudEvent(msgspec.Struct):
    """One event to send. `time` is RFC 3339 UTC and stays the same when the event is sent again; `data` may be JSON
    already."""

    source: str
    type: str
    time: str
    data: EventData
    subject: str | None = None
    id: str = msgspec.field(default_factory=lambda: str(uuid4()))
    specversion: str = "1.0"
    datacontenttype: str = "application/json"


def encode_batch(events: list[CloudEvent]) -> bytes:
    """The body of a batched `POST /v1/ingest`."""
    return msgspec.json.encode(events)
