"""A batch's tree as it is kept: its leaves, and the root over each page of 1,024 of them, so that a proof reads and
hashes one page, however large the batch is. Pure."""

from collections.abc import Sequence
from typing import Final

from machpay.protocol.merkle import HASH_LENGTH, inclusion_path, merkle_root
from machpay.protocol.proofs import BatchLeaf

# A power of two: an aligned run of that many leaves is a subtree of its own.
PAGE_LEAVES: Final = 1_024


def page_roots(leaves: Sequence[BatchLeaf]) -> list[bytes]:
    """The root over each page; the Merkle root over these is the batch's."""
    hashes = [leaf.hash_at(index) for index, leaf in enumerate(leaves)]
    return [merkle_root(hashes[at : at + PAGE_LEAVES]) for at in range(0, len(hashes), PAGE_LEAVES)]


def split_roots(packed: bytes) -> list[bytes]:
    """`Batch.page_roots` as hashes."""
    return [packed[at : at + HASH_LENGTH] for at in range(0, len(packed), HASH_LENGTH)]


def page_of(index: int) -> int:
    """The first index of the page that holds leaf `index`."""
    return index - index % PAGE_LEAVES


def path_in_pages(page: Sequence[BatchLeaf], roots: Sequence[bytes], index: int) -> list[bytes]:
    """The siblings of leaf `index` of the batch, from its page's leaves and the batch's page roots."""
    start = page_of(index)
    hashes = [leaf.hash_at(start + offset) for offset, leaf in enumerate(page)]
    return [*inclusion_path(hashes, index - start), *inclusion_path(roots, index // PAGE_LEAVES)]
