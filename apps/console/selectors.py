"""What the pages show, read from payments and telemetry. Money comes from payments, never from reports."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, F, Q, Sum
from django.db.models.functions import Coalesce

from apps.payments.models import Channel, Gateway, Network, Settlement


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the network began. `unsettled` is charged and not yet paid by the chain, channel by channel: what a claim
    took ahead on one covers nothing of another. `gateways` are those that report: one that never did is not set up
    yet, or hosted by the facilitator."""

    paid_calls: int
    charged_atomic: int
    settled_atomic: int
    unsettled_atomic: int
    gateways: int
    gateways_up: int

    @property
    def settled_percent(self) -> int:
        """Of what was charged, rounded down; 100 only when nothing is open."""
        return min(100, self.settled_atomic * 100 // self.charged_atomic) if self.charged_atomic else 0


@dataclass(frozen=True, slots=True)
class SettlementLine:
    """One settlement transaction. `amount_atomic` is what was paid, before that what is planned."""

    signature: str
    state: str
    vendor: str
    channel_count: int
    amount_atomic: int
    time: datetime


@dataclass(frozen=True, slots=True)
class GatewayLine:
    """One gateway and what it has earned through this network."""

    pubkey: str
    url: str
    status: str
    paid_calls: int
    charged_atomic: int


def totals() -> Totals:
    money = Channel.objects.aggregate(
        paid_calls=Coalesce(Sum("charged_count"), 0),
        charged=Sum("charged_total_atomic"),
        settled=Sum("settled_atomic"),
        unsettled=Sum(
            F("charged_total_atomic") - F("settled_atomic"),
            filter=Q(charged_total_atomic__gt=F("settled_atomic")),
        ),
    )
    gateways = Gateway.objects.filter(revoked=False).aggregate(
        known=Count("pk", filter=~Q(status=Gateway.Status.UNKNOWN)),
        up=Count("pk", filter=Q(status=Gateway.Status.UP)),
    )
    return Totals(
        paid_calls=int(money["paid_calls"]),
        charged_atomic=int(money["charged"] or 0),
        settled_atomic=int(money["settled"] or 0),
        unsettled_atomic=int(money["unsettled"] or 0),
        gateways=gateways["known"],
        gateways_up=gateways["up"],
    )


def recent_settlements(limit: int) -> list[SettlementLine]:
    """The newest transactions that pay a vendor, newest first."""
    return [
        SettlementLine(
            signature=settlement.signature,
            state=settlement.state,
            vendor=settlement.vendor,
            channel_count=settlement.channel_count,
            amount_atomic=settlement.planned_atomic
            if settlement.paid_atomic is None
            else settlement.paid_atomic,
            time=settlement.created_at,
        )
        for settlement in Settlement.objects.exclude(vendor="")
        .order_by("-id")
        .defer("raw_transaction")[:limit]
    ]


def gateways(limit: int) -> list[GatewayLine]:
    """Gateways that are not revoked, the busiest first."""
    rows = (
        Gateway.objects.filter(revoked=False)
        .annotate(
            calls=Coalesce(Sum("channels__charged_count"), 0), charged=Sum("channels__charged_total_atomic")
        )
        .order_by(F("calls").desc(), "pubkey")[:limit]
    )
    return [
        GatewayLine(
            pubkey=gateway.pubkey,
            url=gateway.url,
            status=gateway.status,
            paid_calls=int(gateway.calls),
            charged_atomic=int(gateway.charged or 0),
        )
        for gateway in rows
    ]


def network() -> Network | None:
    """Which chain, program and token this is; None before the first process bound the database."""
    return Network.objects.first()
