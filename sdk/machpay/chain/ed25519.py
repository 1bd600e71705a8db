"""The instruction that makes the runtime verify vouchers for the program.

The program accepts exactly one form (contracts/program/src/ed25519.rs): a table of offsets, then per signature the
key, the signature and the 60-byte message, every index 0xffff, "this instruction".
"""

import struct
from collections.abc import Sequence
from typing import Final

from solders.instruction import Instruction
from solders.pubkey import Pubkey

from machpay.protocol.intents import MESSAGE_LENGTH, Voucher
from machpay.protocol.keys import SIGNATURE_LENGTH

ED25519_PROGRAM_ID: Final = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")

_KEY_LENGTH: Final = 32
_THIS_INSTRUCTION: Final = 0xFFFF
_ROW: Final = struct.Struct("<7H")
_BLOCK_LENGTH: Final = _KEY_LENGTH + SIGNATURE_LENGTH + MESSAGE_LENGTH


def attest(vouchers: Sequence[tuple[Pubkey, Voucher]]) -> Instruction:
    """The precompile instruction for (signer, voucher) pairs, in this order.

    Must stand right before the instruction that uses it. The transaction fails if any signature is wrong.
    """
    if not 1 <= len(vouchers) <= 255:
        raise ValueError("the precompile takes 1 to 255 signatures")
    table, blocks = bytearray((len(vouchers), 0)), bytearray()
    first_block = 2 + _ROW.size * len(vouchers)
    for signer, voucher in vouchers:
        key = first_block + len(blocks)
        signature = key + _KEY_LENGTH
        message = signature + SIGNATURE_LENGTH
        here = _THIS_INSTRUCTION
        table += _ROW.pack(signature, here, key, here, message, MESSAGE_LENGTH, here)
        blocks += bytes(signer) + voucher.signature + voucher.message
        if len(blocks) % _BLOCK_LENGTH:
            raise ValueError("a voucher's signature must have 64 bytes")
    return Instruction(ED25519_PROGRAM_ID, bytes(table + blocks), [])
