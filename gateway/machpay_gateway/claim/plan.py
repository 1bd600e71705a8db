"""Which step one channel needs next. Pure: no I/O. Amounts are atomic units, times unix seconds."""

from dataclasses import dataclass
from typing import Literal

from solders.pubkey import Pubkey

from machpay.protocol.intents import Voucher

Step = Literal["claim", "execute"]


@dataclass(frozen=True, slots=True)
class Proof:
    """What the log has of one agent: its highest voucher, if any, and the sum of charges that were sent."""

    agent: Pubkey
    voucher: Voucher | None
    served: int


@dataclass(frozen=True, slots=True)
class Position:
    """One channel by the log and the chain.

    `cover` is what the bond has for a claim, None for an agent without a bond. `opened` says whether the Channel
    account exists. `pending` is the claimed cumulative, 0 without a claim; it can be executed from `unlocks_at` on.
    """

    proof: Proof
    opened: bool
    settled: int
    owed: int
    pending: int
    unlocks_at: int
    cover: int | None

    @property
    def signed(self) -> int:
        """The highest cumulative that the log can prove."""
        return 0 if self.proof.voucher is None else self.proof.voucher.cumulative

    @property
    def claimable(self) -> int:
        """What is signed and not settled."""
        return max(0, self.signed - self.settled)

    @property
    def unclaimed(self) -> int:
        """What is signed and neither settled nor part of the pending claim."""
        return max(0, self.signed - max(self.settled, self.pending))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command was asked to do. A channel is worth a claim from `minimum` on."""

    minimum: int
    execute: bool
    replace: bool


def next_step(position: Position, wishes: Wishes, now: int) -> tuple[Step | None, str]:
    """The step to take at `now`, the time that programs see, and the reason for it or for taking none."""
    if position.cover is None:
        return None, "the agent has no bond on this network" if position.signed else "no voucher in the log"
    if position.pending:
        return _pending(position, position.cover, wishes, now)
    if not position.claimable:
        return None, "all of it is settled" if position.signed else "no voucher in the log"
    if min(position.claimable, position.cover) < wishes.minimum:
        return None, f"below the minimum of {wishes.minimum} (the bond holds {position.cover})"
    if position.cover < position.claimable:
        return "claim", f"the bond holds only {position.cover}; the rest of the claim will stay open"
    return "claim", ""


def _pending(position: Position, cover: int, wishes: Wishes, now: int) -> tuple[Step | None, str]:
    if now >= position.unlocks_at:
        if not wishes.execute:
            return None, "unlocked: run with --execute"
        if not cover:
            return None, "unlocked, but the bond is empty; the claim stays open for a later deposit"
        return "execute", ""
    if not position.unclaimed:
        return None, "pending: claiming again would restart the delay"
    if wishes.replace and position.unclaimed >= wishes.minimum:
        return "claim", "replaces the pending claim; its delay starts again"
    return (
        None,
        f"pending: {position.unclaimed} more can be claimed after it (--replace: now, restarting the delay)",
    )
