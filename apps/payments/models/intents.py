"""Stored intents, by the month of their nonce, and evidence of double signing."""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField
from apps.core.partitions import PartitionedTable
from apps.payments.models.parties import AgentMirror

INTENT_PARTITIONS = PartitionedTable("payment_intents", "month", ahead=3, behind=3)


class PaymentIntent(models.Model):
    """One resolved payment. The table is partitioned by `nonce_time`, the time inside the nonce, so that the
    same nonce always meets itself in one partition and a primary key can refuse it.

    `charged_through_atomic` is the sum of charges of the channel up to and including this intent: once the
    chain's watermark has reached it, the intent is settled.
    """

    class Status(models.TextChoices):
        PENDING = "PENDING", "charged, not settled yet"
        PROCESSING = "PROCESSING", "being settled"
        SETTLED = "SETTLED", "settled on chain"
        REVERSED = "REVERSED", "reversed"
        SLASHED = "SLASHED", "paid from a forfeited bond"
        VOID = "VOID", "nothing charged"

    pk = models.CompositePrimaryKey("nonce_time", "agent", "nonce", "channel")
    nonce_time = models.DateTimeField()
    agent = PubkeyField()
    nonce = models.UUIDField()
    channel = PubkeyField()
    gateway = PubkeyField()
    vendor = PubkeyField()
    digest = models.BinaryField(max_length=32)
    amount_atomic = AtomicField()
    charged_atomic = AtomicField()
    charged_through_atomic = AtomicField()
    cumulative_atomic = AtomicField()
    deadline = models.BigIntegerField(help_text="Unix seconds.")
    request_hash = models.BinaryField(max_length=32)
    signature = models.BinaryField(max_length=64)
    status = models.CharField(max_length=10, choices=Status.choices, db_collation="C")
    http_status = models.IntegerField()
    served_total_atomic = AtomicField(null=True)
    served_at = models.DateTimeField(null=True)
    receipt_signature = models.BinaryField(max_length=64, null=True)
    gateway_seq = models.BigIntegerField(help_text="Position in the gateway's log.")
    received_at = models.DateTimeField(db_default=Now())
    settled_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "payment_intents"
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=["PENDING", "PROCESSING", "SETTLED", "REVERSED", "SLASHED", "VOID"]),
                name="payment_intents_status",
            ),
            models.CheckConstraint(
                condition=Q(charged_atomic__gte=0)
                & Q(charged_atomic__lte=F("amount_atomic"))
                & Q(charged_through_atomic__gte=F("charged_atomic")),
                name="payment_intents_charge",
            ),
            models.CheckConstraint(
                condition=Q(status="VOID", charged_atomic=0) | (~Q(status="VOID") & Q(charged_atomic__gt=0)),
                name="payment_intents_void_is_free",
            ),
        )
        indexes = (
            # What following the chain turns into SETTLED; it holds unsettled rows only and so stays small.
            models.Index(
                fields=["channel", "charged_through_atomic"],
                name="payment_intents_unsettled",
                condition=Q(status__in=["PENDING", "PROCESSING"]),
            ),
            # What a top-up that comes too late turns into SETTLED after all.
            models.Index(
                fields=["channel", "charged_through_atomic"],
                name="payment_intents_reversed",
                condition=Q(status="REVERSED"),
            ),
            # An agent's payments, newest first, among everybody's.
            models.Index(fields=["agent", "nonce_time"], name="payment_intents_agent"),
        )

    def __str__(self) -> str:
        return bytes(self.digest).hex()


class FraudScan(models.Model):
    """How far stored nonces were compared with each other: up to nonce time `until`. One row."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    until = models.DateTimeField(null=True)

    class Meta:
        db_table = "payments_fraud_scan"
        constraints = (models.CheckConstraint(condition=Q(id=1), name="payments_fraud_scan_single"),)

    def __str__(self) -> str:
        return f"until {self.until}"


class Equivocation(models.Model):
    """One agent signed one nonce on two channels. `evidence` holds both as items of `POST /settlements`,
    which is all that `slash_equivocation` needs. `channel_a` < `channel_b`. `transaction` is the newest one that
    shows it to the chain, `attempts` how many there were; none is signed before `retry_after`."""

    class Status(models.TextChoices):
        OPEN = "OPEN", "found"
        SUBMITTED = "SUBMITTED", "sent to the chain"
        SLASHED = "SLASHED", "agent slashed"
        DISMISSED = "DISMISSED", "dismissed"

    id = models.BigAutoField(primary_key=True)
    agent = models.ForeignKey(AgentMirror, models.PROTECT, related_name="equivocations", db_column="agent")
    nonce = models.UUIDField()
    channel_a = PubkeyField()
    channel_b = PubkeyField()
    evidence = models.JSONField()
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.OPEN)
    transaction = models.ForeignKey("payments.Settlement", models.PROTECT, null=True, related_name="proves")
    attempts = models.SmallIntegerField(default=0)
    retry_after = models.DateTimeField(null=True)
    found_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_equivocation"
        constraints = (
            models.UniqueConstraint(
                fields=["agent", "nonce", "channel_a", "channel_b"], name="payments_equivocation_once"
            ),
            models.CheckConstraint(
                condition=Q(channel_a__lt=F("channel_b")), name="payments_equivocation_two_channels"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["OPEN", "SUBMITTED", "SLASHED", "DISMISSED"]),
                name="payments_equivocation_status",
            ),
            # One proof is enough to slash an agent.
            models.UniqueConstraint(
                fields=["agent"], name="payments_equivocation_one_sent", condition=Q(status="SUBMITTED")
            ),
        )

    def __str__(self) -> str:
        return f"{self.agent_id} {self.nonce}"
