"""The index of what the program recorded on the chain: finalised transactions, their events, and how far it reaches.

Money follows accounts, not this index: it says which accounts to look at, and which transaction moved them.
"""

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from apps.core.fields import PubkeyField


class ChainTransaction(models.Model):
    """One finalised transaction that succeeded and named the program.

    LISTED -> READ -> APPLIED. LISTED: the RPC server names it and has not shown it yet. READ: its events are
    stored, the accounts they touched are to be looked at. UNREADABLE: shown, and not understood.
    """

    class State(models.TextChoices):
        LISTED = "LISTED", "listed, not shown yet"
        READ = "READ", "read"
        APPLIED = "APPLIED", "taken over"
        UNREADABLE = "UNREADABLE", "not understood"

    signature = models.CharField(primary_key=True, max_length=88, db_collation="C")
    slot = models.BigIntegerField(db_index=True)
    block_time = models.BigIntegerField(null=True, help_text="Unix seconds, as the cluster estimates them.")
    state = models.CharField(max_length=10, choices=State.choices)
    attempts = models.IntegerField(default=0, help_text="How often it was asked for without an answer.")
    error = models.CharField(max_length=200, blank=True)
    found_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_chain_transaction"
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=["LISTED", "READ", "APPLIED", "UNREADABLE"]),
                name="payments_chain_transaction_state",
            ),
        )
        indexes = (
            models.Index(fields=["slot"], name="payments_chain_tx_open", condition=~Q(state="APPLIED")),
        )

    def __str__(self) -> str:
        return self.signature


class ChainEvent(models.Model):
    """One event: the `position`-th that the transaction's instruction number `instruction` recorded, itself or through
    what it called. `keys` are all addresses in it, `data` its fields; amounts are decimal strings of atomic units."""

    id = models.BigAutoField(primary_key=True)
    transaction = models.ForeignKey(
        ChainTransaction, models.PROTECT, related_name="events", db_column="signature", db_index=False
    )
    instruction = models.SmallIntegerField()
    position = models.SmallIntegerField()
    slot = models.BigIntegerField()
    kind = models.CharField(max_length=32, db_collation="C")
    keys = ArrayField(PubkeyField())
    data = models.JSONField()

    class Meta:
        db_table = "payments_chain_event"
        constraints = (
            models.UniqueConstraint(
                fields=["transaction", "instruction", "position"], name="payments_chain_event_once"
            ),
        )
        indexes = (
            models.Index(fields=["kind", "slot"], name="payments_chain_event_kind"),
            GinIndex(fields=["keys"], name="payments_chain_event_keys"),
        )

    def __str__(self) -> str:
        return f"{self.kind} in {self.transaction_id}"


class ChainIndex(models.Model):
    """How far the index reaches. One row.

    Every event up to finalised slot `slot` is stored, except those of transactions still LISTED. `snapshot_slot` is
    the last slot at which all accounts were read; `snapshot_wanted` says why they have to be read again, at slot
    `snapshot_wanted_slot` or later.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    slot = models.BigIntegerField(default=0)
    snapshot_slot = models.BigIntegerField(default=0)
    snapshot_wanted = models.CharField(max_length=200, blank=True, default="the first start")
    snapshot_wanted_slot = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_chain_index"
        constraints = (models.CheckConstraint(condition=Q(id=1), name="payments_chain_index_single"),)

    def __str__(self) -> str:
        return f"slot {self.slot}"


class VendorMirror(models.Model):
    """A vendor's account on the chain at finalised slot `slot`: where its settlements are paid."""

    authority = PubkeyField(primary_key=True)
    payout = PubkeyField()
    slot = models.BigIntegerField()

    class Meta:
        db_table = "payments_vendor"
        verbose_name = "vendor account"

    def __str__(self) -> str:
        return self.authority


class Reconciliation(models.Model):
    """One comparison of chain and ledger. `differences` lists what did not match, in atomic units as strings."""

    id = models.BigAutoField(primary_key=True)
    slot = models.BigIntegerField()
    equal = models.BooleanField()
    terms = models.JSONField()
    differences = models.JSONField()
    made_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        db_table = "payments_reconciliation"

    def __str__(self) -> str:
        return f"slot {self.slot}: {'equal' if self.equal else 'NOT EQUAL'}"
