"""Builders of the agent's way out: request, cancel and execute a withdrawal."""

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.instructions.base import instruction, pack, readonly, writable
from machpay.chain.network import Network


def request_withdrawal(
    network: Network, *, agent: Pubkey, amount: int, authority: Pubkey | None = None
) -> Instruction:
    """Announce that `amount` is to leave `agent`'s bond; it may after the timelock. Signer: `authority`, the agent
    (default) or its owner."""
    accounts = [
        writable(network.agent_account(agent)),
        readonly(network.bond()),
        AccountMeta(authority or agent, True, False),
    ]
    return instruction(network, "request_withdrawal", pack("<Q", amount), accounts)


def cancel_withdrawal(network: Network, *, agent: Pubkey, owner: Pubkey) -> Instruction:
    """Take the pending withdrawal back. Signer: the owner."""
    accounts = [
        writable(network.agent_account(agent)),
        readonly(network.bond()),
        AccountMeta(owner, True, False),
    ]
    return instruction(network, "cancel_withdrawal", b"", accounts)


def withdraw_bond(
    network: Network, *, agent: Pubkey, destination: Pubkey, authority: Pubkey | None = None
) -> Instruction:
    """Execute the pending withdrawal into `destination`, a token account of the owner's. Signer: `authority`, the
    agent (default) or its owner.

    Pays what was requested, but at most the bond less open claims, and leaves nothing or at least `min_bond`.
    """
    accounts = [
        writable(network.agent_account(agent)),
        readonly(network.bond()),
        writable(network.vault()),
        writable(destination),
        AccountMeta(authority or agent, True, False),
        readonly(TOKEN_PROGRAM_ID),
    ]
    return instruction(network, "withdraw_bond", b"", accounts)
