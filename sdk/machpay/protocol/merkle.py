"""Merkle trees over leaf hashes, split as RFC 6962 splits them. Pure.

    node = sha256(0x01 || left || right)

A tree of n leaves divides at the largest power of two below n. Built upwards that is the same as joining neighbours
level by level and carrying an odd last one up unchanged, so every aligned run of 2^k leaves is a subtree of its own:
the root over the roots of such runs is the root of the whole.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

HASH_LENGTH: Final = 32
_NODE: Final = b"\x01"


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """The root over leaf (or subtree) hashes, in order. Raises `ValueError` for none."""
    if not hashes:
        raise ValueError("a tree has at least one leaf")
    level = list(hashes)
    while len(level) > 1:
        level = _joined(level)
    return level[0]


def inclusion_path(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """The siblings of leaf `index` from the bottom up. Raises `IndexError` outside the tree."""
    if not 0 <= index < len(hashes):
        raise IndexError(f"leaf {index} of {len(hashes)}")
    level, path = list(hashes), []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level, index = _joined(level), index // 2
    return path


def root_of_path(leaf: bytes, index: int, leaf_count: int, path: Sequence[bytes]) -> bytes | None:
    """The root that `path` leads to from `leaf` at `index` of `leaf_count`; None if it has another length than the
    path of that leaf."""
    if not 0 <= index < leaf_count:
        return None
    siblings = iter(path)
    current, last = leaf, leaf_count - 1
    while last:
        if index ^ 1 <= last:
            sibling = next(siblings, None)
            if sibling is None:
                return None
            current = node_hash(sibling, current) if index & 1 else node_hash(current, sibling)
        index, last = index // 2, last // 2
    return current if next(siblings, None) is None else None


def _joined(level: Sequence[bytes]) -> list[bytes]:
    """The level above."""
    pairs = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return [*pairs, level[-1]] if len(level) % 2 else pairs
