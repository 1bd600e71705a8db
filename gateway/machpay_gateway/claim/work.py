"""Taking the planned steps on the chain, several channels at once, and what became of each."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError, ConfirmationTimeout, RpcUnavailable
from machpay.chain.instructions import claim_cumulative, execute_claim
from machpay.chain.loader import LAMPORTS_PER_SIGNATURE
from machpay.chain.network import Network
from machpay_gateway.claim.plan import Position, Step, Wishes, next_step
from machpay_gateway.claim.positions import read_position

SENDS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Parties:
    """Who claims for whom. `claimant` is None when no key given may claim: executing needs none."""

    network: Network
    gateway: Pubkey
    vendor: Pubkey
    payout: Pubkey
    claimant: Keypair | None
    payer: Keypair


@dataclass(slots=True)
class Outcome:
    """One channel after the run. `sent` holds (step, signature); `failure` is set when a step did not succeed, and
    `unknown` when it may still land."""

    before: Position
    after: Position
    note: str
    planned: Step | None = None
    sent: list[tuple[Step, str]] = field(default_factory=list)
    failure: str | None = None
    unknown: bool = False

    @property
    def paid(self) -> int:
        """By how much executing raised what is settled."""
        return self.after.settled - self.before.settled if ("execute" in dict(self.sent)) else 0


def plan(positions: Sequence[Position], parties: Parties, wishes: Wishes, now: int) -> list[Outcome]:
    """The outcome of each channel before anything is sent."""
    outcomes = []
    for position in positions:
        step, note = next_step(position, wishes, now)
        outcome = Outcome(position, position, note, step)
        if step == "claim" and parties.claimant is None:
            outcome.planned = None
            outcome.failure = "the gateway is revoked and its key may not claim: give --vendor-keypair"
        outcomes.append(outcome)
    return outcomes


def lamports_needed(outcomes: Sequence[Outcome], parties: Parties, channel_rent: int) -> int:
    """What the fee payer spends at most on the planned steps: signatures, and the rent of missing channels."""
    # The voucher's signature is paid for like one of the transaction's.
    separate = parties.claimant is not None and parties.claimant.pubkey() != parties.payer.pubkey()
    claim = (3 if separate else 2) * LAMPORTS_PER_SIGNATURE
    needed = 0
    for outcome in outcomes:
        if outcome.planned == "claim":
            needed += claim + (0 if outcome.before.opened else channel_rent)
        elif outcome.planned == "execute":
            needed += LAMPORTS_PER_SIGNATURE + (claim if outcome.before.unclaimed else 0)
    return needed


async def carry_out(
    chain: ChainClient,
    outcomes: Sequence[Outcome],
    parties: Parties,
    wishes: Wishes,
    now: int,
    progress: Callable[[int], None],
) -> None:
    """Take every planned step; failures are noted where they happen and stop no other channel."""
    turns, done = asyncio.Semaphore(SENDS_AT_ONCE), 0

    async def one(outcome: Outcome) -> None:
        nonlocal done
        async with turns:
            await _carry_out(chain, outcome, parties, wishes, now)
        done += 1
        progress(done)

    await asyncio.gather(*(one(outcome) for outcome in outcomes if outcome.planned))


async def _carry_out(
    chain: ChainClient, outcome: Outcome, parties: Parties, wishes: Wishes, now: int
) -> None:
    step = outcome.planned
    # Executing comes first, and what was signed above it may be claimed after it: each at most once.
    while step is not None and step not in dict(outcome.sent) and outcome.failure is None:
        await _send(chain, outcome, parties, step)
        try:
            outcome.after = await read_position(chain, parties.gateway, outcome.before.proof)
        except ChainError as error:
            outcome.note = f"the channel could not be read again: {error}"
            return
        step, outcome.note = next_step(outcome.after, wishes, now)
        if step == "claim" and parties.claimant is None:
            return


async def _send(chain: ChainClient, outcome: Outcome, parties: Parties, step: Step) -> None:
    payer, claimant = parties.payer, parties.claimant
    try:
        if step == "claim" and claimant is not None:
            signature = await chain.send_and_confirm(
                _claim(outcome.after, parties, claimant), payer, [claimant], "confirmed"
            )
        else:
            signature = await chain.send_and_confirm(
                [_execute(outcome.after, parties)], payer, (), "finalized"
            )
    except (ConfirmationTimeout, RpcUnavailable) as error:
        outcome.failure, outcome.unknown = f"{step}: outcome unknown: {error}", True
    except ChainError as error:
        outcome.failure = f"{step}: refused: {error}"
    else:
        outcome.sent.append((step, signature))


def _claim(position: Position, parties: Parties, claimant: Keypair) -> list[Instruction]:
    voucher = position.proof.voucher
    if voucher is None:
        raise ValueError("a claim needs a voucher")
    return claim_cumulative(
        parties.network,
        claimant=claimant.pubkey(),
        vendor=parties.vendor,
        agent=position.proof.agent,
        gateway=parties.gateway,
        voucher=voucher,
        payer=parties.payer.pubkey(),
    )


def _execute(position: Position, parties: Parties) -> Instruction:
    return execute_claim(
        parties.network,
        vendor=parties.vendor,
        payout=parties.payout,
        agent=position.proof.agent,
        gateway=parties.gateway,
    )
