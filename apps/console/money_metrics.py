"""What Prometheus sees of money at rest, read from the database at each scrape: workers answer no requests.

machpay_reconciliation_equal            1 if the newest comparison of chain and ledger found them equal
machpay_reconciliation_age_seconds      how old it is: alarm on a night without one
machpay_vault_surplus_atomic            what the vault holds beyond its terms; below zero is an alarm
machpay_open_cases{kind}                cases that wait for a decision
machpay_uncollected_atomic              vendor credit that no bond covered
machpay_chain_slot{reached}             finalised slots that the ledger and the index have reached
"""

from collections.abc import Iterable
from typing import Final

from django.db import Error as DatabaseError
from django.db.models import Count, Sum
from django.utils import timezone
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from apps.payments.models import Case, ChainCursor, ChainIndex, Channel, Reconciliation


class MoneyCollector(Collector):
    """Asked at each scrape. Without the database there is nothing to say."""

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        try:
            return list(_read())
        except DatabaseError:
            return []


# Apart from the default registry, which relayer and receiver serve from their event loops.
MONEY: Final = CollectorRegistry(auto_describe=False)
MONEY.register(MoneyCollector())


def _read() -> Iterable[Metric]:
    newest = Reconciliation.objects.order_by("-id").first()
    if newest is not None:
        yield _gauge(
            "machpay_reconciliation_equal", "Whether chain and ledger were equal.", int(newest.equal)
        )
        age = (timezone.now() - newest.made_at).total_seconds()
        yield _gauge("machpay_reconciliation_age_seconds", "Since the newest comparison.", age)
        surplus = newest.terms.get("surplus_atomic", 0)
        yield _gauge("machpay_vault_surplus_atomic", "What the vault holds beyond its terms.", surplus)
    cases = GaugeMetricFamily("machpay_open_cases", "Cases that wait for a decision.", labels=["kind"])
    found = dict(Case.objects.filter(status=Case.Status.OPEN).values_list("kind").annotate(Count("id")))
    for kind in Case.Kind.values:
        cases.add_metric([kind], found.get(kind, 0))
    yield cases
    uncollected = Channel.objects.filter(uncollected_atomic__gt=0).aggregate(total=Sum("uncollected_atomic"))
    yield _gauge(
        "machpay_uncollected_atomic", "Vendor credit that no bond covered.", int(uncollected["total"] or 0)
    )
    slots = GaugeMetricFamily("machpay_chain_slot", "Finalised slots reached.", labels=["reached"])
    slots.add_metric(["ledger"], ChainCursor.objects.values_list("slot", flat=True).first() or 0)
    slots.add_metric(["index"], ChainIndex.objects.values_list("slot", flat=True).first() or 0)
    yield slots


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, value=value)
