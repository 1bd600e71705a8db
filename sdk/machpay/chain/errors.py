"""What can go wrong between this process and the chain.

    ChainError
    ├── DecodeError          an account does not hold what was asked for
    ├── RpcUnavailable       no usable answer from the RPC server: outcome of a send unknown
    ├── TransactionRejected  refused before it entered a block: nothing happened, nothing was paid
    │   └── BlockhashExpired the blockhash is too old: build and sign again
    ├── TransactionFailed    executed and rolled back
    │   └── ProgramError     by a rule of the MachPay program: `code`, `name`, `text`
    └── ConfirmationTimeout  sent, but not seen at the wanted commitment in time: outcome unknown

Wrong arguments to a builder are `ValueError`s.
"""

from dataclasses import dataclass
from typing import Final

from machpay.errors import MachPayError


class ChainError(MachPayError):
    """Anything that `machpay.chain` raises on purpose."""


class DecodeError(ChainError):
    """Account data that is not of the kind, version or length asked for."""


class RpcUnavailable(ChainError):
    """The RPC server did not answer, or not with what was asked. A transaction sent with this outcome may still land."""


class TransactionRejected(ChainError):
    """The RPC server refused the transaction before it entered a block, so it had no effect."""


class BlockhashExpired(TransactionRejected):
    """The transaction's blockhash is not one the cluster accepts (any more)."""


class TransactionFailed(ChainError):
    """The transaction was executed and failed, so everything it did was rolled back except its fee."""

    def __init__(self, detail: str, logs: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.logs = logs


class ConfirmationTimeout(ChainError):
    """The signature did not reach the wanted commitment in time. Its outcome is unknown: look it up, do not rebuild."""


@dataclass(frozen=True, slots=True)
class ErrorText:
    """The name and the sentence that belong to one of the program's error numbers."""

    name: str
    text: str


# The numbers of contracts/program/src/error.rs; a test compares the two. A number is never given to another error.
PROGRAM_ERRORS: Final[dict[int, ErrorText]] = {
    0x100: ErrorText(
        "InvalidSignature", "the Ed25519 instruction does not attest the expected message and signer"
    ),
    0x101: ErrorText("ExpiredIntent", "the intent's deadline has passed (reserved)"),
    0x102: ErrorText("InsufficientBond", "the bond does not cover the amount"),
    0x103: ErrorText("NonceReplay", "the voucher is not above the channel's watermark"),
}


class ProgramError(TransactionFailed):
    """The MachPay program refused the instruction; `code` is one of `PROGRAM_ERRORS` or unknown to this version."""

    def __init__(self, code: int, logs: tuple[str, ...] = ()) -> None:
        known = PROGRAM_ERRORS.get(code)
        self.code = code
        self.name = known.name if known else f"Unknown{code:#x}"
        self.text = known.text if known else "this version of machpay does not know the error"
        super().__init__(f"{self.name} ({code:#x}): {self.text}", logs)
