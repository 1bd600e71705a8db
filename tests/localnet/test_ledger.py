"""Fees against what the runtime takes, and a chain that no bytes can break."""

import random
import struct

import pytest
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from contracts.localnet.errors import ChainBroken, ChainError
from contracts.localnet.faucet import FAUCET_LAMPORTS, MEMO_PROGRAM
from contracts.localnet.fees import fee_of
from contracts.localnet.slots import Commitment
from tests.localnet.conftest import SOL, SteppedLedger, pay, signed

ED25519 = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")
PAYER = Keypair()


def ed25519(signer: Keypair, message: bytes) -> Instruction:
    """One signature checked by the precompile, everything inside the instruction itself."""
    offsets = struct.pack("<7H", 48, 0xFFFF, 16, 0xFFFF, 112, len(message), 0xFFFF)
    signature = bytes(signer.sign_message(message))
    return Instruction(ED25519, b"\x01\x00" + offsets + bytes(signer.pubkey()) + signature + message, [])


PRICE = set_compute_unit_price(777_777)
TRANSFER = pay(PAYER, Keypair().pubkey(), 2_000_000)
MEMO = Instruction(MEMO_PROGRAM, b"hello", [])


@pytest.mark.parametrize(
    "instructions",
    [
        [TRANSFER],
        [PRICE, TRANSFER],
        [PRICE, MEMO],
        [PRICE, ed25519(PAYER, b"abc"), MEMO, TRANSFER],
        [PRICE, set_compute_unit_limit(12_345), TRANSFER],
        [set_compute_unit_limit(5_000_000), PRICE, TRANSFER],
    ],
    ids=["plain", "builtin", "bytecode", "mixed", "limited", "capped"],
)
def test_the_quoted_fee_is_what_the_runtime_takes(
    ledger: SteppedLedger, instructions: list[Instruction]
) -> None:
    ledger.airdrop(PAYER.pubkey(), SOL)
    blockhash, _ = ledger.latest_blockhash(Commitment.processed)
    transaction = signed(instructions, blockhash, PAYER)
    assert isinstance(transaction.message, MessageV0)
    outcome = ledger.simulate(transaction, verify=True)
    assert outcome.err is None
    assert outcome.fee == fee_of(transaction.message)


def test_garbled_transactions_neither_break_the_chain_nor_make_money(ledger: SteppedLedger) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    source = Keypair()
    ledger.airdrop(source.pubkey(), 1_000 * SOL)
    sent = 0
    for number in range(2_000):
        blockhash, _ = ledger.latest_blockhash(Commitment.processed)
        raw = bytearray(bytes(signed([pay(source, Keypair().pubkey(), SOL + number)], blockhash, source)))
        for _ in range(rng.randrange(4)):
            place = rng.randrange(len(raw))
            change = rng.random()
            if change < 0.6:
                raw[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
            elif change < 0.8:
                del raw[place : place + rng.randrange(5)]
            else:
                raw[place:place] = rng.randbytes(3)
        body = resigned(bytes(raw), source) if rng.random() < 0.8 else bytes(raw)
        try:
            ledger.send(body, skip_preflight=rng.random() < 0.5)
            sent += 1
        except ChainBroken:
            pytest.fail(f"the chain broke, seed {seed}")
        except ChainError:
            continue
        if number % 50 == 0:
            ledger.step()
    assert sent > 100, seed
    system = Pubkey.from_string("11111111111111111111111111111111")
    total = sum(account.lamports for _, account in ledger.owned_by(system, Commitment.processed))
    assert total <= FAUCET_LAMPORTS + lamports_of_litesvm(), seed


def resigned(raw: bytes, signer: Keypair) -> bytes:
    """Sign what is left of a garbled transaction, so that more than its signature is tried."""
    try:
        message = VersionedTransaction.from_bytes(raw).message
    except ValueError:
        return raw
    prefix = b"\x80" if isinstance(message, MessageV0) else b""
    return bytes(VersionedTransaction.populate(message, [signer.sign_message(prefix + bytes(message))]))


def lamports_of_litesvm() -> int:
    """LiteSVM's own faucet, which is funded before ours."""
    svm = LiteSVM()
    return svm.get_balance(svm.airdrop_pubkey()) or 0
