"""The instruction that makes the runtime verify vouchers for the program.

The program accepts exactly one form (contracts/program/src/ed25519.rs): a table of offsets, then per signature the
key, the signature and the message (60 bytes of a voucher, 36 of an aggregated one), every index 0xffff, "this
instruction".
"""

import struct
from collections.abc import Sequence
from typing import Final

from solders.instruction import Instruction
from solders.pubkey import Pubkey

from machpay.protocol.aggregates import Aggregate
from machpay.protocol.intents import Voucher
from machpay.protocol.keys import SIGNATURE_LENGTH

ED25519_PROGRAM_ID: Final = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")

_KEY_LENGTH: Final = 32
_THIS_INSTRUCTION: Final = 0xFFFF
_ROW: Final = struct.Struct("<7H")


def attest(vouchers: Sequence[tuple[Pubkey, Voucher]]) -> Instruction:
    """The precompile instruction for (signer, voucher) pairs, in this order.

    Must stand right before the instruction that uses it. The transaction fails if any signature is wrong.
    """
    return _attest([(signer, voucher.signature, voucher.message) for signer, voucher in vouchers])


def attest_aggregate(aggregate: Aggregate, signature: bytes) -> Instruction:
    """The precompile instruction for one aggregated voucher, signed by its agent."""
    return _attest([(aggregate.agent, signature, aggregate.message)])


def _attest(signed: Sequence[tuple[Pubkey, bytes, bytes]]) -> Instruction:
    """For (signer, signature, message) triples."""
    if not 1 <= len(signed) <= 255:
        raise ValueError("the precompile takes 1 to 255 signatures")
    table, blocks = bytearray((len(signed), 0)), bytearray()
    first_block = 2 + _ROW.size * len(signed)
    for signer, signature_bytes, message_bytes in signed:
        if len(signature_bytes) != SIGNATURE_LENGTH:
            raise ValueError(f"a voucher's signature must have {SIGNATURE_LENGTH} bytes")
        key = first_block + len(blocks)
        signature = key + _KEY_LENGTH
        message = signature + SIGNATURE_LENGTH
        here = _THIS_INSTRUCTION
        table += _ROW.pack(signature, here, key, here, message, len(message_bytes), here)
        blocks += bytes(signer) + signature_bytes + message_bytes
    return Instruction(ED25519_PROGRAM_ID, bytes(table + blocks), [])
