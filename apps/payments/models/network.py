"""Which network this database belongs to, and how far it has followed the chain. One row each."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField


class Network(models.Model):
    """Set once. A process configured for another network refuses to start on this database."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    domain = PubkeyField(help_text="The cluster's genesis hash, base58.")
    program_id = PubkeyField()
    mint = PubkeyField()
    bound_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_network"
        constraints = (models.CheckConstraint(condition=Q(id=1), name="payments_network_single"),)

    def __str__(self) -> str:
        return f"{self.program_id} on {self.domain}"


class ChainCursor(models.Model):
    """The finalised slot that mirrors and ledger reflect.

    `held_atomic` is what the vault has to hold by the ledger at that slot, null until all accounts were read once;
    `surplus_atomic` what it is known to hold beyond that. Another surplus, seen since a moment, is not believed yet.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    slot = models.BigIntegerField(default=0)
    applied_at = models.DateTimeField(db_default=Now())
    held_atomic = AtomicField(null=True)
    surplus_atomic = AtomicField(null=True)
    surplus_seen_atomic = AtomicField(null=True)
    surplus_seen_since = models.DateTimeField(null=True)

    class Meta:
        db_table = "payments_chain_cursor"
        constraints = (
            models.CheckConstraint(condition=Q(id=1), name="payments_chain_cursor_single"),
            models.CheckConstraint(
                condition=Q(held_atomic__isnull=True) | Q(held_atomic__gte=0),
                name="payments_chain_cursor_held",
            ),
        )

    def __str__(self) -> str:
        return f"slot {self.slot}"
