"""The admin's index: what needs an operator's attention, before the list of tables."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.db.models import Count, Q
from django.http import HttpRequest
from django.utils import timezone

from apps.console.selectors import totals
from apps.console.templatetags.console import grouped, usdc
from apps.payments.models import Case, ChainCursor, Settlement

CHAIN_STALE_AFTER: Final = timedelta(minutes=1)
_FAILURES_OVER: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Card:
    """One figure of the index. `needs_attention` marks it."""

    title: str
    value: str
    note: str
    needs_attention: bool = False


def dashboard(_request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the cards to the admin index's context."""
    context["cards"] = [_unsettled(), *_settlements(), _gateways(), _chain(), _cases()]
    return context


def _unsettled() -> Card:
    figures = totals()
    return Card(
        "Unsettled",
        f"{usdc(figures.unsettled_atomic)} USDC",
        f"{grouped(figures.paid_calls)} calls paid so far",
    )


def _settlements() -> list[Card]:
    states = Settlement.State
    since = timezone.now() - _FAILURES_OVER
    counts = Settlement.objects.aggregate(
        open=Count("pk", filter=~Q(state__in=[states.FINALIZED, states.FAILED])),
        unknown=Count("pk", filter=Q(state=states.UNKNOWN)),
        failed=Count("pk", filter=Q(state=states.FAILED, ended_at__gte=since)),
    )
    return [
        Card(
            "Settlements under way",
            grouped(counts["open"]),
            f"{counts['unknown']} with unknown outcome",
            needs_attention=counts["unknown"] > 0,
        ),
        Card(
            "Settlements failed",
            grouped(counts["failed"]),
            "in the last 24 hours",
            needs_attention=counts["failed"] > 0,
        ),
    ]


def _gateways() -> Card:
    figures = totals()
    down = figures.gateways - figures.gateways_up
    return Card(
        "Gateways up",
        f"{figures.gateways_up} of {figures.gateways}",
        f"{down} silent" if down else "all reporting",
        needs_attention=down > 0,
    )


def _chain() -> Card:
    cursor = ChainCursor.objects.first()
    if cursor is None:
        return Card("Chain followed to", "–", "not followed yet", needs_attention=True)
    age = timezone.now() - cursor.applied_at
    return Card(
        "Chain followed to",
        f"slot {grouped(cursor.slot)}",
        f"{max(0, int(age.total_seconds()))} s ago",
        needs_attention=age > CHAIN_STALE_AFTER,
    )


def _cases() -> Card:
    count = Case.objects.filter(status=Case.Status.OPEN).count()
    return Card("Cases", grouped(count), "wait for a decision", needs_attention=count > 0)
