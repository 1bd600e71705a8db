"""Initialising the bond of one mint: the one piece of code that demo, tests and operators do it with."""

from collections.abc import Sequence

from solders.instruction import Instruction
from solders.keypair import Keypair

from machpay.chain.accounts import GlobalBond
from machpay.chain.client import ChainClient
from machpay.chain.instructions import BondConfig, initialize_bond

_COMPARED = (
    "admin",
    "relayer",
    "treasury",
    "min_bond",
    "timelock",
    "claim_delay",
    "agent_bond_cap",
    "reporter_bps",
    "allow_list",
)


async def ensure_bond(
    chain: ChainClient, *, payer: Keypair, upgrade_authority: Keypair, config: BondConfig
) -> str | None:
    """Create GlobalBond and vault of the client's mint with `config`; returns the transaction's signature, None if
    they are there already, whatever their configuration. Raises `ChainError`."""
    if await chain.bond() is not None:
        return None
    step = initialize_step(chain, payer=payer, upgrade_authority=upgrade_authority, config=config)
    return await chain.send_and_confirm(step, payer, [upgrade_authority], "finalized")


def initialize_step(
    chain: ChainClient, *, payer: Keypair, upgrade_authority: Keypair, config: BondConfig
) -> Sequence[Instruction]:
    """What `ensure_bond` sends, for a trial without sending."""
    if chain.network is None:
        raise ValueError("this client was made without a network")
    return [
        initialize_bond(
            chain.network,
            payer=payer.pubkey(),
            upgrade_authority=upgrade_authority.pubkey(),
            config=config,
        )
    ]


def differences(bond: GlobalBond, config: BondConfig) -> list[str]:
    """What of `config` the chain has otherwise, one line each. `set_config` changes it."""
    return [
        f"{name} is {getattr(bond, name)}, not {getattr(config, name)}"
        for name in _COMPARED
        if getattr(bond, name) != getattr(config, name)
    ]
