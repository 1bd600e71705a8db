"""Settlements: transactions that recon built, each with the channels it settles."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField
from apps.payments.models.channels import Channel


class Settlement(models.Model):
    """One signed transaction. The bytes are stored before they are first sent, and only they are ever sent again.

    PENDING -> SENT -> CONFIRMED -> FINALIZED, or FAILED. UNKNOWN: sent, and nobody can say yet whether it landed;
    it leaves by a look-up only. FAILED means certain not to land, or landed and rolled back.

    `kind` says what it does. SETTLE and AGGREGATE have an item per channel; DISTRIBUTE pays out what channels of a
    vendor are owed; ANCHOR commits a batch; SLASH and SWEEP are about one agent. `vendor` is empty where a transaction
    is not one vendor's.
    """

    class Kind(models.TextChoices):
        SETTLE = "SETTLE", "settles channels of one vendor"
        AGGREGATE = "AGGREGATE", "settles channels of one agent"
        DISTRIBUTE = "DISTRIBUTE", "pays out what is owed"
        ANCHOR = "ANCHOR", "commits a batch"
        SLASH = "SLASH", "proves a double signing"
        SWEEP = "SWEEP", "pays out what vendors left of a forfeited bond"

    class State(models.TextChoices):
        PENDING = "PENDING", "stored, not sent"
        SENT = "SENT", "sent"
        CONFIRMED = "CONFIRMED", "in a confirmed block"
        FINALIZED = "FINALIZED", "final"
        FAILED = "FAILED", "failed"
        UNKNOWN = "UNKNOWN", "outcome unknown"

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.SETTLE)
    vendor = PubkeyField(db_index=True, blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    signature = models.CharField(max_length=88, unique=True, db_collation="C")
    raw_transaction = models.BinaryField()
    last_valid_block_height = models.BigIntegerField()
    channel_count = models.SmallIntegerField()
    planned_atomic = AtomicField(help_text="What the items would pay if every bond covers them.")
    paid_atomic = AtomicField(null=True, help_text="What the chain settled; set once that is final.")
    slot = models.BigIntegerField(null=True)
    error = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True)
    send_count = models.IntegerField(default=0)
    confirmed_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True, help_text="When it became FINALIZED or FAILED.")

    class Meta:
        db_table = "payments_settlement"
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=["PENDING", "SENT", "CONFIRMED", "FINALIZED", "FAILED", "UNKNOWN"]),
                name="payments_settlement_state",
            ),
            models.CheckConstraint(
                condition=(Q(planned_atomic__gt=0) | Q(kind__in=["ANCHOR", "SLASH"], planned_atomic=0))
                & (Q(paid_atomic__isnull=True) | Q(paid_atomic__gte=0)),
                name="payments_settlement_amounts",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["SETTLE", "DISTRIBUTE"]) & ~Q(vendor="")
                | Q(kind__in=["AGGREGATE", "ANCHOR", "SLASH", "SWEEP"], vendor=""),
                name="payments_settlement_kind",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["FINALIZED", "FAILED"], ended_at__isnull=False)
                | (~Q(state__in=["FINALIZED", "FAILED"]) & Q(ended_at__isnull=True)),
                name="payments_settlement_end",
            ),
            # A second one would find nothing owed any more.
            models.UniqueConstraint(
                fields=["vendor"],
                name="payments_settlement_one_distribution",
                condition=Q(kind="DISTRIBUTE") & ~Q(state__in=["FINALIZED", "FAILED"]),
            ),
        )
        indexes = (
            models.Index(
                fields=["id"],
                name="payments_settlement_open",
                condition=~Q(state__in=["FINALIZED", "FAILED"]),
            ),
            models.Index(
                fields=["slot"],
                name="payments_settlement_unapplied",
                condition=Q(state="FINALIZED", paid_atomic__isnull=True),
            ),
            models.Index(
                fields=["vendor", "ended_at"],
                name="payments_settlement_unpaid",
                condition=Q(state="FAILED", kind="DISTRIBUTE"),
            ),
        )

    def __str__(self) -> str:
        return self.signature


class SettlementItem(models.Model):
    """One channel in a settlement: pays `min(cumulative, up_to) - settled`, at most the bond."""

    id = models.BigAutoField(primary_key=True)
    settlement = models.ForeignKey(Settlement, models.PROTECT, related_name="items")
    channel = models.ForeignKey(Channel, models.PROTECT, related_name="settlement_items", db_column="channel")
    cumulative_atomic = AtomicField()
    context = models.BinaryField(max_length=16)
    signature = models.BinaryField(max_length=64)
    up_to_atomic = AtomicField()
    settled_before_atomic = AtomicField(help_text="The watermark when this was planned.")
    paid_atomic = AtomicField(null=True)

    class Meta:
        db_table = "payments_settlement_item"
        constraints = (
            models.UniqueConstraint(fields=["settlement", "channel"], name="payments_settlement_item_once"),
            models.CheckConstraint(
                condition=Q(cumulative_atomic__gt=0)
                & Q(up_to_atomic__gt=0)
                & Q(settled_before_atomic__gte=0)
                & (Q(paid_atomic__isnull=True) | Q(paid_atomic__gte=0)),
                name="payments_settlement_item_amounts",
            ),
        )

    def __str__(self) -> str:
        return f"{self.channel_id} to {self.up_to_atomic}"
