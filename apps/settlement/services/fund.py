"""Test money for any key on a local chain. Only in the demo, with the mint's own authority."""

from dataclasses import dataclass
from typing import Final

from django.conf import settings
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from apps.settlement.errors import FundingRefused
from machpay.chain import tokens
from machpay.chain.client import ChainClient
from machpay.chain.errors import RpcUnavailable
from machpay.protocol.encoding import U64_MAX
from machpay.protocol.errors import ProtocolError
from machpay.protocol.keys import SigningKey

LAMPORTS_PER_SOL: Final = 1_000_000_000
_AIRDROP: Final = 10 * LAMPORTS_PER_SOL
_ENOUGH: Final = LAMPORTS_PER_SOL


@dataclass(frozen=True, slots=True)
class Funded:
    """What the key has now. `wallet` is its associated token account."""

    wallet: Pubkey
    lamports: int
    balance_atomic: int


async def fund(*, owner: Pubkey, amount_atomic: int) -> Funded:
    """Give `owner` at least one SOL and `amount_atomic` more test USDC, confirmed.

    Raises `FundingRefused` outside the demo, for an amount that no token account can hold, for missing
    settings, and if the chain does not answer or has no such mint.
    """
    if settings.MACHPAY_PROFILE != "demo":
        raise FundingRefused("test money exists in the demo profile only (MACHPAY_PROFILE=demo)")
    if not 0 < amount_atomic <= U64_MAX:
        raise FundingRefused("the amount must be a positive number of atomic units (1 USDC = 1000000)")
    if not settings.SOLANA_RPC_URL or not settings.USDC_MINT:
        raise FundingRefused("SOLANA_RPC_URL and USDC_MINT must be set: is the demo running?")
    mint = Pubkey.from_string(settings.USDC_MINT)
    authority = _mint_authority()
    try:
        async with ChainClient(settings.SOLANA_RPC_URL) as chain:
            return await _fund(chain, owner, amount_atomic, mint, authority)
    except RpcUnavailable as error:
        raise FundingRefused(f"the chain at {settings.SOLANA_RPC_URL} does not answer: {error}") from error


async def _fund(
    chain: ChainClient, owner: Pubkey, amount_atomic: int, mint: Pubkey, authority: Keypair
) -> Funded:
    if not await chain.exists(mint):
        raise FundingRefused(f"the chain at {settings.SOLANA_RPC_URL} has no mint {mint}")
    for key in {owner, authority.pubkey()}:
        if await chain.lamports(key) < _ENOUGH:
            await chain.airdrop(key, _AIRDROP)
    wallet = tokens.associated_token_address(owner, mint)
    steps = [
        tokens.create_ata_idempotent(payer=authority.pubkey(), owner=owner, mint=mint),
        tokens.mint_to(mint=mint, destination=wallet, authority=authority.pubkey(), amount=amount_atomic),
    ]
    await chain.send_and_confirm(steps, authority)
    return Funded(wallet, await chain.lamports(owner), await chain.token_balance(wallet))


def _mint_authority() -> Keypair:
    path = settings.MINT_AUTHORITY_KEYPAIR
    if not path:
        raise FundingRefused("MINT_AUTHORITY_KEYPAIR must be set: is the demo running?")
    try:
        return SigningKey.load(path).keypair()
    except (OSError, ProtocolError) as error:
        raise FundingRefused(f"MINT_AUTHORITY_KEYPAIR ({path}) cannot be used: {error}") from error
