"""Builder of the relayer's fast settlement, one voucher per channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.sysvar import INSTRUCTIONS as INSTRUCTIONS_SYSVAR
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.ed25519 import attest
from machpay.chain.instructions.base import instruction, pack, readonly, writable
from machpay.chain.network import Network
from machpay.protocol.intents import Voucher

# One bit each in the instruction's `created` byte. A transaction of 1,232 bytes holds five with a lookup table and
# two without.
CHANNELS_PER_INSTRUCTION_MAX: Final = 8


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
    arguments = bytes([created]) + b"".join(pack("<Q", item.up_to) for item in ordered)
    accounts = [
        AccountMeta(relayer, True, True),
        readonly(network.bond()),
        writable(network.vault()),
        readonly(network.vendor_account(vendor)),
        writable(payout),
        readonly(TOKEN_PROGRAM_ID),
        readonly(INSTRUCTIONS_SYSVAR),
    ]
    remaining = []
    for item in ordered:
        remaining += [writable(item.voucher.channel), writable(network.agent_account(item.agent))]
    if created:
        remaining.append(readonly(SYSTEM_PROGRAM_ID))
        remaining += [readonly(network.gateway_account(item.gateway)) for item in ordered if item.create]
    return [
        attest([(item.agent, item.voucher) for item in ordered]),
        instruction(network, "settle_cumulative", arguments, accounts, remaining),
    ]
