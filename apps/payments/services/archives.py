"""Moves the leaves of old batches from the database to files; `selectors.proofs` reads both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db import transaction

from apps.payments.archive_files import ArchiveDamaged, open_archive, write_archive
from apps.payments.errors import ArchiveUnavailable
from apps.payments.models import Batch, BatchArchive, BatchLeaf
from apps.payments.selectors.proofs import stored_leaves
from apps.payments.trees import page_roots
from machpay.protocol.merkle import merkle_root

LEAVES_PER_FILE_MAX: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Archived:
    """One file that was, or would be, written."""

    name: str
    batches: int
    leaves: int


def archivable(*, before: datetime, leaves_max: int = LEAVES_PER_FILE_MAX) -> list[list[int]]:
    """Ids of batches committed before `before` whose leaves are in the database, in runs of one file each."""
    rows = (
        Batch.objects.filter(state=Batch.State.COMMITTED, archive=None, committed_at__lt=before)
        .order_by("sequence")
        .values_list("id", "leaf_count")
    )
    runs: list[list[int]] = []
    room = 0
    for batch_id, leaf_count in rows:
        if not runs or leaf_count > room:
            runs.append([])
            room = leaves_max
        runs[-1].append(batch_id)
        room -= leaf_count
    return runs


def archive_batches(
    *, before: datetime, leaves_max: int = LEAVES_PER_FILE_MAX, progress: Callable[[int, int], None]
) -> list[Archived]:
    """Write one file after the other; `progress` is told how many of how many are done.

    A file is read back and must give every batch's root before its leaves leave the database, so an interrupted run
    leaves a file that the next one writes again, never a payment that is nowhere. Raises `ArchiveUnavailable`.
    """
    folder = Path(settings.BATCH_ARCHIVE_DIR)
    runs = archivable(before=before, leaves_max=leaves_max)
    done = []
    for number, run in enumerate(runs):
        progress(number, len(runs))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            done.append(_archive(folder, run))
        except OSError as error:
            raise ArchiveUnavailable(f"{folder} cannot be written: {error}") from error
    progress(len(runs), len(runs))
    return done


def damaged_archives(*, progress: Callable[[int, int], None]) -> dict[str, str]:
    """Files that are not what was written, and why; `progress` is told how many of how many were read."""
    folder = Path(settings.BATCH_ARCHIVE_DIR)
    archives = list(BatchArchive.objects.order_by("first_sequence"))
    found = {}
    for number, archive in enumerate(archives, start=1):
        try:
            with open_archive(folder / archive.name) as opened:
                if opened.sha256() != bytes(archive.sha256):
                    found[archive.name] = "other content than was written"
        except (OSError, ArchiveDamaged) as error:
            found[archive.name] = str(error)
        progress(number, len(archives))
    return found


def _archive(folder: Path, run: Sequence[int]) -> Archived:
    batches = list(Batch.objects.filter(id__in=run).order_by("sequence"))
    first, last = batches[0].sequence, batches[-1].sequence
    name = f"batches-{first:012}-{last:012}.mpb"
    contents = [
        (batch.sequence, stored_leaves(batch.id, start=0, count=batch.leaf_count)) for batch in batches
    ]
    sha256 = write_archive(folder / name, contents)
    _verify(folder / name, batches)
    with transaction.atomic():
        archive = BatchArchive.objects.create(
            name=name,
            first_sequence=first,
            last_sequence=last,
            leaf_count=sum(batch.leaf_count for batch in batches),
            sha256=sha256,
        )
        moved = Batch.objects.filter(id__in=run, archive=None).update(archive=archive)
        if moved != len(run):
            raise ArchiveUnavailable("another process archives these batches")
        BatchLeaf.objects.filter(batch__in=run).delete()
    return Archived(name, len(batches), archive.leaf_count)


def _verify(path: Path, batches: Sequence[Batch]) -> None:
    """The file gives every batch's own root, hashed anew from what is on the disk."""
    with open_archive(path) as archive:
        for batch, held in zip(batches, archive.batches, strict=True):
            leaves = archive.leaves(held, 0, held.leaf_count)
            if held.sequence != batch.sequence or merkle_root(page_roots(leaves)) != bytes(batch.root):
                raise ArchiveUnavailable(f"{path} does not give the root of batch {batch.sequence}")
