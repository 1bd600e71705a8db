"""Which lookup tables there are for settlements, and which channels still need one."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from solders.pubkey import Pubkey

from apps.payments.models import Channel, LookupTable, LookupTableEntry
from machpay.chain import lookup_tables as chain


@dataclass(frozen=True, slots=True)
class PendingTable:
    """A table with a change under way, see `LookupTable`."""

    address: str
    length: int
    pending_length: int
    pending_until_height: int


@dataclass(frozen=True, slots=True)
class UnlistedChannel:
    """A channel with something to settle that is in no table."""

    address: str
    agent: str
    gateway: str


def tables_holding(channels: Iterable[str]) -> list[chain.LookupTable]:
    """The tables with an entry for at least one of `channels` (addresses), as far as they are final."""
    wanted = LookupTableEntry.objects.filter(address__in=list(channels)).values("table")
    return _contents(LookupTable.objects.filter(address__in=wanted).values_list("address", flat=True))


def tables_of(vendor: str) -> list[chain.LookupTable]:
    """Every table of `vendor`, the newest last."""
    rows = LookupTable.objects.filter(vendor=vendor).order_by("created_at", "address")
    return _contents(rows.values_list("address", flat=True))


def pending_tables() -> list[PendingTable]:
    """Tables with a change under way; at most one per vendor."""
    rows = LookupTable.objects.exclude(pending_length=None).order_by("created_at")
    return [
        PendingTable(row.address, row.length, row.pending_length or 0, row.pending_until_height or 0)
        for row in rows
    ]


def registered_tables() -> list[str]:
    """The address of every table that is, or is about to be created."""
    return list(LookupTable.objects.values_list("address", flat=True))


def idle_tables(since: datetime) -> list[str]:
    """Tables older than `since`, with no change under way, none of whose channels was paid on from then on or still
    has something to settle or to distribute."""
    busy = Channel.objects.filter(
        Q(last_payment_at__gte=since) | Q(unsettled_since__isnull=False) | Q(owed_atomic__gt=0)
    )
    used = LookupTableEntry.objects.filter(address__in=busy.values("address")).values("table")
    rows = LookupTable.objects.filter(created_at__lt=since, pending_length=None).exclude(address__in=used)
    return list(rows.order_by("created_at", "address").values_list("address", flat=True))


def vendors_to_list(*, channels_min: int, limit: int) -> list[str]:
    """Vendors with unlisted channels and no change under way, those with most of them first: with a table
    already, or with at least `channels_min` unlisted channels, for which a first one is worth its rent."""
    tables = LookupTable.objects.filter(vendor=OuterRef("vendor"))
    rows = (
        _unlisted()
        .values("vendor")
        .annotate(channels=Count("address"), has_table=Exists(tables))
        .filter(Q(has_table=True) | Q(channels__gte=channels_min))
        .filter(~Exists(tables.exclude(pending_length=None)))
        .order_by("-channels", "vendor")
    )
    return [row["vendor"] for row in rows[:limit]]


def unlisted_channels(vendor: str, *, limit: int) -> list[UnlistedChannel]:
    """Channels of `vendor` that should be in a table, the longest unsettled first."""
    rows = _unlisted().filter(vendor=vendor).order_by("unsettled_since", "address")
    return [UnlistedChannel(row.address, row.agent_id, row.gateway_id) for row in rows[:limit]]


def _unlisted() -> QuerySet[Channel]:
    """Channels with unsettled charges and no entry: only these need a table, however many there ever were."""
    listed = LookupTableEntry.objects.filter(address=OuterRef("address"))
    return Channel.objects.filter(unsettled_since__isnull=False).filter(~Exists(listed))


def _contents(addresses: Iterable[str]) -> list[chain.LookupTable]:
    order = list(addresses)
    entries: dict[str, list[Pubkey]] = {address: [] for address in order}
    rows = LookupTableEntry.objects.filter(table__in=order).order_by("table", "position")
    for table, address in rows.values_list("table_id", "address"):
        entries[table].append(Pubkey.from_string(address))
    return [chain.LookupTable(Pubkey.from_string(key), tuple(found)) for key, found in entries.items()]
