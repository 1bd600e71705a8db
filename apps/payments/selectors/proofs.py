"""Inclusion proofs of payments, from leaves in the database or in archive files."""

from contextlib import ExitStack
from datetime import UTC
from pathlib import Path

from django.conf import settings

from apps.payments.archive_files import ArchiveDamaged, open_archive
from apps.payments.errors import ArchiveUnavailable, NotBatchedYet, UnknownPayment
from apps.payments.models import Batch, BatchArchive, BatchLeaf, UnbatchedPayment
from apps.payments.trees import PAGE_LEAVES, page_of, path_in_pages, split_roots
from machpay.chain.network import Network
from machpay.protocol.encoding import to_rfc3339
from machpay.protocol.proofs import AnchoredBatch, LeafPlace, ProofAnswer
from machpay.protocol.proofs import BatchLeaf as Leaf


def proof_of(digest: bytes, *, network: Network) -> ProofAnswer:
    """The proof of the payment with this digest, against its batch on the chain.

    Raises `UnknownPayment`, `NotBatchedYet` while its batch is not final, `ArchiveUnavailable` if its leaves are in a
    file that cannot be read.
    """
    # In the order in which a payment moves, so that one that moves meanwhile is met further on.
    if UnbatchedPayment.objects.filter(digest=digest).exists():
        raise _not_yet()
    row = BatchLeaf.objects.filter(digest=digest).values_list("batch", "index").first()
    if row is not None:
        batch_id, index = row
        batch = Batch.objects.get(id=batch_id)
        if batch.state != Batch.State.COMMITTED:
            raise _not_yet()
        page = stored_leaves(batch_id, start=page_of(index), count=PAGE_LEAVES)
        if page:
            return _answer(batch, page, index, network)
    return _archived(digest, network)


def stored_leaves(batch_id: int, *, start: int, count: int) -> list[Leaf]:
    """Leaves of a batch in the database from index `start` on, in order."""
    rows = BatchLeaf.objects.filter(batch=batch_id, index__gte=start, index__lt=start + count)
    columns = rows.order_by("index").values_list("digest", "charged_atomic", "served_total_atomic")
    return [Leaf(bytes(digest), charged, served) for digest, charged, served in columns]


def _not_yet() -> NotBatchedYet:
    return NotBatchedYet(
        "the payment's batch is not final on the chain yet",
        retry_after_s=max(1, round(settings.BATCH_INTERVAL_S)),
    )


def _archived(digest: bytes, network: Network) -> ProofAnswer:
    folder = Path(settings.BATCH_ARCHIVE_DIR)
    for name in BatchArchive.objects.order_by("-first_sequence").values_list("name", flat=True):
        with ExitStack() as stack:
            try:
                archive = stack.enter_context(open_archive(folder / name))
            except (OSError, ArchiveDamaged) as error:
                raise ArchiveUnavailable(
                    f"the archive {name} cannot be read now", retry_after_s=60
                ) from error
            found = archive.find(digest)
            if found is not None:
                held, index = found
                page = archive.leaves(held, page_of(index), PAGE_LEAVES)
                return _answer(Batch.objects.get(sequence=held.sequence), page, index, network)
    raise UnknownPayment("no payment with this digest was stored")


def _answer(batch: Batch, page: list[Leaf], index: int, network: Network) -> ProofAnswer:
    leaf = page[index - page_of(index)]
    siblings = path_in_pages(page, split_roots(bytes(batch.page_roots)), index)
    committed_at = batch.committed_at
    assert committed_at is not None
    assert batch.slot is not None
    return ProofAnswer(
        digest=leaf.digest.hex(),
        leaf=LeafPlace(index, str(leaf.charged), str(leaf.served_total)),
        leaf_count=batch.leaf_count,
        siblings=[sibling.hex() for sibling in siblings],
        root=bytes(batch.root).hex(),
        batch=AnchoredBatch(
            seq=batch.sequence,
            address=str(network.batch(batch.sequence)),
            transaction=batch.signature,
            slot=batch.slot,
            committed_at=to_rfc3339(int(committed_at.astimezone(UTC).timestamp())),
        ),
    )
