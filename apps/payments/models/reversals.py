"""Credit that was taken back because the agent's bond did not cover it, and proofs of double signing under way."""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField
from apps.payments.models.channels import Channel
from apps.payments.models.intents import Equivocation
from apps.payments.models.parties import AgentMirror


class Reversal(models.Model):
    """`amount_atomic` of a channel's credit became uncollected; `collected_atomic` of it was paid later. The channel's
    `uncollected_atomic` is the sum of what is left of its reversals."""

    id = models.BigAutoField(primary_key=True)
    channel = models.ForeignKey(Channel, models.PROTECT, related_name="reversals", db_column="channel")
    agent = PubkeyField(db_index=True)
    gateway = PubkeyField()
    vendor = PubkeyField(db_index=True)
    amount_atomic = AtomicField()
    collected_atomic = AtomicField(default=0)
    settled_atomic = AtomicField(help_text="The channel's watermark when it was reversed.")
    intents = models.IntegerField(help_text="How many intents became REVERSED.")
    reversed_at = models.DateTimeField(db_default=Now())
    collected_at = models.DateTimeField(null=True, help_text="When all of it had been paid after all.")

    class Meta:
        db_table = "payments_reversal"
        constraints = (
            models.CheckConstraint(
                condition=Q(amount_atomic__gt=0)
                & Q(collected_atomic__gte=0)
                & Q(collected_atomic__lte=F("amount_atomic")),
                name="payments_reversal_amounts",
            ),
            models.CheckConstraint(
                condition=Q(collected_at__isnull=True) | Q(collected_atomic=F("amount_atomic")),
                name="payments_reversal_collected",
            ),
        )
        indexes = (
            models.Index(
                fields=["channel"], name="payments_reversal_open", condition=Q(collected_at__isnull=True)
            ),
        )

    def __str__(self) -> str:
        return f"{self.amount_atomic} of {self.channel_id}"


class SlashTransaction(models.Model):
    """One signed `slash_equivocation`. States and rules are those of `Settlement`: stored before it is sent, and only
    these bytes are ever sent. An agent has at most one under way."""

    class State(models.TextChoices):
        PENDING = "PENDING", "stored, not sent"
        SENT = "SENT", "sent"
        CONFIRMED = "CONFIRMED", "in a confirmed block"
        FINALIZED = "FINALIZED", "final"
        FAILED = "FAILED", "failed"
        UNKNOWN = "UNKNOWN", "outcome unknown"

    id = models.BigAutoField(primary_key=True)
    agent = models.ForeignKey(AgentMirror, models.PROTECT, related_name="slashes", db_column="agent")
    equivocation = models.ForeignKey(Equivocation, models.PROTECT, related_name="slashes")
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    signature = models.CharField(max_length=88, unique=True, db_collation="C")
    raw_transaction = models.BinaryField()
    last_valid_block_height = models.BigIntegerField()
    send_count = models.IntegerField(default=0)
    slot = models.BigIntegerField(null=True)
    error = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True, help_text="When it became FINALIZED or FAILED.")

    class Meta:
        db_table = "payments_slash"
        verbose_name_plural = "slash transactions"
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=["PENDING", "SENT", "CONFIRMED", "FINALIZED", "FAILED", "UNKNOWN"]),
                name="payments_slash_state",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["FINALIZED", "FAILED"], ended_at__isnull=False)
                | (~Q(state__in=["FINALIZED", "FAILED"]) & Q(ended_at__isnull=True)),
                name="payments_slash_end",
            ),
            models.UniqueConstraint(
                fields=["agent"],
                name="payments_slash_one_under_way",
                condition=~Q(state__in=["FINALIZED", "FAILED"]),
            ),
        )

    def __str__(self) -> str:
        return self.signature
