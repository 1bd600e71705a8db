"""What the gateway's log proves, and what the chain says about it. Reads only."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from solders.pubkey import Pubkey

from machpay.chain.accounts import AgentAccount
from machpay.chain.client import ChainClient
from machpay_gateway.claim.plan import Position, Proof
from machpay_gateway.settings import Settings
from machpay_gateway.transfer.reading import replay

READS_AT_ONCE: Final = 8


def read_log(settings: Settings) -> dict[Pubkey, Proof]:
    """Every agent of the log in `settings.data_dir`, which is left as it is; a gateway may be using it.

    Raises `LogError` and its kinds.
    """
    book = replay(settings)
    return {
        # A snapshot's totals leave out charges that a restart would make void.
        totals.agent: Proof(totals.agent, book.channels[totals.agent].voucher, totals.served)
        for totals in book.totals([])
    }


async def read_positions(
    chain: ChainClient, gateway: Pubkey, proofs: Iterable[Proof], progress: Callable[[int], None]
) -> list[Position]:
    """The channels of `proofs`, in this order; `progress` is told how many are read. Raises `ChainError`."""
    turns, done = asyncio.Semaphore(READS_AT_ONCE), 0

    async def one(proof: Proof) -> Position:
        nonlocal done
        async with turns:
            position = await read_position(chain, gateway, proof)
        done += 1
        progress(done)
        return position

    return list(await asyncio.gather(*map(one, proofs)))


async def read_position(chain: ChainClient, gateway: Pubkey, proof: Proof) -> Position:
    """One channel at `confirmed`, so that what an earlier run has just sent is seen. Raises `ChainError`."""
    channel = await chain.channel(proof.agent, gateway)
    agent = await chain.agent(proof.agent)
    if channel is None:
        return Position(proof, False, 0, 0, 0, 0, _cover(agent))
    unlocks_at = channel.claim_unlock if channel.claim_cumulative else 0
    if unlocks_at and agent is not None and agent.slashed:
        unlocks_at = max(unlocks_at, agent.window_end)
    return Position(
        proof, True, channel.settled, channel.owed, channel.claim_cumulative, unlocks_at, _cover(agent)
    )


def _cover(agent: AgentAccount | None) -> int | None:
    """What claims may draw on: a slashed agent's set-aside is not for them (decision 0005)."""
    if agent is None:
        return None
    return agent.forfeited - agent.reporter_set_aside if agent.slashed else agent.bond
