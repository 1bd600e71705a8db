"""Reading what gateways reported."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from apps.telemetry.models import PaymentAuthorized
from apps.telemetry.routes import route_class

# Bounds how many days' partitions are looked at; the newest rows are in the last one or two.
_RECENT: Final = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class TickerLine:
    """A payment as everybody may see it: to the whole second, without the parties."""

    time: datetime
    route: str | None
    charged_atomic: int
    city: str | None


@dataclass(frozen=True, slots=True)
class PaymentLine:
    """A payment as its parties and network staff see it."""

    time: datetime
    id: str
    route: str | None
    charged_atomic: int
    agent: str
    gateway: str
    latency_ms: float | None
    city: str | None


def recent_payments(limit: int) -> list[PaymentLine]:
    """The newest charged payments, newest first."""
    rows = (
        PaymentAuthorized.objects.filter(event_time__gt=datetime.now(UTC) - _RECENT, charged_atomic__gt=0)
        .order_by("-event_time", "-source", "-id")
        .values_list("event_time", "id", "route", "charged_atomic", "agent", "gateway", "latency_ms", "city")
    )
    return [PaymentLine(*row) for row in rows[:limit]]


def recent_ticker(limit: int) -> list[TickerLine]:
    """The same payments, anonymised as on the `ticker` topic."""
    return [
        TickerLine(line.time.replace(microsecond=0), route_class(line.route), line.charged_atomic, line.city)
        for line in recent_payments(limit)
    ]
