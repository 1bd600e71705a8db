"""Errors of the chain.

    ChainError
    ├── MalformedTransaction   not a transaction: no bank would look at it
    ├── BadSignature           a signature does not verify
    ├── TransactionRefused     preflight: it would fail, with the TransactionError and the logs
    └── ChainBroken            memory and file differ: the process must end, the file counts

`describe` puts a TransactionError (as JSON) into the words Solana uses.
"""

import re
from typing import Any

from contracts.localnet.bank import Outcome


class ChainError(Exception):
    """Base of what the chain refuses."""


class MalformedTransaction(ChainError):
    """The bytes are not a transaction that could be run."""


class BadSignature(ChainError):
    """A signature of the transaction does not verify."""


class TransactionRefused(ChainError):
    """The transaction would fail: nothing was done. `outcome.err` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(describe(outcome.err))
        self.outcome = outcome


class ChainBroken(ChainError):
    """A transaction ran but could not be written down."""


_TEXTS = {
    "AccountInUse": "Account in use",
    "AccountLoadedTwice": "Account loaded twice",
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "ProgramAccountNotFound": "Attempt to load a program that does not exist",
    "InsufficientFundsForFee": "Insufficient funds for fee",
    "InvalidAccountForFee": "This account may not be used to pay transaction fees",
    "AlreadyProcessed": "This transaction has already been processed",
    "BlockhashNotFound": "Blockhash not found",
    "SignatureFailure": "Transaction did not pass signature verification",
    "InvalidProgramForExecution": "This program may not be used for executing instructions",
    "SanitizeFailure": "Transaction failed to sanitize accounts offsets correctly",
    "UnsupportedVersion": "Transaction version is unsupported",
    "InvalidWritableAccount": "Transaction loads a writable account that cannot be written",
    "TooManyAccountLocks": "Transaction locked too many accounts",
    "AddressLookupTableNotFound": "Transaction loads an address table account that doesn't exist",
    "InvalidAddressLookupTableOwner": "Transaction loads an address table account with an invalid owner",
    "InvalidAddressLookupTableData": "Transaction loads an address table account with invalid data",
    "InvalidAddressLookupTableIndex": "Transaction address table lookup uses an invalid index",
}


def describe(err: Any) -> str:
    """Return a TransactionError as a sentence."""
    if isinstance(err, str):
        return _TEXTS.get(err, _spaced(err))
    name, detail = next(iter(err.items()))
    if name == "InstructionError":
        index, reason = detail
        return f"Error processing Instruction {index}: {_instruction_error(reason)}"
    if name == "InsufficientFundsForRent":
        return (
            f"Transaction results in an account ({detail['account_index']}) with insufficient funds for rent"
        )
    return f"{_spaced(name)}: {detail}"


def _instruction_error(reason: Any) -> str:
    if isinstance(reason, dict) and "Custom" in reason:
        return f"custom program error: {reason['Custom']:#x}"
    if isinstance(reason, dict):
        name, detail = next(iter(reason.items()))
        return f"{_spaced(name)}: {detail}"
    return _spaced(reason)


def _spaced(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()
