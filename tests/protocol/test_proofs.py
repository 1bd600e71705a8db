"""Inclusion proofs: trees of every small size, and everything that must break one."""

import hashlib
from dataclasses import replace

import msgspec
import pytest

from machpay.protocol.errors import MalformedError
from machpay.protocol.merkle import inclusion_path, merkle_root, root_of_path
from machpay.protocol.proofs import (
    AnchoredBatch,
    BatchLeaf,
    InclusionProof,
    LeafPlace,
    ProofAnswer,
    verify_inclusion,
)


def leaves(count: int) -> list[BatchLeaf]:
    return [BatchLeaf(n.to_bytes(32, "big"), n, 2 * n) for n in range(count)]


def hashes(count: int) -> list[bytes]:
    return [leaf.hash_at(index) for index, leaf in enumerate(leaves(count))]


def split_root(level: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word: divide at the largest power of two below n."""
    if len(level) == 1:
        return level[0]
    at = 1 << (len(level) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + split_root(level[:at]) + split_root(level[at:])).digest()


@pytest.mark.parametrize("count", range(1, 70))
def test_every_leaf_of_every_small_tree_is_proven_and_nowhere_else(count):
    tree = hashes(count)
    root = merkle_root(tree)
    assert root == split_root(tree)
    for index, leaf in enumerate(leaves(count)):
        path = inclusion_path(tree, index)
        assert verify_inclusion(leaf, index=index, leaf_count=count, siblings=path, root=root)
        elsewhere = [other for other in range(count) if other != index]
        assert not any(
            verify_inclusion(leaf, index=other, leaf_count=count, siblings=path, root=root)
            for other in elsewhere
        )


@pytest.mark.parametrize("count", [5, 8, 1_024, 1_025, 3_000])
def test_the_root_over_runs_of_a_power_of_two_is_the_root_of_the_whole(count):
    tree = hashes(count)
    for run in (4, 1_024):
        roots = [merkle_root(tree[at : at + run]) for at in range(0, count, run)]
        assert merkle_root(roots) == merkle_root(tree)
        last = count - 1
        page = tree[last // run * run : last // run * run + run]
        assert inclusion_path(tree, last) == [
            *inclusion_path(page, last % run),
            *inclusion_path(roots, last // run),
        ]


@pytest.mark.parametrize(
    "change",
    [
        {"digest": bytes(32)},
        {"charged": 4},
        {"served_total": 5},
        {"charged": -1},
        {"charged": 2**64},
        {"digest": b"short"},
    ],
)
def test_another_leaf_is_not_proven(change):
    tree = hashes(6)
    path, leaf = inclusion_path(tree, 3), leaves(6)[3]
    assert verify_inclusion(leaf, index=3, leaf_count=6, siblings=path, root=merkle_root(tree))
    changed = replace(leaf, **change)
    assert not verify_inclusion(changed, index=3, leaf_count=6, siblings=path, root=merkle_root(tree))


def test_another_path_root_or_count_proves_nothing():
    tree = hashes(6)
    path, leaf, root = inclusion_path(tree, 3), leaves(6)[3], merkle_root(tree)
    for siblings in (path[:-1], [*path, path[0]], path[::-1], []):
        assert not verify_inclusion(leaf, index=3, leaf_count=6, siblings=siblings, root=root)
    for index, count in ((3, 4), (3, 3), (-1, 6), (3, 2**64), (2**70, 2**71)):
        assert not verify_inclusion(leaf, index=index, leaf_count=count, siblings=path, root=root)
    assert not verify_inclusion(leaf, index=3, leaf_count=6, siblings=path, root=bytes(32))


def test_a_node_is_never_taken_for_a_leaf():
    tree = hashes(4)
    inner = merkle_root(tree[:2])
    assert root_of_path(inner, 0, 2, [merkle_root(tree[2:])]) == merkle_root(tree)
    # Only as a bare hash: a leaf's own hash begins with another byte.
    assert inner not in {leaf.hash_at(index) for leaf in leaves(4) for index in range(4)}


def answer(**changes) -> bytes:
    tree = hashes(5)
    leaf = leaves(5)[4]
    fields = {
        "digest": leaf.digest.hex(),
        "leaf": LeafPlace(4, "4", "8"),
        "leaf_count": 5,
        "siblings": [sibling.hex() for sibling in inclusion_path(tree, 4)],
        "root": merkle_root(tree).hex(),
        "batch": AnchoredBatch(7, "address", "signature", 12, "2026-11-21T11:20:00Z"),
        **changes,
    }
    return msgspec.json.encode(ProofAnswer(**fields))


def test_an_answer_is_checked_against_the_chains_root():
    proof = InclusionProof.parse(answer())
    assert (proof.index, proof.leaf.charged, proof.batch.seq) == (4, 4, 7)
    assert proof.holds(root=merkle_root(hashes(5)), leaf_count=5)
    assert not proof.holds(root=merkle_root(hashes(5)), leaf_count=6)
    # What the answer itself says about the root does not count.
    lie = InclusionProof.parse(answer(root=bytes(32).hex()))
    assert lie.holds(root=merkle_root(hashes(5)), leaf_count=5)
    assert not lie.holds(root=bytes(32), leaf_count=5)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "00"},
        {"root": "zz" * 32},
        {"siblings": ["00"]},
        {"siblings": ["00" * 32] * 65},
        {"leaf": LeafPlace(5, "4", "8")},
        {"leaf": LeafPlace(-1, "4", "8")},
        {"leaf": LeafPlace(4, "-4", "8")},
        {"leaf_count": 2**64},
    ],
)
def test_a_malformed_answer_is_refused(change):
    with pytest.raises(MalformedError):
        InclusionProof.parse(answer(**change))
