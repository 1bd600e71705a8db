"""What channels are owed on the chain and nobody has paid out yet."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Exists, OuterRef, Q, Sum

from apps.payments.models import Channel, Settlement

_CHANNELS_MAX = 120


@dataclass(frozen=True, slots=True)
class Owed:
    """One vendor: channels (address, atomic units), those with most owed first."""

    vendor: str
    channels: list[tuple[str, int]]


def owed_vendors(*, limit: int, vendor: str | None, not_failed_since: datetime) -> list[Owed]:
    """Vendors that channels owe to as of the mirrored slot, without a distribution that is under way, not mirrored yet,
    or failed since then."""
    under_way = Settlement.objects.filter(kind=Settlement.Kind.DISTRIBUTE, vendor=OuterRef("vendor")).filter(
        Q(state=Settlement.State.FAILED, ended_at__gt=not_failed_since)
        | Q(state=Settlement.State.FINALIZED, paid_atomic=None)
        | ~Q(state__in=[Settlement.State.FAILED, Settlement.State.FINALIZED])
    )
    rows = Channel.objects.filter(owed_atomic__gt=0).filter(~Exists(under_way))
    if vendor is not None:
        rows = rows.filter(vendor=vendor)
    totals = rows.values_list("vendor").annotate(total=Sum("owed_atomic")).order_by("-total")[:limit]
    return [Owed(name, _channels(name)) for name, _ in totals]


def _channels(vendor: str) -> list[tuple[str, int]]:
    rows = Channel.objects.filter(vendor=vendor, owed_atomic__gt=0).order_by("-owed_atomic", "address")
    return list(rows.values_list("address", "owed_atomic")[:_CHANNELS_MAX])
