"""Payouts: custodial balances on their way to wallets. The rows here; the chain is recon's work.

What must always hold is enforced by PostgreSQL too; the triggers are in migrations/sql/payout_guards.sql.
"""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField


class PayoutDestination(models.Model):
    """A wallet that a user may be paid at, once it is confirmed and the cooling-off after that is over."""

    id = models.BigAutoField(primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="payout_destinations")
    wallet = PubkeyField()
    challenge = models.CharField(max_length=64, help_text="What the wallet signs to confirm it.")
    created_at = models.DateTimeField(db_default=Now())
    confirmed_at = models.DateTimeField(null=True)
    usable_from = models.DateTimeField(null=True)
    removed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "vendors_payout_destination"
        constraints = (
            models.UniqueConstraint(
                fields=["user", "wallet"],
                name="vendors_payout_destination_once",
                condition=Q(removed_at__isnull=True),
            ),
            models.CheckConstraint(
                condition=Q(confirmed_at__isnull=True, usable_from__isnull=True)
                | Q(confirmed_at__isnull=False, usable_from__isnull=False),
                name="vendors_payout_destination_confirmed",
            ),
        )

    def __str__(self) -> str:
        return self.wallet


class Payout(models.Model):
    """One payout. The ledger holds its amount from the request on, and gives it away or back when it ends.

    PENDING -> SENT -> CONFIRMED, or FAILED. SENT goes back to PENDING when an attempt is certain not to have paid.
    """

    class Status(models.TextChoices):
        PENDING = "PENDING", "requested"
        SENT = "SENT", "on its way"
        CONFIRMED = "CONFIRMED", "paid and final"
        FAILED = "FAILED", "not paid; the balance is back"

    id = models.BigAutoField(primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="payouts", db_index=False)
    reference = models.CharField(max_length=64, help_text="The user's own name for it.")
    amount_atomic = AtomicField()
    wallet = PubkeyField(help_text="Paid into this wallet's associated token account.")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING, db_collation="C")
    tx_hash = models.CharField(max_length=88, blank=True, db_collation="C", help_text="What paid it.")
    attempt_count = models.SmallIntegerField(default=0)
    not_before = models.DateTimeField(null=True, help_text="Not tried again before this time.")
    error = models.CharField(max_length=200, blank=True)
    cancelled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", db_index=False
    )
    created_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "payouts"
        constraints = (
            models.UniqueConstraint(fields=["user", "reference"], name="payouts_reference"),
            models.CheckConstraint(condition=Q(amount_atomic__gt=0), name="payouts_amount"),
            models.CheckConstraint(
                condition=Q(status__in=["PENDING", "SENT"], ended_at__isnull=True, tx_hash="")
                | (Q(status="CONFIRMED", ended_at__isnull=False) & ~Q(tx_hash=""))
                | Q(status="FAILED", ended_at__isnull=False, tx_hash=""),
                name="payouts_end",
            ),
        )
        indexes = (
            models.Index(fields=["id"], name="payouts_pending", condition=Q(status="PENDING")),
            models.Index(fields=["user", "-id"], name="payouts_user"),
        )

    def __str__(self) -> str:
        return self.reference


class PayoutAttempt(models.Model):
    """One signed transaction of a payout. Its bytes are stored before they are first sent, and only they are sent.

    OPEN until the chain has decided: LANDED, FAILED (landed and had no effect), or EXPIRED: its last valid height is
    final and history does not know it, so it never can. A payout has at most one attempt that is OPEN or LANDED.
    """

    class Outcome(models.TextChoices):
        OPEN = "OPEN", "undecided"
        LANDED = "LANDED", "final"
        FAILED = "FAILED", "final, without effect"
        EXPIRED = "EXPIRED", "can never land"

    id = models.BigAutoField(primary_key=True)
    payout = models.ForeignKey(Payout, models.PROTECT, related_name="attempts", db_index=False)
    number = models.SmallIntegerField()
    signature = models.CharField(max_length=88, unique=True, db_collation="C")
    raw_transaction = models.BinaryField()
    last_valid_block_height = models.BigIntegerField()
    outcome = models.CharField(max_length=8, choices=Outcome.choices, default=Outcome.OPEN, db_collation="C")
    send_count = models.IntegerField(default=0)
    slot = models.BigIntegerField(null=True)
    error = models.CharField(max_length=200, blank=True, help_text="What the last send or the chain said.")
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "payout_attempts"
        constraints = (
            models.UniqueConstraint(fields=["payout", "number"], name="payout_attempts_number"),
            models.UniqueConstraint(
                fields=["payout"],
                name="payout_attempts_one_alive",
                condition=Q(outcome__in=["OPEN", "LANDED"]),
            ),
            models.CheckConstraint(
                condition=Q(outcome="OPEN", ended_at__isnull=True)
                | Q(outcome__in=["LANDED", "FAILED", "EXPIRED"], ended_at__isnull=False),
                name="payout_attempts_end",
            ),
        )
        indexes = (models.Index(fields=["id"], name="payout_attempts_open", condition=Q(outcome="OPEN")),)

    def __str__(self) -> str:
        return self.signature
