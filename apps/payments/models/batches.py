"""Batches: every stored payment becomes a leaf of one Merkle tree whose root stands on the chain.

stored intent -> UnbatchedPayment (by a trigger, in the same transaction) -> BatchLeaf of one Batch -> archive file
"""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField
from apps.payments.models.settlements import Settlement


class UnbatchedPayment(models.Model):
    """A stored intent that is in no batch yet. The database itself puts every new intent here
    (`payments_queue_for_batch`), and cutting a batch takes it out, so that none is left out or taken twice."""

    id = models.BigAutoField(primary_key=True)
    digest = models.BinaryField(max_length=32, unique=True)
    charged_atomic = AtomicField()
    served_total_atomic = AtomicField(help_text="The receipt's, 0 where there was no receipt.")

    class Meta:
        db_table = "payments_unbatched"

    def __str__(self) -> str:
        return bytes(self.digest).hex()


class BatchArchive(models.Model):
    """A file that holds the leaves of consecutive batches; `name` is relative to `BATCH_ARCHIVE_DIR`."""

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=120, unique=True)
    first_sequence = models.BigIntegerField()
    last_sequence = models.BigIntegerField()
    leaf_count = models.BigIntegerField()
    sha256 = models.BinaryField(max_length=32)
    written_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_batch_archive"
        constraints = (
            models.CheckConstraint(
                condition=Q(first_sequence__lte=F("last_sequence")) & Q(leaf_count__gt=0),
                name="payments_batch_archive_range",
            ),
        )

    def __str__(self) -> str:
        return self.name


class Batch(models.Model):
    """One Merkle tree and its place in the chain of batches.

    CUT: its leaves are fixed, and `transaction` is the newest attempt to commit it. COMMITTED: its account is final.
    One batch is open at a time. `sequence` and `previous_head` of an open batch follow the chain, should somebody else
    have committed there; what is in the batch never changes. `page_roots` are the hashes over each run of 1,024 leaves,
    so that a proof reads one run and not the whole batch.
    """

    class State(models.TextChoices):
        CUT = "CUT", "cut, not committed yet"
        COMMITTED = "COMMITTED", "final on chain"

    id = models.BigAutoField(primary_key=True)
    sequence = models.BigIntegerField(unique=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.CUT)
    previous_head = models.BinaryField(max_length=32)
    head = models.BinaryField(max_length=32)
    root = models.BinaryField(max_length=32)
    page_roots = models.BinaryField()
    leaf_count = models.BigIntegerField()
    total_atomic = AtomicField()
    transaction = models.OneToOneField(
        Settlement, models.PROTECT, null=True, related_name="batch", help_text="The newest attempt."
    )
    attempts = models.IntegerField(default=0)
    signature = models.CharField(
        max_length=88, blank=True, db_collation="C", help_text="The transaction that committed it."
    )
    slot = models.BigIntegerField(null=True, help_text="A final slot that has it.")
    cut_at = models.DateTimeField(db_default=Now())
    committed_at = models.DateTimeField(null=True, help_text="The chain's time.")
    archive = models.ForeignKey(
        BatchArchive, models.PROTECT, null=True, related_name="batches", help_text="Where its leaves are now."
    )

    class Meta:
        db_table = "payments_batch"
        verbose_name_plural = "batches"
        constraints = (
            models.CheckConstraint(
                condition=Q(state="CUT", committed_at__isnull=True, archive__isnull=True)
                | (Q(state="COMMITTED", committed_at__isnull=False, slot__isnull=False) & ~Q(signature="")),
                name="payments_batch_state",
            ),
            models.CheckConstraint(
                condition=Q(sequence__gte=0) & Q(leaf_count__gt=0) & Q(total_atomic__gte=0),
                name="payments_batch_amounts",
            ),
            # Otherwise two workers could cut two batches for one place in the chain.
            models.UniqueConstraint(
                fields=["state"], name="payments_batch_one_open", condition=Q(state="CUT")
            ),
        )

    def __str__(self) -> str:
        return f"batch {self.sequence}"


class BatchLeaf(models.Model):
    """One payment in a batch that is not archived."""

    digest = models.BinaryField(max_length=32, primary_key=True)
    batch = models.ForeignKey(Batch, models.PROTECT, related_name="leaves", db_index=False)
    index = models.BigIntegerField()
    charged_atomic = AtomicField()
    served_total_atomic = AtomicField()

    class Meta:
        db_table = "payments_batch_leaf"
        constraints = (
            models.UniqueConstraint(fields=["batch", "index"], name="payments_batch_leaf_place"),
            models.CheckConstraint(
                condition=Q(index__gte=0) & Q(charged_atomic__gte=0) & Q(served_total_atomic__gte=0),
                name="payments_batch_leaf_amounts",
            ),
        )

    def __str__(self) -> str:
        return bytes(self.digest).hex()
