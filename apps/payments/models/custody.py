"""Money that the network keeps for users: how it came in, and what they paid each other. Balances are the ledger's."""

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField


class DepositReference(models.Model):
    """The address that a user's transfers to the custodial wallet name beside the accounts they move (as Solana Pay
    does), and by which they are known. Nobody has its key and nothing is ever kept there."""

    reference = PubkeyField(primary_key=True)
    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.PROTECT, related_name="deposit_reference")
    issued_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_deposit_reference"

    def __str__(self) -> str:
        return self.reference


class CustodialDeposit(models.Model):
    """One finalised token transfer into the custodial wallet. `instruction` is its place in the transaction: the
    number of the transaction's own instruction, a dot, and the number of the call below it; in a batch of the token
    program another dot and the number there."""

    class Status(models.TextChoices):
        CREDITED = "CREDITED", "credited by its reference"
        UNCLAIMED = "UNCLAIMED", "names no reference"
        ATTRIBUTED = "ATTRIBUTED", "credited by an operator"

    id = models.BigAutoField(primary_key=True)
    signature = models.CharField(max_length=88, db_collation="C")
    instruction = models.CharField(max_length=12, db_collation="C")
    amount_atomic = AtomicField()
    source = PubkeyField(blank=True, help_text="The token account it came from; empty if it was minted.")
    slot = models.BigIntegerField()
    status = models.CharField(max_length=10, choices=Status.choices)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="custodial_deposits"
    )
    attributed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", db_index=False
    )
    attributed_at = models.DateTimeField(null=True)
    note = models.CharField(max_length=300, blank=True, help_text="Why an operator credited whom.")
    seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_custodial_deposit"
        constraints = (
            models.UniqueConstraint(
                fields=["signature", "instruction"], name="payments_custodial_deposit_once"
            ),
            models.CheckConstraint(
                condition=Q(amount_atomic__gt=0), name="payments_custodial_deposit_amount"
            ),
            models.CheckConstraint(
                condition=Q(status="UNCLAIMED", user__isnull=True, attributed_by__isnull=True)
                | Q(status="CREDITED", user__isnull=False, attributed_by__isnull=True)
                | (Q(status="ATTRIBUTED", user__isnull=False, attributed_by__isnull=False) & ~Q(note="")),
                name="payments_custodial_deposit_whose",
            ),
        )

    def __str__(self) -> str:
        return f"{self.signature} {self.instruction}"


class CustodyCursor(models.Model):
    """How far the custodial wallet's history was read: its newest transaction then. One row."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    signature = models.CharField(max_length=88, blank=True, db_collation="C")
    slot = models.BigIntegerField(default=0)

    class Meta:
        db_table = "payments_custody_cursor"
        constraints = (models.CheckConstraint(condition=Q(id=1), name="payments_custody_cursor_single"),)

    def __str__(self) -> str:
        return self.signature


class CustodialPayment(models.Model):
    """One user paid another within the custodial wallet. Final as soon as it is stored; the ledger moved with it."""

    id = models.BigAutoField(primary_key=True)
    payer = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", db_index=False)
    payee = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", db_index=False)
    amount_atomic = AtomicField()
    reference = models.CharField(max_length=64, help_text="The payer's own name for it.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_custodial_payment"
        constraints = (
            models.UniqueConstraint(fields=["payer", "reference"], name="payments_custodial_payment_once"),
            models.CheckConstraint(
                condition=Q(amount_atomic__gt=0), name="payments_custodial_payment_amount"
            ),
            models.CheckConstraint(condition=~Q(payer=F("payee")), name="payments_custodial_payment_parties"),
        )
        indexes = (
            models.Index(fields=["payer", "-id"], name="payments_custodial_payer"),
            models.Index(fields=["payee", "-id"], name="payments_custodial_payee"),
        )

    def __str__(self) -> str:
        return self.reference
