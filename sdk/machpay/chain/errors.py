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
    """The RPC server did not answer, or not with what was asked. What was sent may still land."""


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
    0x101: ErrorText("ExpiredIntent", "the intent's deadline has passed"),
    0x102: ErrorText("InsufficientBond", "the bond does not cover the amount"),
    0x103: ErrorText("NonceReplay", "the voucher is not above the channel's watermark"),
    0x104: ErrorText("UnknownInstruction", "the instruction's discriminator is not one of this program"),
    0x105: ErrorText("InvalidInstructionData", "the instruction's arguments do not have the documented form"),
    0x106: ErrorText("WrongAccountCount", "the instruction does not have the documented number of accounts"),
    0x107: ErrorText("MissingSignature", "an account that must sign did not sign"),
    0x108: ErrorText("WrongAccountOwner", "an account belongs to another program than it must"),
    0x109: ErrorText("WrongAccountKind", "an account is of another kind, version or length than it must be"),
    0x10A: ErrorText("WrongAddress", "an account's address is not the one that follows from the others"),
    0x10B: ErrorText("AlreadyInitialized", "the account to be created exists already"),
    0x10C: ErrorText("WrongMint", "an account belongs to another mint"),
    0x10D: ErrorText("WrongProgram", "a program account is not the program it must be"),
    0x10E: ErrorText("Overflow", "an amount would exceed 64 bits or fall below zero"),
    0x10F: ErrorText("NotUpgradeAuthority", "the signer is not the program's upgrade authority"),
    0x110: ErrorText("InvalidConfig", "a configuration value is outside its bounds"),
    0x111: ErrorText("DepositsPaused", "deposits are paused"),
    0x112: ErrorText("BelowMinimumBond", "the first deposit is below the minimum bond"),
    0x113: ErrorText("AboveBondCap", "the bond would exceed the cap per agent"),
    0x114: ErrorText("AgentSlashed", "the agent is slashed"),
    0x115: ErrorText("OwnerMismatch", "the owner named is not the one on record, or is empty"),
    0x116: ErrorText("ApprovalRequired", "the allow-list is on and the admin did not co-sign"),
    0x117: ErrorText(
        "InvalidPayoutAccount",
        "the payout account is not a live token account of the mint, or is the vault's",
    ),
    0x118: ErrorText("MetadataTooLong", "the metadata URI is longer than 128 bytes or is not UTF-8"),
    0x119: ErrorText("NotRelayer", "the signer is not the relayer"),
    0x11A: ErrorText("ChannelsNotSorted", "channels must be strictly ascending by address"),
    0x11B: ErrorText("WrongVendor", "a channel or gateway belongs to another vendor"),
    0x11C: ErrorText("WrongAgent", "a channel belongs to another agent than the agent account beside it"),
    0x11D: ErrorText("ZeroAmount", "the amount is zero"),
    0x11E: ErrorText(
        "ChannelMissing", "the channel does not exist and the instruction does not say to create it"
    ),
    0x120: ErrorText("WithdrawalPending", "a withdrawal is pending already"),
    0x121: ErrorText("NoWithdrawalPending", "no withdrawal is pending"),
    0x122: ErrorText("WithdrawalLocked", "the withdrawal's timelock has not passed"),
    0x123: ErrorText("NotAgentOrOwner", "the signer is neither the agent nor its owner"),
    0x124: ErrorText("NotOwner", "the signer is not the agent's owner"),
    0x125: ErrorText("NotAdmin", "the signer is not the admin"),
    0x126: ErrorText("NotPendingAdmin", "the signer is not the wallet proposed as admin"),
    0x127: ErrorText("GatewayRevoked", "the gateway is revoked already"),
    0x128: ErrorText("EmptyBatch", "a batch has at least one payment"),
    0x140: ErrorText("NotClaimant", "the signer is neither the channel's vendor nor its gateway in service"),
    0x141: ErrorText("NoClaimPending", "no claim is pending on the channel"),
    0x142: ErrorText("ClaimLocked", "the claim's delay has not passed"),
    0x143: ErrorText("SlashingWindowOpen", "the slashing window has not ended"),
    0x144: ErrorText("SameChannel", "both messages are on one channel"),
    0x145: ErrorText(
        "WrongPreimage", "a message's channel or context does not follow from the payment given"
    ),
    0x146: ErrorText("NotSlashed", "the agent is not slashed"),
    0x147: ErrorText("NothingToSweep", "nothing is left to sweep, or no account given can receive it"),
}


class ProgramError(TransactionFailed):
    """The MachPay program refused the instruction; `code` is one of `PROGRAM_ERRORS` or unknown to this version."""

    def __init__(self, code: int, logs: tuple[str, ...] = ()) -> None:
        known = PROGRAM_ERRORS.get(code)
        self.code = code
        self.name = known.name if known else f"Unknown{code:#x}"
        self.text = known.text if known else "this version of machpay does not know the error"
        super().__init__(f"{self.name} ({code:#x}): {self.text}", logs)
