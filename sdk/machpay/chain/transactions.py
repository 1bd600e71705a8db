"""Transactions as values: signed bytes to store and send, statuses to judge, errors with the program's own names.

Nothing here talks to a cluster. `ChainClient` does, and raises what `failure` and `rejection` make of its answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.transaction import VersionedTransaction
from solders.transaction_status import (
    InstructionErrorCustom,
    TransactionErrorFieldless,
    TransactionErrorInstructionError,
)

from machpay.chain.errors import (
    PROGRAM_ERRORS,
    BlockhashExpired,
    ProgramError,
    TransactionFailed,
    TransactionRejected,
)
from machpay.chain.lookup_tables import LookupTable

Commitment = Literal["processed", "confirmed", "finalized"]

# What a UDP packet over IPv6 carries after its headers.
PACKET_BYTES_MAX: Final = 1_232

_RANK: Final[dict[str, int]] = {"processed": 0, "confirmed": 1, "finalized": 2}


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """Bytes that can be sent any number of times and land at most once.

    Store them before the first send: only the same bytes are safe to repeat. Once the finalised block height is above
    `last_valid_block_height` and the signature is still unknown, the transaction can never land.
    """

    raw: bytes
    signature: str
    last_valid_block_height: int


@dataclass(frozen=True, slots=True)
class TxStatus:
    """What a cluster knows of a transaction. `err` is why it failed, None if it succeeded."""

    confirmation: Commitment
    err: TransactionFailed | None
    slot: int

    def satisfies(self, commitment: Commitment) -> bool:
        """The transaction has reached `commitment` or more."""
        return _RANK[self.confirmation] >= _RANK[commitment]


def sign_transaction(
    instructions: Sequence[Instruction],
    *,
    payer: Keypair,
    signers: Sequence[Keypair],
    blockhash: Hash,
    last_valid_block_height: int,
    lookup_tables: Sequence[LookupTable] = (),
) -> SignedTransaction:
    """Build and sign a v0 transaction. `signers` are those besides the payer; repeats are harmless. Accounts that
    `lookup_tables` hold are named by their place there, except signers and programs that are called.

    Raises `ValueError` if a signature is missing or the transaction exceeds 1,232 bytes.
    """
    keys = {key.pubkey(): key for key in (payer, *signers)}
    tables = [table.for_message() for table in lookup_tables]
    message = MessageV0.try_compile(payer.pubkey(), list(instructions), tables, blockhash)
    wanted = message.account_keys[: message.header.num_required_signatures]
    missing = [str(key) for key in wanted if key not in keys]
    if missing:
        raise ValueError(f"no key given for the signers {', '.join(missing)}")
    transaction = VersionedTransaction(message, [keys[key] for key in wanted])
    raw = bytes(transaction)
    if len(raw) > PACKET_BYTES_MAX:
        raise ValueError(
            f"the transaction has {len(raw)} bytes, {PACKET_BYTES_MAX} is the most a cluster takes"
        )
    return SignedTransaction(raw, str(transaction.signatures[0]), last_valid_block_height)


def priority_price(recent: Sequence[int], *, least: int, most: int) -> int:
    """What to offer per compute unit, in micro-lamports: the third quartile of what recent blocks took, at least
    `least` and never above `most`."""
    quartile = sorted(recent)[len(recent) * 3 // 4] if recent else 0
    return min(max(quartile, least), most)


def failure(error: object, logs: Sequence[str] = ()) -> TransactionFailed:
    """The exception for a transaction that ran and failed, from solders' transaction error."""
    if isinstance(error, TransactionErrorInstructionError) and isinstance(error.err, InstructionErrorCustom):
        # Other programs number their errors from 0 up; the MachPay program's numbers are its own.
        if error.err.code in PROGRAM_ERRORS:
            return ProgramError(error.err.code, tuple(logs))
        return TransactionFailed(f"instruction {error.index}: custom error {error.err.code:#x}", tuple(logs))
    return TransactionFailed(str(error), tuple(logs))


def rejection(error: object, logs: Sequence[str] = ()) -> TransactionRejected | TransactionFailed:
    """The exception for a transaction that preflight refused to send: it had no effect."""
    if error == TransactionErrorFieldless.BlockhashNotFound:
        return BlockhashExpired("the transaction's blockhash is unknown or too old")
    if isinstance(error, TransactionErrorInstructionError):
        return failure(error, logs)
    return TransactionRejected(str(error))
