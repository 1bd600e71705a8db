"""Builders around an equivocation: proving it, and sweeping what vendors left of the bond."""

from dataclasses import dataclass

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.sysvar import INSTRUCTIONS as INSTRUCTIONS_SYSVAR
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.ed25519 import attest
from machpay.chain.instructions.base import instruction, pack, readonly, writable
from machpay.chain.network import Network
from machpay.protocol.intents import PaymentIntent


@dataclass(frozen=True, slots=True)
class SignedIntent:
    """One half of a proof: what the agent signed for `gateway`, and its signature."""

    gateway: Pubkey
    intent: PaymentIntent
    signature: bytes


def slash_equivocation(
    network: Network, *, reporter: Pubkey, agent: Pubkey, first: SignedIntent, second: SignedIntent
) -> list[Instruction]:
    """Prove that `agent` signed two payments under one nonce on two channels. Returns the two instructions that must
    stand next to each other: the signature check and the proof.

    Signer: the reporter, whose token account gets the set-aside after the slashing window. Raises `ValueError` where
    the two are no equivocation: one gateway, two nonces, or a channel that is not the agent's with that gateway.
    """
    if first.gateway == second.gateway:
        raise ValueError("both payments are for one gateway")
    if first.intent.nonce != second.intent.nonce:
        raise ValueError("the payments have different nonces")
    for half in (first, second):
        if half.intent.channel != network.channel(agent, half.gateway):
            raise ValueError("a payment names another channel than its agent and gateway have")
    arguments = first.intent.nonce.bytes + _terms(first) + _terms(second)
    accounts = [
        AccountMeta(reporter, True, False),
        readonly(network.bond()),
        writable(network.agent_account(agent)),
        readonly(INSTRUCTIONS_SYSVAR),
    ]
    vouchers = [(agent, half.intent.voucher(half.signature)) for half in (first, second)]
    return [attest(vouchers), instruction(network, "slash_equivocation", arguments, accounts)]


def sweep_forfeited(
    network: Network, *, agent: Pubkey, reporter_token_account: Pubkey, treasury_token_account: Pubkey
) -> Instruction:
    """After the slashing window, pay the reporter what remains of the set-aside and the treasury what neither vendors
    nor pending claims ask for. No signer but the fee payer. A token account that cannot receive is passed over.
    """
    accounts = [
        readonly(network.bond()),
        writable(network.vault()),
        writable(network.agent_account(agent)),
        writable(reporter_token_account),
        writable(treasury_token_account),
        readonly(TOKEN_PROGRAM_ID),
    ]
    return instruction(network, "sweep_forfeited", b"", accounts)


def _terms(half: SignedIntent) -> bytes:
    intent = half.intent
    return bytes(half.gateway) + pack("<Qq", intent.amount, intent.deadline) + intent.request_hash
