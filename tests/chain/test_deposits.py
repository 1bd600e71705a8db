"""Token transfers into one account, as a trace shows them."""

import struct

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN

from machpay.chain.deposits import IncomingTransfer, transfers_into
from machpay.chain.traces import Invocation
from tests.program.world import LAMPORTS, World, done

WALLET, SOURCE, MINT, OWNER, REFERENCE, OTHER = (Pubkey.new_unique() for _ in range(6))


def call(
    kind: int, *accounts: Pubkey, amount: int = 7, program: Pubkey = TOKEN, height: int = 1
) -> Invocation:
    decimals = b"\x06" if kind in (12, 14) else b""
    return Invocation(program, accounts, struct.pack("<BQ", kind, amount) + decimals, height)


@pytest.mark.parametrize(
    ("invocation", "source"),
    [
        (call(3, SOURCE, WALLET, OWNER, REFERENCE), SOURCE),
        (call(12, SOURCE, MINT, WALLET, OWNER, REFERENCE), SOURCE),
        (call(7, MINT, WALLET, OWNER, REFERENCE), None),
        (call(14, MINT, WALLET, OWNER, REFERENCE), None),
    ],
    ids=["transfer", "transfer-checked", "mint-to", "mint-to-checked"],
)
def test_every_form_is_read(invocation, source):
    assert transfers_into(WALLET, [[invocation]]) == [IncomingTransfer("0.0", 7, source, (REFERENCE,))]


@pytest.mark.parametrize(
    "invocation",
    [
        call(3, WALLET, SOURCE, OWNER),
        call(3, WALLET, WALLET, OWNER),
        call(12, SOURCE, WALLET, MINT, OWNER),
        call(3, SOURCE, WALLET, OWNER, amount=0),
        call(3, SOURCE, WALLET, OWNER, program=OTHER),
        call(9, SOURCE, WALLET, OWNER),
        call(3, SOURCE, WALLET),
        Invocation(TOKEN, (SOURCE, WALLET, OWNER), b"\x03\x01", 1),
        Invocation(TOKEN, (SOURCE, WALLET, OWNER), b"", 1),
    ],
    ids=[
        "out",
        "to-itself",
        "wallet-where-the-mint-is",
        "nothing",
        "another-program",
        "close-account",
        "too-few-accounts",
        "cut-off",
        "empty",
    ],
)
def test_what_brings_nothing_in_is_not_read(invocation):
    assert transfers_into(WALLET, [[invocation]]) == []


def test_calls_of_other_programs_count_by_their_place():
    trace = [
        [call(3, SOURCE, WALLET, OWNER, amount=1)],
        [
            Invocation(OTHER, (), b"", 1),
            call(3, SOURCE, OTHER, OWNER, height=2),
            call(3, SOURCE, WALLET, OWNER, amount=2, height=2),
        ],
    ]
    assert [(each.instruction, each.amount) for each in transfers_into(WALLET, trace)] == [
        ("0.0", 1),
        ("1.2", 2),
    ]


def test_what_a_batch_of_the_token_program_brings_is_read():
    """The real program, which makes several transfers of one instruction without a call for each."""
    world, wallet, payer = World(), Keypair(), Keypair()
    world.svm.airdrop(payer.pubkey(), LAMPORTS)
    into, other = world.token_account(wallet.pubkey()), world.token_account(wallet.pubkey())
    source = world.token_account(payer.pubkey(), 100)
    key, mint = payer.pubkey(), world.network.mint
    checked = struct.pack("<BQB", 12, 5, 6)
    parts = [
        ((source, into, key), struct.pack("<BQ", 3, 30)),
        ((source, other, key), struct.pack("<BQ", 3, 1)),
        ((source, mint, into, key, REFERENCE), checked),
    ]
    data = b"\xff" + b"".join(bytes([len(accounts), len(each)]) + each for accounts, each in parts)
    metas = [
        AccountMeta(address, address == key, address in (source, into, other))
        for accounts, _ in parts
        for address in accounts
    ]
    outcome = done(world.send(Instruction(TOKEN, data, metas), signers=(payer,)))
    assert world.tokens(into) == 35
    assert transfers_into(into, outcome.trace) == [
        IncomingTransfer("0.0.0", 30, source, ()),
        IncomingTransfer("0.0.2", 5, source, (REFERENCE,)),
    ]


def test_a_batch_that_is_cut_off_brings_what_is_whole():
    whole = bytes([3, 9]) + struct.pack("<BQ", 3, 7)
    accounts = (SOURCE, WALLET, OWNER)
    for cut in (b"", b"\3", b"\3\x09\3", b"\3\x00"):
        trace = [[Invocation(TOKEN, accounts, b"\xff" + whole + cut, 1)]]
        assert transfers_into(WALLET, trace) == [IncomingTransfer("0.0.0", 7, SOURCE, ())]
