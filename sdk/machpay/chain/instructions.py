"""Builders, one per instruction of the program: arguments in, `solders` instructions out.

Discriminators are Anchor's, arguments are borsh, and accounts stand in the order of the tables in
contracts/program/src/instructions/. Nothing here signs, sends or asks the chain anything. Amounts are atomic units.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.sysvar import INSTRUCTIONS as INSTRUCTIONS_SYSVAR
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.ed25519 import attest
from machpay.chain.network import Network
from machpay.protocol.intents import Voucher

UPGRADEABLE_LOADER_ID: Final = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
METADATA_URI_LENGTH_MAX: Final = 128
# One bit each in the instruction's `created` byte. A transaction of 1,232 bytes holds five with a lookup table and
# two without.
CHANNELS_PER_INSTRUCTION_MAX: Final = 8


def discriminator(name: str) -> bytes:
    """Anchor's instruction discriminator: the first 8 bytes of sha256("global:<name>")."""
    return hashlib.sha256(f"global:{name}".encode()).digest()[:8]


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


@dataclass(frozen=True, slots=True)
class ChannelSettlement:
    """One channel to settle: pay what `voucher` authorises, but not beyond `up_to` in total.

    `up_to` is the relayer's sum of charges on the channel. With `create` the channel is created if it does not exist;
    the relayer pays its rent.
    """

    agent: Pubkey
    gateway: Pubkey
    voucher: Voucher
    up_to: int
    create: bool = False


def initialize_bond(
    network: Network, *, payer: Pubkey, upgrade_authority: Pubkey, config: BondConfig
) -> Instruction:
    """Create GlobalBond and vault of the network's mint. Signers: payer, the program's upgrade authority."""
    program_data, _ = Pubkey.find_program_address([bytes(network.program_id)], UPGRADEABLE_LOADER_ID)
    arguments = (
        bytes(config.admin)
        + bytes(config.relayer)
        + bytes(config.treasury)
        + bytes(network.domain)
        + struct.pack("<QqqQ", config.min_bond, config.timelock, config.claim_delay, config.agent_bond_cap)
        + struct.pack("<H?", config.reporter_bps, config.allow_list)
    )
    accounts = [
        AccountMeta(payer, True, True),
        AccountMeta(upgrade_authority, True, False),
        _readonly(program_data),
        _readonly(network.mint),
        _writable(network.bond()),
        _writable(network.vault()),
        _readonly(TOKEN_PROGRAM_ID),
        _readonly(SYSTEM_PROGRAM_ID),
    ]
    return _instruction(network, "initialize_bond", arguments, accounts)


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
    `owner` may be left out, and a stranger topping up passes `agent_signs=False`. `authority` (of `source`) and
    `payer` (of the rent) default to the agent. `approver` is the admin while the allow-list is on.
    """
    authority = authority or agent
    payer = payer or agent
    arguments = struct.pack("<Q", amount) + (bytes(owner) if owner else bytes(32))
    accounts = [
        _writable(network.agent_account(agent)),
        _readonly(network.bond()),
        _writable(network.vault()),
        _writable(source),
        AccountMeta(authority, True, False),
        AccountMeta(payer, True, True),
        AccountMeta(agent, agent_signs, False),
        AccountMeta(approver or network.program_id, approver is not None, False),
        _readonly(TOKEN_PROGRAM_ID),
        _readonly(SYSTEM_PROGRAM_ID),
    ]
    return _instruction(network, "deposit_bond", arguments, accounts)


def register_vendor(
    network: Network,
    *,
    authority: Pubkey,
    payout: Pubkey,
    price: int,
    metadata_uri: str = "",
    payer: Pubkey | None = None,
) -> Instruction:
    """Register the vendor `authority`, paid into the token account `payout`. Signers: authority, payer."""
    uri = metadata_uri.encode()
    if len(uri) > METADATA_URI_LENGTH_MAX:
        raise ValueError(f"metadata_uri is longer than {METADATA_URI_LENGTH_MAX} bytes")
    accounts = [
        _writable(network.vendor_account(authority)),
        AccountMeta(authority, True, False),
        AccountMeta(payer or authority, True, True),
        _readonly(network.bond()),
        _readonly(payout),
        _readonly(SYSTEM_PROGRAM_ID),
    ]
    return _instruction(network, "register_vendor", struct.pack("<QI", price, len(uri)) + uri, accounts)


def register_gateway(
    network: Network, *, gateway: Pubkey, authority: Pubkey, payer: Pubkey | None = None
) -> Instruction:
    """Bind `gateway` to the vendor `authority` for ever. Signers: gateway, authority, payer."""
    accounts = [
        _writable(network.gateway_account(gateway)),
        AccountMeta(gateway, True, False),
        _readonly(network.vendor_account(authority)),
        AccountMeta(authority, True, False),
        AccountMeta(payer or authority, True, True),
        _readonly(SYSTEM_PROGRAM_ID),
    ]
    return _instruction(network, "register_gateway", b"", accounts)


def settle_cumulative(
    network: Network,
    *,
    relayer: Pubkey,
    vendor: Pubkey,
    payout: Pubkey,
    channels: Sequence[ChannelSettlement],
) -> list[Instruction]:
    """Settle 1 to 8 channels of one vendor (its authority key). Returns the two instructions that must stand next to
    each other: the signature check and the settlement. Channels are put in the order the program demands.

    Signer: the relayer, who also pays the rent of channels marked `create`. Raises `ValueError` for a channel given
    twice, or a voucher of another channel.
    """
    ordered = sorted(channels, key=lambda item: bytes(item.voucher.channel))
    if not 1 <= len(ordered) <= CHANNELS_PER_INSTRUCTION_MAX:
        raise ValueError(f"an instruction settles 1 to {CHANNELS_PER_INSTRUCTION_MAX} channels")
    if len({item.voucher.channel for item in ordered}) != len(ordered):
        raise ValueError("a channel is given twice")
    for item in ordered:
        if item.voucher.channel != network.channel(item.agent, item.gateway):
            raise ValueError("a voucher names another channel than its agent and gateway have")

    created = sum(1 << index for index, item in enumerate(ordered) if item.create)
    arguments = bytes([created]) + b"".join(struct.pack("<Q", item.up_to) for item in ordered)
    accounts = [
        AccountMeta(relayer, True, True),
        _readonly(network.bond()),
        _writable(network.vault()),
        _readonly(network.vendor_account(vendor)),
        _writable(payout),
        _readonly(TOKEN_PROGRAM_ID),
        _readonly(INSTRUCTIONS_SYSVAR),
    ]
    remaining = []
    for item in ordered:
        remaining += [_writable(item.voucher.channel), _writable(network.agent_account(item.agent))]
    if created:
        remaining.append(_readonly(SYSTEM_PROGRAM_ID))
        remaining += [_readonly(network.gateway_account(item.gateway)) for item in ordered if item.create]
    return [
        attest([(item.agent, item.voucher) for item in ordered]),
        _instruction(network, "settle_cumulative", arguments, accounts, remaining),
    ]


def _instruction(
    network: Network,
    name: str,
    arguments: bytes,
    accounts: list[AccountMeta],
    remaining: Sequence[AccountMeta] = (),
) -> Instruction:
    """Named accounts end with the two that events need; accounts without a name follow them."""
    events = [_readonly(network.event_authority()), _readonly(network.program_id)]
    return Instruction(network.program_id, discriminator(name) + arguments, [*accounts, *events, *remaining])


def _readonly(address: Pubkey) -> AccountMeta:
    return AccountMeta(address, False, False)


def _writable(address: Pubkey) -> AccountMeta:
    return AccountMeta(address, False, True)
