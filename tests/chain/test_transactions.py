"""Signing and judging transactions, and the token helpers, without a cluster."""

import struct

import pytest
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.token import ID as TOKEN_PROGRAM_ID
from solders.transaction import VersionedTransaction
from solders.transaction_status import (
    InstructionErrorCustom,
    InstructionErrorFieldless,
    TransactionErrorFieldless,
    TransactionErrorInstructionError,
)

from machpay.chain import tokens
from machpay.chain.errors import (
    BlockhashExpired,
    DecodeError,
    ProgramError,
    TransactionFailed,
    TransactionRejected,
)
from machpay.chain.transactions import TxStatus, failure, priority_price, rejection, sign_transaction

BLOCKHASH = Hash(bytes([7]) * 32)


def sign(*instructions: Instruction, payer: Keypair, signers: tuple[Keypair, ...] = ()):
    return sign_transaction(
        instructions, payer=payer, signers=signers, blockhash=BLOCKHASH, last_valid_block_height=42
    )


def test_signed_bytes_carry_every_signature_and_keep_the_last_height() -> None:
    payer, other = Keypair(), Keypair()
    move = transfer(TransferParams(from_pubkey=other.pubkey(), to_pubkey=payer.pubkey(), lamports=1))
    signed = sign(move, payer=payer, signers=(other, payer, other))
    transaction = VersionedTransaction.from_bytes(signed.raw)
    assert transaction.verify_with_results() == [True, True]
    assert signed.signature == str(transaction.signatures[0])
    assert signed.last_valid_block_height == 42


def test_a_missing_signer_is_named() -> None:
    payer, other = Keypair(), Keypair()
    move = transfer(TransferParams(from_pubkey=other.pubkey(), to_pubkey=payer.pubkey(), lamports=1))
    with pytest.raises(ValueError, match=str(other.pubkey())):
        sign(move, payer=payer)


def test_a_transaction_of_1232_bytes_is_signed_and_one_byte_more_refused() -> None:
    payer, program = Keypair(), Pubkey.from_bytes(bytes([9]) * 32)
    empty = len(sign(Instruction(program, b"", []), payer=payer).raw)
    room = 1_232 - empty - 1  # the length of the data takes a second byte
    assert len(sign(Instruction(program, bytes(room), []), payer=payer).raw) == 1_232
    with pytest.raises(ValueError, match="1233 bytes"):
        sign(Instruction(program, bytes(room + 1), []), payer=payer)


def test_statuses_are_ordered() -> None:
    status = TxStatus("confirmed", None, 1)
    assert [status.satisfies(level) for level in ("processed", "confirmed", "finalized")] == [
        True,
        True,
        False,
    ]


def test_the_programs_errors_have_their_names() -> None:
    error = failure(TransactionErrorInstructionError(1, InstructionErrorCustom(0x102)), ["log"])
    assert isinstance(error, ProgramError)
    assert (error.code, error.name, error.text) == (
        0x102,
        "InsufficientBond",
        "the bond does not cover the amount",
    )
    assert error.logs == ("log",)
    assert str(error) == "InsufficientBond (0x102): the bond does not cover the amount"


def test_other_failures_are_not_taken_for_the_programs() -> None:
    for error in (InstructionErrorCustom(1), InstructionErrorFieldless.InvalidArgument):
        found = failure(TransactionErrorInstructionError(0, error))
        assert type(found) is TransactionFailed


def test_a_rejection_says_whether_to_sign_again() -> None:
    assert type(rejection(TransactionErrorFieldless.BlockhashNotFound)) is BlockhashExpired
    assert type(rejection(TransactionErrorFieldless.InsufficientFundsForFee)) is TransactionRejected
    program = rejection(TransactionErrorInstructionError(1, InstructionErrorCustom(0x119)))
    assert isinstance(program, ProgramError)
    assert program.name == "NotRelayer"


def test_token_accounts_are_decoded_and_others_refused() -> None:
    mint, owner = Pubkey.from_bytes(bytes([1]) * 32), Pubkey.from_bytes(bytes([2]) * 32)
    data = bytes(mint) + bytes(owner) + struct.pack("<Q", 77) + bytes(36) + b"\2" + bytes(56)
    assert tokens.TokenAccount.decode(data) == tokens.TokenAccount(mint, owner, 77, frozen=True)
    assert tokens.token_amount(data) == 77
    for wrong in (data[:-1], data + b"\0", data[:108] + b"\0" + data[109:], bytes(82)):
        with pytest.raises(DecodeError):
            tokens.token_amount(wrong)


def test_token_instructions_have_the_accounts_spl_token_expects() -> None:
    a, b, c = (Pubkey.from_bytes(bytes([value]) * 32) for value in (1, 2, 3))
    assert tokens.mint_to(mint=a, destination=b, authority=c, amount=5) == Instruction(
        TOKEN_PROGRAM_ID,
        b"\7" + struct.pack("<Q", 5),
        [AccountMeta(a, False, True), AccountMeta(b, False, True), AccountMeta(c, True, False)],
    )
    assert bytes(tokens.transfer(source=a, destination=b, authority=c, amount=6).data) == b"\3" + struct.pack(
        "<Q", 6
    )
    ata = tokens.create_ata_idempotent(payer=a, owner=b, mint=c)
    assert ata.accounts[1].pubkey == tokens.associated_token_address(b, c)


@pytest.mark.parametrize(
    ("recent", "least", "most", "price"),
    [
        ([], 0, 100, 0),
        ([], 7, 100, 7),
        ([0, 0, 0, 50], 7, 100, 50),
        ([0, 0, 50, 9], 7, 100, 50),
        ([0, 0, 0, 0, 50], 7, 100, 7),
        ([500] * 150, 7, 100, 100),
        ([500], 7, 0, 0),
    ],
)
def test_the_price_follows_recent_blocks_between_its_bounds(recent, least, most, price) -> None:
    assert priority_price(recent, least=least, most=most) == price
