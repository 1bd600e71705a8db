"""What channels are owed on the chain and nobody has paid out yet."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Exists, OuterRef, Sum

from apps.payments.models import Channel, Settlement

State = Settlement.State
_CHANNELS_MAX = 120


@dataclass(frozen=True, slots=True)
class Owed:
    """One vendor: channels (address, atomic units), those with most owed first."""

    vendor: str
    channels: list[tuple[str, int]]


def owed_vendors(*, limit: int, vendor: str | None, not_failed_since: datetime) -> list[Owed]:
    """Vendors that channels owe to as of the mirrored slot, without a distribution that is under way, not mirrored yet,
    or failed since then."""
    distributions = Settlement.objects.filter(kind=Settlement.Kind.DISTRIBUTE, vendor=OuterRef("vendor"))
    # One by one, because each is served by a partial index of its own; together they would read the vendor's history.
    under_way = distributions.exclude(state__in=[State.FINALIZED, State.FAILED])
    not_mirrored = distributions.filter(state=State.FINALIZED, paid_atomic=None)
    failed = distributions.filter(state=State.FAILED, ended_at__gt=not_failed_since)
    rows = Channel.objects.filter(
        ~Exists(under_way), ~Exists(not_mirrored), ~Exists(failed), owed_atomic__gt=0
    )
    if vendor is not None:
        rows = rows.filter(vendor=vendor)
    totals = rows.values_list("vendor").annotate(total=Sum("owed_atomic")).order_by("-total")[:limit]
    return [Owed(name, _channels(name)) for name, _ in totals]


def _channels(vendor: str) -> list[tuple[str, int]]:
    rows = Channel.objects.filter(vendor=vendor, owed_atomic__gt=0).order_by("-owed_atomic", "address")
    return list(rows.values_list("address", "owed_atomic")[:_CHANNELS_MAX])
