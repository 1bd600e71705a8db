"""Builders around an agent's bond: creating the mint's bond, deposits."""

from dataclasses import dataclass
from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.instructions.base import instruction, pack, readonly, writable
from machpay.chain.network import Network

UPGRADEABLE_LOADER_ID: Final = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")


@dataclass(frozen=True, slots=True)
class BondConfig:
    """The configuration of a mint. Times in seconds, `agent_bond_cap` 0 for none, `reporter_bps` in 1/10,000.

    The program refuses a timelock outside 60 s to 30 days, a claim delay above half of it, a reporter's share above
    5,000 and a cap below `min_bond`.
    """

    admin: Pubkey
    relayer: Pubkey
    treasury: Pubkey
    min_bond: int
    timelock: int = 86_400
    claim_delay: int = 43_200
    agent_bond_cap: int = 0
    reporter_bps: int = 1_000
    allow_list: bool = False


def program_data_address(program_id: Pubkey) -> Pubkey:
    """The account that holds a program's bytecode and names its upgrade authority."""
    address, _ = Pubkey.find_program_address([bytes(program_id)], UPGRADEABLE_LOADER_ID)
    return address


def initialize_bond(
    network: Network, *, payer: Pubkey, upgrade_authority: Pubkey, config: BondConfig
) -> Instruction:
    """Create GlobalBond and vault of the network's mint. Signers: payer, the program's upgrade authority."""
    arguments = (
        bytes(config.admin)
        + bytes(config.relayer)
        + bytes(config.treasury)
        + bytes(network.domain)
        + pack("<QqqQ", config.min_bond, config.timelock, config.claim_delay, config.agent_bond_cap)
        + pack("<H?", config.reporter_bps, config.allow_list)
    )
    accounts = [
        AccountMeta(payer, True, True),
        AccountMeta(upgrade_authority, True, False),
        readonly(program_data_address(network.program_id)),
        readonly(network.mint),
        writable(network.bond()),
        writable(network.vault()),
        readonly(TOKEN_PROGRAM_ID),
        readonly(SYSTEM_PROGRAM_ID),
    ]
    return instruction(network, "initialize_bond", arguments, accounts)


def deposit_bond(
    network: Network,
    *,
    agent: Pubkey,
    source: Pubkey,
    amount: int,
    owner: Pubkey | None = None,
    authority: Pubkey | None = None,
    payer: Pubkey | None = None,
    approver: Pubkey | None = None,
    agent_signs: bool = True,
) -> Instruction:
    """Put `amount` from the token account `source` on `agent`'s bond.

    The first deposit names the `owner` wallet that withdrawals go to and needs the agent's signature; on later ones
    `owner` may be left out, and a stranger topping up passes `agent_signs=False`, which is refused while a withdrawal
    is pending. `authority` (of `source`) and `payer` (of the rent) default to the agent. `approver` is the admin while
    the allow-list is on.
    """
    authority = authority or agent
    payer = payer or agent
    arguments = pack("<Q", amount) + (bytes(owner) if owner else bytes(32))
    accounts = [
        writable(network.agent_account(agent)),
        readonly(network.bond()),
        writable(network.vault()),
        writable(source),
        AccountMeta(authority, True, False),
        AccountMeta(payer, True, True),
        AccountMeta(agent, agent_signs, False),
        AccountMeta(approver or network.program_id, approver is not None, False),
        readonly(TOKEN_PROGRAM_ID),
        readonly(SYSTEM_PROGRAM_ID),
    ]
    return instruction(network, "deposit_bond", arguments, accounts)
