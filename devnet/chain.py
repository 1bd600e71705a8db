"""Sets the local chain up: test USDC, the bond, vendors with their gateways, agents with bonds. Safe to repeat."""

import asyncio
from collections.abc import Sequence

from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from devnet.keys import KeyStore
from devnet.offers import OFFERS, Offer
from machpay.chain import instructions, tokens
from machpay.chain.client import ChainClient
from machpay.chain.hosting import register_hosted_gateway
from machpay.chain.network import Network
from machpay.chain.setup import ensure_bond

LAMPORTS_PER_SOL = 1_000_000_000
USDC_DECIMALS = 6
MIN_BOND_ATOMIC = 1_000_000


def bootstrap_chain(
    *, rpc_url: str, network: Network, keys: KeyStore, agents: Sequence[str], bond_atomic: int
) -> None:
    """Bring the chain to the state the demo needs; what is there already is left alone."""
    asyncio.run(_bootstrap(rpc_url, network, keys, agents, bond_atomic))


def host_gateways(*, rpc_url: str, network: Network, keys: KeyStore, facilitator_url: str) -> dict[str, str]:
    """Register the gateways that the facilitator hosts for the demo's vendors; returns vendor -> gateway."""
    return asyncio.run(_host_gateways(rpc_url, network, keys, facilitator_url))


async def _host_gateways(
    rpc_url: str, network: Network, keys: KeyStore, facilitator_url: str
) -> dict[str, str]:
    vendors = [keys.get(f"vendor-{offer.vendor}") for offer in OFFERS]
    async with ChainClient(rpc_url, network) as chain:
        await asyncio.gather(*(_fund_sol(chain, vendor.public) for vendor in vendors))
        gateways = await asyncio.gather(
            *(register_hosted_gateway(chain, network, facilitator_url, vendor) for vendor in vendors)
        )
    return {vendor.pubkey: str(gateway) for vendor, gateway in zip(vendors, gateways, strict=True)}


async def _bootstrap(
    rpc_url: str, network: Network, keys: KeyStore, agents: Sequence[str], bond_atomic: int
) -> None:
    async with ChainClient(rpc_url, network) as chain:
        admin = keys.get("admin").keypair()
        await asyncio.gather(
            *(_fund_sol(chain, keys.get(name).public) for name in ("admin", "relayer", "custody", *agents))
        )
        await _create_mint(chain, network, keys, admin)
        await _create_custody(chain, network, keys, admin)
        await _initialize(chain, keys, admin)
        for offer in OFFERS:
            await _register(chain, network, keys, offer, admin)
        await asyncio.gather(*(_bond(chain, network, keys, name, bond_atomic, admin) for name in agents))


async def _fund_sol(chain: ChainClient, owner: Pubkey) -> None:
    if await chain.lamports(owner) < 10 * LAMPORTS_PER_SOL:
        await chain.airdrop(owner, 100 * LAMPORTS_PER_SOL)


async def _create_custody(chain: ChainClient, network: Network, keys: KeyStore, admin: Keypair) -> None:
    """The token account of the custodial wallet, which deposits go to."""
    owner = keys.get("custody").public
    if not await chain.exists(tokens.associated_token_address(owner, network.mint)):
        step = tokens.create_ata_idempotent(payer=admin.pubkey(), owner=owner, mint=network.mint)
        await chain.send_and_confirm([step], admin)


async def _create_mint(chain: ChainClient, network: Network, keys: KeyStore, admin: Keypair) -> None:
    if await chain.exists(network.mint):
        return
    steps = tokens.create_mint(
        payer=admin.pubkey(),
        mint=network.mint,
        authority=keys.get("mint-authority").public,
        decimals=USDC_DECIMALS,
        lamports=await chain.rent(tokens.MINT_LENGTH),
    )
    await chain.send_and_confirm(steps, admin, [keys.get("mint").keypair()])


async def _initialize(chain: ChainClient, keys: KeyStore, admin: Keypair) -> None:
    config = instructions.BondConfig(
        admin=admin.pubkey(),
        relayer=keys.get("relayer").public,
        treasury=admin.pubkey(),
        min_bond=MIN_BOND_ATOMIC,
    )
    await ensure_bond(chain, payer=admin, upgrade_authority=admin, config=config)


async def _register(
    chain: ChainClient, network: Network, keys: KeyStore, offer: Offer, admin: Keypair
) -> None:
    vendor, gateway = keys.get(f"vendor-{offer.vendor}"), keys.get(offer.gateway)
    if await chain.vendor(vendor.public) is None:
        steps: list[Instruction] = [
            tokens.create_ata_idempotent(payer=admin.pubkey(), owner=vendor.public, mint=network.mint),
            instructions.register_vendor(
                network,
                authority=vendor.public,
                payout=tokens.associated_token_address(vendor.public, network.mint),
                price=min(route.price_atomic for route in offer.routes),
                payer=admin.pubkey(),
            ),
        ]
        await chain.send_and_confirm(steps, admin, [vendor.keypair()])
    if await chain.gateway(gateway.public) is None:
        step = instructions.register_gateway(
            network, gateway=gateway.public, authority=vendor.public, payer=admin.pubkey()
        )
        await chain.send_and_confirm([step], admin, [vendor.keypair(), gateway.keypair()])


async def _bond(
    chain: ChainClient, network: Network, keys: KeyStore, name: str, bond_atomic: int, admin: Keypair
) -> None:
    """Open the agent's bond, or top it up once less than half of it is left."""
    agent = keys.get(name)
    account = await chain.agent(agent.public)
    missing = bond_atomic - (account.bond if account else 0)
    if account is not None and missing < bond_atomic // 2:
        return
    wallet = tokens.associated_token_address(agent.public, network.mint)
    authority = keys.get("mint-authority")
    steps = [
        tokens.create_ata_idempotent(payer=admin.pubkey(), owner=agent.public, mint=network.mint),
        tokens.mint_to(mint=network.mint, destination=wallet, authority=authority.public, amount=missing),
        instructions.deposit_bond(
            network,
            agent=agent.public,
            source=wallet,
            amount=missing,
            owner=agent.public,
            payer=admin.pubkey(),
        ),
    ]
    await chain.send_and_confirm(steps, admin, [authority.keypair(), agent.keypair()])
