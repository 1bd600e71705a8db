"""The rows of the double-entry ledger. Written by `services.post` only, and by no other app.

What must always hold is enforced by PostgreSQL itself; the triggers are in migrations/sql/guards.sql.
"""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField
from apps.ledger.chart import MAY_BE_NEGATIVE, SHARDED, SHARDS, AccountKind, TransferKind
from apps.ledger.types import Book


class Account(models.Model):
    """A balance. `version` counts its entries; the balance is that of entry number `version`, and `held_atomic` is
    the sum of its open holds. An account of a sharded kind is several rows, apart by `shard`."""

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=32, db_collation="C")
    owner = models.CharField(max_length=64, db_collation="C")
    sub = models.CharField(max_length=64, db_collation="C", blank=True)
    currency = models.CharField(max_length=44, db_collation="C")
    book = models.CharField(max_length=16, db_collation="C", default=Book.MAIN, db_default=Book.MAIN)
    shard = models.SmallIntegerField(default=0, db_default=0)
    balance_atomic = AtomicField(default=0)
    held_atomic = AtomicField(default=0, db_default=0)
    version = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "ledger_account"
        constraints = (
            models.UniqueConstraint(
                fields=["owner", "kind", "sub", "currency", "book", "shard"], name="ledger_account_name"
            ),
            models.CheckConstraint(condition=Q(kind__in=[*AccountKind]), name="ledger_account_kind_known"),
            models.CheckConstraint(condition=Q(book__in=[*Book]), name="ledger_account_book_known"),
            models.CheckConstraint(
                condition=Q(shard=0) | Q(shard__gt=0, shard__lt=SHARDS, kind__in=[*SHARDED]),
                name="ledger_account_shard",
            ),
            models.CheckConstraint(condition=Q(held_atomic__gte=0), name="ledger_account_held"),
            models.CheckConstraint(
                condition=Q(balance_atomic__gte=F("held_atomic"))
                | Q(held_atomic=0, kind__in=[*MAY_BE_NEGATIVE]),
                name="ledger_account_not_negative",
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind}({self.owner}{', ' + self.sub if self.sub else ''})"


class Transfer(models.Model):
    """One balanced movement of money, for ever. Corrections are new transfers."""

    id = models.BigAutoField(primary_key=True)
    key = models.CharField(max_length=200, unique=True, db_collation="C")
    kind = models.CharField(max_length=32)
    input_hash = models.BinaryField(max_length=32)
    entry_count = models.SmallIntegerField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "ledger_transfer"
        constraints = (
            models.CheckConstraint(condition=Q(kind__in=[*TransferKind]), name="ledger_transfer_kind_known"),
            models.CheckConstraint(condition=Q(entry_count__gte=2), name="ledger_transfer_two_sides"),
        )

    def __str__(self) -> str:
        return self.key


class Entry(models.Model):
    """One account's part of a transfer: number `account_version` in the account's history."""

    id = models.BigAutoField(primary_key=True)
    # The foreign keys are checked by the guards together with the balance: one join instead of two look-ups a row.
    transfer = models.ForeignKey(Transfer, models.DO_NOTHING, related_name="entries", db_constraint=False)
    account = models.ForeignKey(
        Account, models.DO_NOTHING, related_name="entries", db_constraint=False, db_index=False
    )
    account_version = models.BigIntegerField()
    amount_atomic = AtomicField()
    previous_atomic = AtomicField()
    balance_atomic = AtomicField()

    class Meta:
        db_table = "ledger_entry"
        verbose_name_plural = "entries"
        constraints = (
            models.UniqueConstraint(fields=["account", "account_version"], name="ledger_entry_position"),
            models.CheckConstraint(condition=~Q(amount_atomic=0), name="ledger_entry_moves"),
            models.CheckConstraint(
                condition=Q(balance_atomic=F("previous_atomic") + F("amount_atomic")),
                name="ledger_entry_adds_up",
            ),
        )

    def __str__(self) -> str:
        return f"{self.account_id}/{self.account_version}"


class Hold(models.Model):
    """A part of an account's balance that is set aside. It resolves once: posted by a transfer, voided, or expired."""

    class State(models.TextChoices):
        OPEN = "OPEN", "held"
        POSTED = "POSTED", "posted"
        VOIDED = "VOIDED", "voided"
        EXPIRED = "EXPIRED", "expired"

    id = models.BigAutoField(primary_key=True)
    key = models.CharField(max_length=200, unique=True, db_collation="C")
    input_hash = models.BinaryField(max_length=32)
    account = models.ForeignKey(Account, models.PROTECT, related_name="holds", db_index=False)
    amount_atomic = AtomicField()
    state = models.CharField(
        max_length=8, choices=State.choices, default=State.OPEN, db_default=State.OPEN, db_collation="C"
    )
    posted_atomic = AtomicField(default=0, db_default=0, help_text="What the posting transfer took of it.")
    transfer = models.OneToOneField(Transfer, models.PROTECT, null=True, related_name="hold")
    expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "ledger_hold"
        constraints = (
            models.CheckConstraint(condition=Q(amount_atomic__gt=0), name="ledger_hold_amount"),
            models.CheckConstraint(
                condition=Q(
                    state="POSTED",
                    transfer__isnull=False,
                    posted_atomic__gt=0,
                    posted_atomic__lte=F("amount_atomic"),
                    resolved_at__isnull=False,
                )
                | Q(
                    state__in=["VOIDED", "EXPIRED"],
                    transfer__isnull=True,
                    posted_atomic=0,
                    resolved_at__isnull=False,
                )
                | Q(state="OPEN", transfer__isnull=True, posted_atomic=0, resolved_at__isnull=True),
                name="ledger_hold_resolution",
            ),
        )
        indexes = (
            models.Index(fields=["account"], name="ledger_hold_open", condition=Q(state="OPEN")),
            models.Index(
                fields=["expires_at"],
                name="ledger_hold_expiring",
                condition=Q(state="OPEN", expires_at__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return self.key
