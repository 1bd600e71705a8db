"""Which network this database belongs to, and how far it has followed the chain. One row each."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from apps.core.fields import PubkeyField


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
    """The finalised slot that mirrors and ledger reflect."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    slot = models.BigIntegerField(default=0)
    applied_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_chain_cursor"
        constraints = (models.CheckConstraint(condition=Q(id=1), name="payments_chain_cursor_single"),)

    def __str__(self) -> str:
        return f"slot {self.slot}"
