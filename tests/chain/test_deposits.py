"""Token transfers into one account, as a trace shows them."""

import struct

import pytest
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN

from machpay.chain.deposits import IncomingTransfer, transfers_into
from machpay.chain.traces import Invocation

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
