"""Event tables, partitioned by day on the event's own time. Only the receiver writes them, by COPY.

(`event_time`, `source`, `id`) identifies an event in all of them: a typed row and its raw event share a key.
"""

from django.db import models
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField


class Event(models.Model):
    """The key of every event and the columns that all tables have."""

    pk = models.CompositePrimaryKey("event_time", "source", "id")
    event_time = models.DateTimeField()
    source = models.CharField(max_length=52, db_collation="C", help_text="gateway:<pubkey> or agent:<pubkey>")
    id = models.CharField(max_length=255, db_collation="C", help_text="Unique per source.")

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.source} {self.id}"


class TelemetryEvent(Event):
    """One CloudEvent as it arrived, of any type. `extensions` holds attributes the standard does not name."""

    type = models.CharField(max_length=255)
    subject = models.CharField(max_length=255, null=True)  # noqa: DJ001  absent is not empty
    data = models.JSONField(null=True)
    extensions = models.JSONField(null=True)
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "telemetry_events"
        indexes = (models.Index(fields=("type", "-event_time"), name="telemetry_events_type_time"),)


class PaymentAuthorized(Event):
    """What a gateway reported about one payment it took. Amounts are the report's; the ledger decides."""

    gateway = PubkeyField()
    agent = PubkeyField()
    vendor = PubkeyField(null=True)
    service = models.CharField(max_length=255, null=True)  # noqa: DJ001  absent is not empty
    route = models.CharField(max_length=255, null=True)  # noqa: DJ001  absent is not empty
    amount_atomic = AtomicField(help_text="The signed ceiling.")
    charged_atomic = AtomicField(help_text="What was taken; 0 when the request was not served.")
    http_status = models.PositiveSmallIntegerField()
    latency_ms = models.FloatField(null=True)
    city = models.CharField(max_length=100, null=True)  # noqa: DJ001  absent is not empty

    class Meta:
        db_table = "payment_authorized"
        indexes = (
            models.Index(fields=("gateway", "-event_time"), name="payment_authorized_gateway"),
            models.Index(fields=("agent", "-event_time"), name="payment_authorized_agent"),
        )


class RequestBlocked(Event):
    """A request that a gateway refused. `agent` is what the request claimed, which may be false."""

    gateway = PubkeyField()
    agent = PubkeyField(null=True)
    reason = models.CharField(max_length=64)
    route = models.CharField(max_length=255, null=True)  # noqa: DJ001  absent is not empty
    required_amount_atomic = AtomicField(null=True)
    current_balance_atomic = AtomicField(null=True)

    class Meta:
        db_table = "request_blocked"
        indexes = (
            models.Index(fields=("gateway", "-event_time"), name="request_blocked_gateway"),
            models.Index(fields=("agent", "-event_time"), name="request_blocked_agent"),
        )
