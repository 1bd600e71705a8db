"""What MachPay needs of classic SPL Token: addresses, a few instructions, reading accounts.

Token-2022 is not spoken here on purpose: the program takes classic mints only.
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.system_program import CreateAccountParams, create_account
from solders.token import ID as TOKEN_PROGRAM_ID
from solders.token.associated import get_associated_token_address

from machpay.chain.errors import DecodeError

ASSOCIATED_TOKEN_PROGRAM_ID: Final = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
TOKEN_ACCOUNT_LENGTH: Final = 165
MINT_LENGTH: Final = 82

_CREATE_IDEMPOTENT: Final = b"\x01"
_TRANSFER: Final = 3
_MINT_TO: Final = 7
_INITIALIZE_MINT_2: Final = 20


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """A token account: whose, of which mint, how much, and whether it can move."""

    mint: Pubkey
    owner: Pubkey
    amount: int
    frozen: bool

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises `DecodeError` if `data` is not an initialised token account."""
        if len(data) != TOKEN_ACCOUNT_LENGTH or data[108] not in (1, 2):
            raise DecodeError("not an initialised token account")
        (amount,) = struct.unpack_from("<Q", data, 64)
        return cls(Pubkey(data[:32]), Pubkey(data[32:64]), amount, data[108] == 2)


def token_amount(data: bytes) -> int:
    """Atomic units held by the token account with this data."""
    return TokenAccount.decode(data).amount


def associated_token_address(owner: Pubkey, mint: Pubkey) -> Pubkey:
    """Where wallets keep `owner`'s tokens of `mint`."""
    return get_associated_token_address(owner, mint)


def create_ata_idempotent(*, payer: Pubkey, owner: Pubkey, mint: Pubkey) -> Instruction:
    """Create the associated token account unless it exists. Signer: payer."""
    accounts = [
        AccountMeta(payer, True, True),
        AccountMeta(associated_token_address(owner, mint), False, True),
        AccountMeta(owner, False, False),
        AccountMeta(mint, False, False),
        AccountMeta(SYSTEM_PROGRAM_ID, False, False),
        AccountMeta(TOKEN_PROGRAM_ID, False, False),
    ]
    return Instruction(ASSOCIATED_TOKEN_PROGRAM_ID, _CREATE_IDEMPOTENT, accounts)


def create_mint(
    *, payer: Pubkey, mint: Pubkey, authority: Pubkey, decimals: int, lamports: int
) -> list[Instruction]:
    """A new mint at the key `mint` without freeze authority. `lamports` is the rent of 82 bytes.

    Signers: payer, mint.
    """
    new_account = create_account(
        CreateAccountParams(
            from_pubkey=payer, to_pubkey=mint, lamports=lamports, space=MINT_LENGTH, owner=TOKEN_PROGRAM_ID
        )
    )
    data = bytes([_INITIALIZE_MINT_2, decimals]) + bytes(authority) + b"\x00"
    return [new_account, Instruction(TOKEN_PROGRAM_ID, data, [AccountMeta(mint, False, True)])]


def mint_to(*, mint: Pubkey, destination: Pubkey, authority: Pubkey, amount: int) -> Instruction:
    """Create `amount` new tokens in a token account. Signer: the mint's authority."""
    accounts = [
        AccountMeta(mint, False, True),
        AccountMeta(destination, False, True),
        AccountMeta(authority, True, False),
    ]
    return Instruction(TOKEN_PROGRAM_ID, struct.pack("<BQ", _MINT_TO, amount), accounts)


def transfer(*, source: Pubkey, destination: Pubkey, authority: Pubkey, amount: int) -> Instruction:
    """Move `amount` between token accounts of one mint. Signer: the source's owner."""
    accounts = [
        AccountMeta(source, False, True),
        AccountMeta(destination, False, True),
        AccountMeta(authority, True, False),
    ]
    return Instruction(TOKEN_PROGRAM_ID, struct.pack("<BQ", _TRANSFER, amount), accounts)
