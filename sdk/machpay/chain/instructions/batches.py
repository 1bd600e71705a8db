"""Builder of the anchor: one Merkle root over the payments of a stretch of time."""

from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID

from machpay.chain.instructions.base import instruction, pack, readonly, writable
from machpay.chain.network import Network

ROOT_LENGTH: Final = 32


def commit_batch(
    network: Network, *, relayer: Pubkey, sequence: int, root: bytes, leaf_count: int, total: int
) -> Instruction:
    """Anchor the Merkle root of `leaf_count` payments that charged `total` atomic units together.

    `sequence` is GlobalBond's `batch_sequence`; with any other the program refuses. Signer: the relayer, who pays the
    rent of the Batch account.
    """
    if len(root) != ROOT_LENGTH:
        raise ValueError(f"a Merkle root has {ROOT_LENGTH} bytes")
    accounts = [
        AccountMeta(relayer, True, True),
        writable(network.bond()),
        writable(network.batch(sequence)),
        readonly(SYSTEM_PROGRAM_ID),
    ]
    return instruction(network, "commit_batch", root + pack("<QQ", leaf_count, total), accounts)
