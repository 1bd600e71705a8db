"""Archive files: the leaves of consecutive batches, found by digest with a binary search.

    "MPBATCH1" 8 || batches u32 LE || leaves u64 LE                                                  head, 20 bytes
    per batch: sequence u64 LE || leaf count u64 LE || number of its first leaf in this file u64 LE
    per leaf, by batch and index: digest 32 || charged u64 LE || served_total u64 LE
    per leaf, ascending: first 8 bytes of the digest (as they are) || number of the leaf in this file u64 LE

A file is written once, under another name until it is whole and on the disk, and never changed. Nothing here knows the
database.
"""

import hashlib
import mmap
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from machpay.protocol.proofs import BatchLeaf

_MAGIC: Final = b"MPBATCH1"
_HEAD: Final = struct.Struct("<8sIQ")
_BATCH: Final = struct.Struct("<QQQ")
_LEAF: Final = struct.Struct("<32sQQ")
_PLACE: Final = struct.Struct("<8sQ")
_PREFIX: Final = 8


class ArchiveDamaged(Exception):
    """A file that is no archive, or not a whole one."""


@dataclass(frozen=True, slots=True)
class ArchivedBatch:
    """A batch in a file: its leaves are those from number `first` on."""

    sequence: int
    leaf_count: int
    first: int


def write_archive(path: Path, batches: Sequence[tuple[int, Sequence[BatchLeaf]]]) -> bytes:
    """Write `(sequence, leaves)` of each batch to `path`, durably; returns the file's SHA-256."""
    partial = path.with_suffix(".partial")
    digest = hashlib.sha256()
    with partial.open("wb") as file:

        def put(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        put(_HEAD.pack(_MAGIC, len(batches), sum(len(leaves) for _, leaves in batches)))
        first = 0
        for sequence, leaves in batches:
            put(_BATCH.pack(sequence, len(leaves), first))
            first += len(leaves)
        flat = [leaf for _, leaves in batches for leaf in leaves]
        put(b"".join(_LEAF.pack(leaf.digest, leaf.charged, leaf.served_total) for leaf in flat))
        places = sorted((leaf.digest[:_PREFIX], number) for number, leaf in enumerate(flat))
        put(b"".join(_PLACE.pack(*place) for place in places))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return digest.digest()


class Archive:
    """An open file. Made by `open_archive`."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        if len(data) < _HEAD.size:
            raise ArchiveDamaged("shorter than its head")
        magic, batches, self._leaf_count = _HEAD.unpack_from(data)
        self._leaves_at = _HEAD.size + batches * _BATCH.size
        self._places_at = self._leaves_at + self._leaf_count * _LEAF.size
        whole = self._places_at + self._leaf_count * _PLACE.size
        if magic != _MAGIC or len(data) != whole:
            raise ArchiveDamaged("not an archive of batches, or cut off")
        self.batches = [
            ArchivedBatch(*_BATCH.unpack_from(data, _HEAD.size + number * _BATCH.size))
            for number in range(batches)
        ]

    def sha256(self) -> bytes:
        return hashlib.sha256(self._data).digest()

    def find(self, digest: bytes) -> tuple[ArchivedBatch, int] | None:
        """The batch that holds the payment, and its index there."""
        at = bisect_left(range(self._leaf_count), digest[:_PREFIX], key=lambda n: self._place(n)[0])
        while at < self._leaf_count:
            prefix, number = self._place(at)
            if prefix != digest[:_PREFIX]:
                return None
            if self._leaf(number).digest == digest:
                batch = self.batches[bisect_right(self.batches, number, key=lambda each: each.first) - 1]
                return batch, number - batch.first
            at += 1
        return None

    def leaves(self, batch: ArchivedBatch, start: int, count: int) -> list[BatchLeaf]:
        """Up to `count` leaves of the batch from index `start` on."""
        end = min(start + count, batch.leaf_count)
        return [self._leaf(batch.first + index) for index in range(start, end)]

    def _leaf(self, number: int) -> BatchLeaf:
        return BatchLeaf(*_LEAF.unpack_from(self._data, self._leaves_at + number * _LEAF.size))

    def _place(self, number: int) -> tuple[bytes, int]:
        prefix, leaf = _PLACE.unpack_from(self._data, self._places_at + number * _PLACE.size)
        return prefix, leaf


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a file. Raises `ArchiveDamaged`, or `OSError` if it cannot be read."""
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ArchiveDamaged("empty") from error
        with data:
            yield Archive(data)
