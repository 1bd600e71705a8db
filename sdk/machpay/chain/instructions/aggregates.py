"""Builders of aggregated settlement: one signature moves many channels' amounts to `owed`, then vendors are paid."""

from collections.abc import Sequence
from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.sysvar import INSTRUCTIONS as INSTRUCTIONS_SYSVAR
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.ed25519 import attest_aggregate
from machpay.chain.instructions.base import instruction, pack, readonly, writable
from machpay.chain.network import Network
from machpay.protocol.aggregates import Aggregate

# A transaction locks at most 64 accounts: these, seven of the instruction, the fee payer.
DISTRIBUTED_CHANNELS_MAX: Final = 56


def settle_aggregated(
    network: Network, *, relayer: Pubkey, aggregate: Aggregate, signature: bytes
) -> list[Instruction]:
    """Move what `aggregate` authorises on each of its channels to the channel's `owed`. Returns the two instructions
    that must stand next to each other: the signature check and the settlement.

    Signer: the relayer. All channels exist and are the agent's. Raises `ValueError` for an aggregate of another
    cluster or mint.
    """
    if (aggregate.domain, aggregate.mint) != (network.domain, network.mint):
        raise ValueError("the aggregated voucher is of another cluster or mint")
    arguments = b"".join(pack("<Q", total.cumulative) for total in aggregate.totals)
    accounts = [
        AccountMeta(relayer, True, False),
        readonly(network.bond()),
        writable(network.agent_account(aggregate.agent)),
        readonly(INSTRUCTIONS_SYSVAR),
    ]
    remaining = [writable(total.channel) for total in aggregate.totals]
    return [
        attest_aggregate(aggregate, signature),
        instruction(network, "settle_aggregated", arguments, accounts, remaining),
    ]


def distribute(
    network: Network, *, vendor: Pubkey, payout: Pubkey, channels: Sequence[Pubkey]
) -> Instruction:
    """Pay the vendor (its authority key) what is owed on up to 56 of its channels, in one transfer. No signer but the
    fee payer. Channels that nothing is owed on are skipped.
    """
    if not 1 <= len(channels) <= DISTRIBUTED_CHANNELS_MAX:
        raise ValueError(f"an instruction pays 1 to {DISTRIBUTED_CHANNELS_MAX} channels")
    accounts = [
        readonly(network.bond()),
        writable(network.vault()),
        readonly(network.vendor_account(vendor)),
        writable(payout),
        readonly(TOKEN_PROGRAM_ID),
    ]
    remaining = [writable(channel) for channel in channels]
    return instruction(network, "distribute", b"", accounts, remaining)
