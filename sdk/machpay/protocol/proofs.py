"""Proof that one payment is in an anchored batch: the answer of `GET /v1/payments/{digest}/proof`, and its check.

    leaf = sha256(0x00 || index u64 LE || digest 32 || charged u64 LE || served_total u64 LE)
    head = sha256(previous head || sequence u64 LE || leaf count u64 LE || root)

Leaves ascend by digest, so which place a payment has follows from the set alone. What a proof proves is only as good
as the root it is checked against: read root and leaf count from the Batch account on the chain, at
`["batch", mint, sequence]`, not from whoever handed out the proof.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from machpay.protocol.encoding import decode_json, parse_hex, parse_u64
from machpay.protocol.errors import MalformedError
from machpay.protocol.merkle import HASH_LENGTH, root_of_path

_LEAF: Final = struct.Struct("<cQ32sQQ")
_HEAD: Final = struct.Struct("<32sQQ32s")
# A batch counts its leaves in a u64.
_PATH_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class BatchLeaf:
    """One payment in a batch. `served_total` is what the gateway's receipt says, 0 if there is no receipt. Amounts are
    atomic units."""

    digest: bytes
    charged: int
    served_total: int

    def hash_at(self, index: int) -> bytes:
        """The leaf's hash at its place, counted from 0."""
        leaf = _LEAF.pack(b"\x00", index, self.digest, self.charged, self.served_total)
        return hashlib.sha256(leaf).digest()


def batch_head(previous: bytes, sequence: int, leaf_count: int, root: bytes) -> bytes:
    """The chain's running hash after a batch; 32 zero bytes come before the first."""
    return hashlib.sha256(_HEAD.pack(previous, sequence, leaf_count, root)).digest()


class LeafPlace(msgspec.Struct):
    """Where the payment stands, and what the leaf says besides its digest; amounts are decimal strings."""

    index: int
    charged: str
    served_total: str


class AnchoredBatch(msgspec.Struct):
    """The batch on the chain: its number, account (base58), the transaction that committed it, and when (RFC 3339)."""

    seq: int
    address: str
    transaction: str
    slot: int
    committed_at: str


class ProofAnswer(msgspec.Struct):
    """`GET /v1/payments/{digest}/proof`. Hashes are lowercase hex, `siblings` go from the bottom up."""

    digest: str
    leaf: LeafPlace
    leaf_count: int
    siblings: list[str]
    root: str
    batch: AnchoredBatch


_decoder = msgspec.json.Decoder(ProofAnswer)


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """A proof, typed. `root` and `leaf_count` are claims until they are compared with the chain."""

    leaf: BatchLeaf
    index: int
    leaf_count: int
    siblings: tuple[bytes, ...]
    root: bytes
    batch: AnchoredBatch

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the relayer's answer. Raises `MalformedError`; says nothing about whether the proof holds."""
        answer: ProofAnswer = decode_json(_decoder, raw, "inclusion proof")
        if not 0 <= answer.leaf.index < answer.leaf_count <= 2**64 - 1:
            raise MalformedError("leaf.index is outside the batch")
        if len(answer.siblings) > _PATH_MAX:
            raise MalformedError(f"siblings are more than {_PATH_MAX}")
        return cls(
            BatchLeaf(
                parse_hex(answer.digest, "digest", HASH_LENGTH),
                parse_u64(answer.leaf.charged, "leaf.charged"),
                parse_u64(answer.leaf.served_total, "leaf.served_total"),
            ),
            answer.leaf.index,
            answer.leaf_count,
            tuple(parse_hex(sibling, "siblings", HASH_LENGTH) for sibling in answer.siblings),
            parse_hex(answer.root, "root", HASH_LENGTH),
            answer.batch,
        )

    def holds(self, *, root: bytes, leaf_count: int) -> bool:
        """Whether the payment is in the batch whose account on the chain has this `root` and `leaf_count`."""
        return verify_inclusion(
            self.leaf, index=self.index, leaf_count=leaf_count, siblings=self.siblings, root=root
        )


def verify_inclusion(
    leaf: BatchLeaf, *, index: int, leaf_count: int, siblings: Sequence[bytes], root: bytes
) -> bool:
    """True if `siblings` lead from `leaf`, at `index` of `leaf_count`, to `root`. Never raises: what does not fit is
    no proof."""
    u64 = range(2**64)
    if index not in u64 or leaf_count not in u64 or len(leaf.digest) != HASH_LENGTH:
        return False
    if leaf.charged not in u64 or leaf.served_total not in u64:
        return False
    return root_of_path(leaf.hash_at(index), index, leaf_count, siblings) == root
