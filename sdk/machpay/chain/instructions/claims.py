"""Builders of the way out that needs no relayer: claim with a voucher, wait, execute."""

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.sysvar import INSTRUCTIONS as INSTRUCTIONS_SYSVAR
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.ed25519 import attest
from machpay.chain.instructions.base import instruction, readonly, writable
from machpay.chain.network import Network
from machpay.protocol.intents import Voucher


def claim_cumulative(
    network: Network,
    *,
    claimant: Pubkey,
    vendor: Pubkey,
    agent: Pubkey,
    gateway: Pubkey,
    voucher: Voucher,
    payer: Pubkey | None = None,
) -> list[Instruction]:
    """Claim what `voucher` authorises on the channel of `agent` and `gateway`. Returns the two instructions that must
    stand next to each other: the signature check and the claim.

    Signers: the claimant, who is the channel's vendor or its gateway (while not revoked), and the payer of the rent
    of a missing channel, by default the claimant. `vendor` is the authority key. The claim may be executed
    `claim_delay` seconds later; a higher voucher replaces it and restarts the delay. Raises `ValueError` for a voucher
    of another channel.
    """
    if voucher.channel != network.channel(agent, gateway):
        raise ValueError("the voucher names another channel than its agent and gateway have")
    accounts = [
        AccountMeta(claimant, True, False),
        AccountMeta(payer or claimant, True, True),
        readonly(network.bond()),
        writable(voucher.channel),
        writable(network.agent_account(agent)),
        readonly(network.gateway_account(gateway)),
        readonly(network.vendor_account(vendor)),
        readonly(INSTRUCTIONS_SYSVAR),
        readonly(SYSTEM_PROGRAM_ID),
    ]
    return [attest([(agent, voucher)]), instruction(network, "claim_cumulative", b"", accounts)]


def execute_claim(
    network: Network, *, vendor: Pubkey, payout: Pubkey, agent: Pubkey, gateway: Pubkey
) -> Instruction:
    """Pay the pending claim on the channel of `agent` and `gateway`, once its delay has passed. No signer but the fee
    payer: anyone may. `vendor` is the authority key, `payout` the vendor's recorded token account.
    """
    accounts = [
        readonly(network.bond()),
        writable(network.vault()),
        readonly(network.vendor_account(vendor)),
        writable(payout),
        writable(network.channel(agent, gateway)),
        writable(network.agent_account(agent)),
        readonly(TOKEN_PROGRAM_ID),
    ]
    return instruction(network, "execute_claim", b"", accounts)
