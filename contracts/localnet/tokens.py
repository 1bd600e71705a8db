"""SPL token accounts and mints as bytes: what the RPC answers about tokens. Token-2022 shares the first 165 bytes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

TOKEN_PROGRAM = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022_PROGRAM = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
PROGRAM_NAMES = {TOKEN_PROGRAM: "spl-token", TOKEN_2022_PROGRAM: "spl-token-2022"}

_MINT_BYTES = 82
_ACCOUNT_BYTES = 165
# Token-2022 accounts with extensions say what they are in the byte after the base layout: 1 a mint, 2 an account.
_KIND = 165
_STATES = {1: "initialized", 2: "frozen"}


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """An initialised token account; amounts in the mint's smallest unit."""

    mint: Pubkey
    owner: Pubkey
    amount: int
    delegate: Pubkey | None
    delegated_amount: int
    state: str
    native_reserve: int | None
    close_authority: Pubkey | None


@dataclass(frozen=True, slots=True)
class Mint:
    """An initialised mint."""

    mint_authority: Pubkey | None
    supply: int
    decimals: int
    freeze_authority: Pubkey | None


def parse_account(account: Account | None) -> TokenAccount | None:
    """Return the token account in `account`, or None if it holds none."""
    if account is None or account.owner not in PROGRAM_NAMES:
        return None
    data = account.data
    extended = len(data) > _KIND and data[_KIND] == 2
    if (len(data) != _ACCOUNT_BYTES and not extended) or data[108] not in _STATES:
        return None
    return TokenAccount(
        mint=Pubkey.from_bytes(data[0:32]),
        owner=Pubkey.from_bytes(data[32:64]),
        amount=_u64(data, 64),
        delegate=_optional(data, 72),
        delegated_amount=_u64(data, 121),
        state=_STATES[data[108]],
        native_reserve=_u64(data, 113) if data[109] else None,
        close_authority=_optional(data, 129),
    )


def parse_mint(account: Account | None) -> Mint | None:
    """Return the mint in `account`, or None if it holds none."""
    if account is None or account.owner not in PROGRAM_NAMES:
        return None
    data = account.data
    extended = len(data) > _KIND and data[_KIND] == 1
    if (len(data) != _MINT_BYTES and not extended) or data[45] != 1:
        return None
    return Mint(
        mint_authority=_optional(data, 0),
        supply=_u64(data, 36),
        decimals=data[44],
        freeze_authority=_optional(data, 46),
    )


def amount_json(amount: int, decimals: int) -> dict[str, Any]:
    """Return an amount in the RPC's `UiTokenAmount` shape."""
    exact = Decimal(amount).scaleb(-decimals)
    return {
        "amount": str(amount),
        "decimals": decimals,
        # The RPC defines a float beside the exact texts; nothing may compute with it.
        "uiAmount": float(exact),
        "uiAmountString": _plain(exact),
    }


def balances(
    addresses: Iterable[Pubkey],
    states: Mapping[Pubkey, Account | None],
    get_account: Callable[[Pubkey], Account | None],
) -> list[dict[str, Any]]:
    """Return the token balances of those `addresses` whose state is given, as `getTransaction` lists them."""
    entries = []
    for index, address in enumerate(addresses):
        account = states.get(address)
        token = parse_account(account)
        if account is None or token is None:
            continue
        mint = parse_mint(states.get(token.mint) or get_account(token.mint))
        if mint is not None:
            entries.append(
                {
                    "accountIndex": index,
                    "mint": str(token.mint),
                    "owner": str(token.owner),
                    "programId": str(account.owner),
                    "uiTokenAmount": amount_json(token.amount, mint.decimals),
                }
            )
    return entries


def parsed_json(account: Account, get_account: Callable[[Pubkey], Account | None]) -> dict[str, Any] | None:
    """Return the `jsonParsed` data of a token account or mint, or None for anything else."""
    token = parse_account(account)
    if token is not None:
        mint = parse_mint(get_account(token.mint))
        if mint is None:
            return None
        info: dict[str, Any] = {
            "isNative": token.native_reserve is not None,
            "mint": str(token.mint),
            "owner": str(token.owner),
            "state": token.state,
            "tokenAmount": amount_json(token.amount, mint.decimals),
        }
        if token.delegate is not None:
            info["delegate"] = str(token.delegate)
            info["delegatedAmount"] = amount_json(token.delegated_amount, mint.decimals)
        if token.native_reserve is not None:
            info["rentExemptReserve"] = amount_json(token.native_reserve, mint.decimals)
        if token.close_authority is not None:
            info["closeAuthority"] = str(token.close_authority)
        return _parsed(account, "account", info)
    mint = parse_mint(account)
    if mint is None:
        return None
    info = {
        "decimals": mint.decimals,
        "freezeAuthority": str(mint.freeze_authority) if mint.freeze_authority else None,
        "isInitialized": True,
        "mintAuthority": str(mint.mint_authority) if mint.mint_authority else None,
        "supply": str(mint.supply),
    }
    return _parsed(account, "mint", info)


def _parsed(account: Account, kind: str, info: dict[str, Any]) -> dict[str, Any]:
    parsed = {"type": kind, "info": info}
    return {"program": PROGRAM_NAMES[account.owner], "parsed": parsed, "space": len(account.data)}


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")


def _optional(data: bytes, offset: int) -> Pubkey | None:
    return Pubkey.from_bytes(data[offset + 4 : offset + 36]) if data[offset] else None


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
