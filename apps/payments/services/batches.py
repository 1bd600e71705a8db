"""Batches as rows: which payments are in which, what was signed to commit it, and where its leaves are.

Recon reads the chain, signs and sends (`apps.settlement`); these services keep its work safe to repeat and to do by
several workers at once. A batch is fixed when it is cut. Committing it is a `Settlement` of kind ANCHOR, with the
states that settlements have and the way out of each; after a failure for certain, the same batch is signed anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import IntegrityError, connection, transaction

from apps.payments.models import Batch, Settlement
from apps.payments.trees import page_roots
from machpay.protocol.encoding import U64_MAX
from machpay.protocol.merkle import merkle_root
from machpay.protocol.proofs import BatchLeaf, batch_head

_FAILED: Final = Settlement.State.FAILED


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """The batch that is cut and not committed. `transaction` is the state of its newest attempt, None before the
    first; `attempts` counts them."""

    id: int
    sequence: int
    previous_head: bytes
    head: bytes
    root: bytes
    leaf_count: int
    total_atomic: int
    transaction: str | None
    signature: str
    attempts: int

    @property
    def may_be_signed(self) -> bool:
        """Nothing that was signed for it can land any more."""
        return self.transaction in (None, _FAILED)


def open_batch() -> OpenBatch | None:
    """The open batch; there is at most one."""
    row = Batch.objects.filter(state=Batch.State.CUT).select_related("transaction").first()
    if row is None:
        return None
    return OpenBatch(
        id=row.id,
        sequence=row.sequence,
        previous_head=bytes(row.previous_head),
        head=bytes(row.head),
        root=bytes(row.root),
        leaf_count=row.leaf_count,
        total_atomic=row.total_atomic,
        transaction=None if row.transaction is None else row.transaction.state,
        signature="" if row.transaction is None else row.transaction.signature,
        attempts=row.attempts,
    )


def cut_batch(*, sequence: int, previous_head: bytes, leaves_max: int) -> int | None:
    """Cut a batch over up to `leaves_max` payments that are in none, the longest stored first; `sequence` and
    `previous_head` are the chain's. Returns its id; None if nothing waits, or another worker was faster.

    Taking payments out of the queue and putting them into the batch is one transaction.
    """
    try:
        with transaction.atomic():
            if Batch.objects.filter(state=Batch.State.CUT).exists():
                return None
            leaves = _take(leaves_max)
            return _store(sequence, previous_head, leaves) if leaves else None
    except IntegrityError:
        return None


_TAKE: Final = """
DELETE FROM payments_unbatched WHERE id IN (
    SELECT id FROM payments_unbatched ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING digest, charged_atomic, served_total_atomic
"""
_COPY_LEAVES: Final = (
    "COPY payments_batch_leaf (digest, batch_id, index, charged_atomic, served_total_atomic)"
    " FROM STDIN (FORMAT BINARY)"
)


def _take(leaves_max: int) -> list[BatchLeaf]:
    """Payments out of the queue, in the order that leaves have."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, [leaves_max])
        found = [BatchLeaf(bytes(digest), int(charged), int(served)) for digest, charged, served in cursor]
    return sorted(found, key=lambda leaf: leaf.digest)


def _store(sequence: int, previous_head: bytes, leaves: Sequence[BatchLeaf]) -> int:
    pages = page_roots(leaves)
    root = merkle_root(pages)
    batch = Batch.objects.create(
        sequence=sequence,
        previous_head=previous_head,
        head=batch_head(previous_head, sequence, len(leaves), root),
        root=root,
        page_roots=b"".join(pages),
        leaf_count=len(leaves),
        # What the chain shows holds 64 bits, which dishonest charges can pass together; each leaf is exact.
        total_atomic=min(sum(leaf.charged for leaf in leaves), U64_MAX),
    )
    with connection.cursor() as cursor, cursor.copy(_COPY_LEAVES) as copy:
        copy.set_types(["bytea", "int8", "int8", "numeric", "numeric"])
        for index, leaf in enumerate(leaves):
            copy.write_row((leaf.digest, batch.id, index, leaf.charged, leaf.served_total))
    return batch.id


def move_batch(batch: OpenBatch, *, sequence: int, previous_head: bytes) -> bool:
    """Put the open batch at another place in the chain, because somebody else committed at its own. False if an
    attempt to commit it may still land, or another worker was faster."""
    head = batch_head(previous_head, sequence, batch.leaf_count, batch.root)
    with transaction.atomic():
        row = _lock_unsigned(batch)
        if row is None:
            return False
        row.sequence, row.previous_head, row.head = sequence, previous_head, head
        row.save(update_fields=["sequence", "previous_head", "head"])
    return True


def store_attempt(
    batch: OpenBatch, *, raw_transaction: bytes, signature: str, last_valid_block_height: int
) -> int | None:
    """Store the signed transaction that commits the open batch; send it only after that has committed. Returns its
    settlement's id; None if another worker stored one."""
    with transaction.atomic():
        row = _lock_unsigned(batch)
        if row is None:
            return None
        row.transaction = Settlement.objects.create(
            kind=Settlement.Kind.ANCHOR,
            signature=signature,
            raw_transaction=raw_transaction,
            last_valid_block_height=last_valid_block_height,
            channel_count=0,
            planned_atomic=0,
        )
        row.attempts += 1
        row.save(update_fields=["transaction", "attempts"])
        return row.transaction.id


def mark_committed(batch: OpenBatch, *, signature: str, slot: int, committed_at: datetime) -> bool:
    """The batch's account is final at `slot`, with this content; `signature` is the transaction that made it."""
    open_ones = Batch.objects.filter(id=batch.id, sequence=batch.sequence, state=Batch.State.CUT)
    return bool(
        open_ones.update(
            state=Batch.State.COMMITTED, signature=signature, slot=slot, committed_at=committed_at
        )
    )


def _lock_unsigned(batch: OpenBatch) -> Batch | None:
    """The row, locked, if it still is as `batch` says and nothing signed for it can land."""
    rows = Batch.objects.select_for_update(no_key=True, of=("self",)).select_related("transaction")
    row = rows.filter(id=batch.id, state=Batch.State.CUT, attempts=batch.attempts).first()
    if row is None or (row.transaction is not None and row.transaction.state != _FAILED):
        return None
    return row if row.sequence == batch.sequence else None
