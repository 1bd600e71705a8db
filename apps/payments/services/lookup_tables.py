"""The registry of lookup tables: a change is recorded before it is sent, and an entry once it is final.

Recon builds and sends; these services keep its work safe to repeat and to do by several workers at once.
"""

from collections.abc import Sequence
from datetime import datetime

from django.db import IntegrityError, transaction

from apps.payments.models import LookupTable, LookupTableEntry
from apps.payments.selectors.lookup_tables import idle_tables


def begin_table(
    *, address: str, vendor: str, recent_slot: int, pending_length: int, until_height: int
) -> bool:
    """Record a table that is about to be created with `pending_length` addresses, by a transaction that
    cannot land above `until_height`; commit before sending it.

    False if another worker has a change of this vendor under way, or the address is taken: then send nothing.
    """
    try:
        with transaction.atomic():
            LookupTable.objects.create(
                address=address,
                vendor=vendor,
                recent_slot=recent_slot,
                pending_length=pending_length,
                pending_until_height=until_height,
            )
    except IntegrityError:
        return False
    return True


def begin_extension(address: str, *, length: int, pending_length: int, until_height: int) -> bool:
    """Record that a table of `length` final entries is about to grow; as `begin_table`."""
    table = LookupTable.objects.filter(address=address, length=length, pending_length=None)
    try:
        with transaction.atomic():
            changed = table.update(pending_length=pending_length, pending_until_height=until_height)
    except IntegrityError:
        return False
    return bool(changed)


def record_entries(address: str, *, addresses: Sequence[str], ended: bool) -> int:
    """Take over what a table holds in finalised state; returns how many entries are new.

    `ended` says that nothing under way can land any more. The change also ends when all of it is there.
    """
    with transaction.atomic():
        table = LookupTable.objects.select_for_update(no_key=True).filter(address=address).first()
        if table is None or len(addresses) < table.length:
            return 0
        known = table.length
        LookupTableEntry.objects.bulk_create(
            LookupTableEntry(table=table, position=position, address=addresses[position])
            for position in range(known, len(addresses))
        )
        table.length = len(addresses)
        if ended or (table.pending_length is not None and table.length >= table.pending_length):
            table.pending_length = table.pending_until_height = None
        table.save(update_fields=["length", "pending_length", "pending_until_height"])
    return len(addresses) - known


def forget_table(address: str) -> bool:
    """Drop a table that was never created and cannot be any more: without an entry."""
    deleted, _ = LookupTable.objects.filter(address=address, length=0).delete()
    return bool(deleted)


def retire_tables(idle_since: datetime) -> int:
    """Drop what `idle_tables` finds, with its entries: nothing is planned with it from now on. Returns how many."""
    with transaction.atomic():
        # Locked and then looked at again: a change that another worker just began keeps its table.
        rows = LookupTable.objects.select_for_update().filter(address__in=idle_tables(idle_since))
        addresses = [row.address for row in rows if row.pending_length is None]
        LookupTable.objects.filter(address__in=addresses).delete()
    return len(addresses)
