"""commit_batch: Merkle roots in a hash chain that nobody can rewrite."""

import hashlib
import struct

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import instructions as build
from machpay.chain.accounts import Batch
from tests.program.test_events import keys, name
from tests.program.world import NOW, Done, Refused, World, done, refused

ROOTS = [hashlib.sha256(bytes([i])).digest() for i in range(4)]
BATCH_SEQUENCE = 272
U64_MAX = 2**64 - 1


def commit(
    world: World,
    sequence: int,
    *,
    root: bytes = ROOTS[0],
    leaves: int = 3,
    total: int = 100,
    by: Keypair | None = None,
) -> Done | Refused:
    return world.send(_ix(world, sequence, root, leaves, total, by), signers=(by or world.relayer,))


def batch(world: World, sequence: int) -> Batch | None:
    data = world.data(world.network.batch(sequence))
    return Batch.decode(data) if data else None


def test_a_batch_is_recorded_with_everything_it_was_given(world: World) -> None:
    (event,) = done(commit(world, 0, leaves=3, total=100)).events
    head = hashlib.sha256(bytes(32) + struct.pack("<QQ", 0, 3) + ROOTS[0]).digest()
    _, bump = Pubkey.find_program_address(
        [b"batch", bytes(world.network.mint), bytes(8)], world.network.program_id
    )
    assert batch(world, 0) == Batch(bump, world.network.mint, 0, ROOTS[0], 3, 100, head, NOW)
    bond = world.global_bond()
    assert (bond.batch_sequence, bond.batch_head) == (1, head)
    assert event == name("BatchSettled") + keys(world.network.mint) + struct.pack(
        "<Q32sQQ32sq", 0, ROOTS[0], 3, 100, head, NOW
    )


def test_each_head_covers_every_batch_before(world: World) -> None:
    head = bytes(32)
    for sequence, root in enumerate(ROOTS):
        world.wait(10)
        done(commit(world, sequence, root=root, leaves=sequence + 1, total=sequence))
        head = hashlib.sha256(head + struct.pack("<QQ", sequence, sequence + 1) + root).digest()
        found = batch(world, sequence)
        assert found is not None
        assert (found.head, found.committed_at) == (head, NOW + 10 * (sequence + 1))
    assert world.global_bond().batch_sequence == len(ROOTS)


def test_a_batch_cannot_be_committed_again_or_ahead(world: World) -> None:
    done(commit(world, 0))
    with world.nothing_moves():
        refused(commit(world, 0, root=ROOTS[1]), "WrongAddress")
        refused(commit(world, 2, root=ROOTS[1]), "WrongAddress")


def test_only_the_relayer_commits(world: World) -> None:
    with world.nothing_moves():
        for key in (world.admin, world.agent()):
            refused(commit(world, 0, by=key), "NotRelayer")
        ix = _ix(world, 0, ROOTS[0], 1, 1, None)
        accounts = list(ix.accounts)
        accounts[0] = AccountMeta(world.relayer.pubkey(), False, True)
        refused(world.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_an_empty_batch_is_refused_and_one_payment_is_enough(world: World) -> None:
    with world.nothing_moves():
        refused(commit(world, 0, leaves=0), "EmptyBatch")
    done(commit(world, 0, leaves=1))


def test_counts_and_totals_of_64_bits_are_kept(world: World) -> None:
    done(commit(world, 0, leaves=U64_MAX, total=U64_MAX))
    found = batch(world, 0)
    assert found is not None
    assert (found.leaf_count, found.total) == (U64_MAX, U64_MAX)


def test_the_sequence_never_wraps(world: World) -> None:
    world.patch(world.network.bond(), BATCH_SEQUENCE, struct.pack("<Q", U64_MAX))
    with world.nothing_moves():
        refused(commit(world, U64_MAX), "Overflow")


def test_lamports_sent_ahead_do_not_block_a_batch(world: World) -> None:
    world.svm.airdrop(world.network.batch(0), 1)
    done(commit(world, 0))


@pytest.mark.parametrize(
    ("index", "error"),
    [(1, "WrongAccountOwner"), (2, "WrongAddress"), (3, "WrongProgram"), (5, "WrongProgram")],
)
def test_the_accounts_must_be_the_real_ones(world: World, index: int, error: str) -> None:
    ix = _ix(world, 0, ROOTS[0], 1, 1, None)
    accounts = list(ix.accounts)
    accounts[index] = AccountMeta(world.network.vault(), False, accounts[index].is_writable)
    events = list(ix.accounts)
    events[4] = AccountMeta(world.network.vault(), False, False)
    with world.nothing_moves():
        refused(_sends(world, bytes(ix.data), accounts), error)
        assert isinstance(_sends(world, bytes(ix.data), events), Refused)


def test_accounts_and_arguments_must_have_their_form(world: World) -> None:
    ix = _ix(world, 0, ROOTS[0], 1, 1, None)
    data, accounts = bytes(ix.data), list(ix.accounts)
    with world.nothing_moves():
        refused(_sends(world, data[:-1], accounts), "InvalidInstructionData")
        refused(_sends(world, data + b"\0", accounts), "InvalidInstructionData")
        refused(_sends(world, data, accounts[:-1]), "WrongAccountCount")


def test_a_root_has_32_bytes(world: World) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        _ix(world, 0, b"short", 1, 1, None)


def _ix(world: World, sequence: int, root: bytes, leaves: int, total: int, by: Keypair | None) -> Instruction:
    return build.commit_batch(
        world.network,
        relayer=(by or world.relayer).pubkey(),
        sequence=sequence,
        root=root,
        leaf_count=leaves,
        total=total,
    )


def _sends(world: World, data: bytes, accounts: list[AccountMeta]) -> Done | Refused:
    return world.send(Instruction(world.network.program_id, data, accounts), signers=(world.relayer,))
