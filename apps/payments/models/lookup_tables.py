"""The registry of address lookup tables, as far as they are final on the chain."""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.core.fields import PubkeyField


class LookupTable(models.Model):
    """One table of one vendor. `length` entries are final and may be used.

    A change under way has `pending_length`, what the table will hold if all of it lands, and
    `pending_until_height`, after which none of it can. The row is stored before the table is created, so
    that a table is never lost; `recent_slot` is the slot its address was derived from.
    """

    address = PubkeyField(primary_key=True)
    vendor = PubkeyField(db_index=True)
    recent_slot = models.BigIntegerField()
    length = models.SmallIntegerField(default=0)
    pending_length = models.SmallIntegerField(null=True)
    pending_until_height = models.BigIntegerField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_lookup_table"
        constraints = (
            models.CheckConstraint(
                condition=Q(length__gte=0) & Q(length__lte=256), name="payments_lookup_table_length"
            ),
            models.CheckConstraint(
                condition=Q(pending_length__isnull=True, pending_until_height__isnull=True)
                | Q(pending_length__gt=F("length"), pending_until_height__isnull=False),
                name="payments_lookup_table_pending",
            ),
            # Otherwise two workers would put the same channels into two tables.
            models.UniqueConstraint(
                fields=["vendor"],
                name="payments_lookup_table_one_change",
                condition=Q(pending_length__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return self.address


class LookupTableEntry(models.Model):
    """The address at one place of a table. Tables only grow: an entry never changes."""

    id = models.BigAutoField(primary_key=True)
    table = models.ForeignKey(LookupTable, models.CASCADE, related_name="entries", db_column="table_address")
    position = models.SmallIntegerField()
    address = PubkeyField(db_index=True)

    class Meta:
        db_table = "payments_lookup_table_entry"
        constraints = (
            models.UniqueConstraint(fields=["table", "position"], name="payments_lookup_table_entry_place"),
            models.CheckConstraint(
                condition=Q(position__gte=0) & Q(position__lte=255),
                name="payments_lookup_table_entry_position",
            ),
        )

    def __str__(self) -> str:
        return f"{self.address} at {self.position}"
