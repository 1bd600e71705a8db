"""Who is paid how much of a bond that does not cover everything: what was leased first, the rest pro rata. Pure but for
reading what is due."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from apps.payments.selectors.bonds import payable_bonds
from apps.payments.selectors.solvency import Due, dues_of, unused_leases, with_leases
from apps.payments.services.settlements import DueChannel


def within_bonds(claimed: Sequence[DueChannel]) -> tuple[list[DueChannel], dict[str, int]]:
    """The claimed channels with `up_to` lowered to their share, where what an agent's bond can still pay, less what is
    leased and not charged yet, is less than all its channels could be paid; and what it can pay, by agent. Channels
    whose share is nothing are left out."""
    agents = {channel.agent for channel in claimed}
    # In this order what others charge, settle or store in between is counted twice, and nothing is promised twice.
    unused = unused_leases(agents)
    dues = dues_of(agents)
    available = payable_bonds(agents)
    shares: dict[str, int] = {}
    for agent, owed in dues.items():
        held, leased = max(available.get(agent, 0), 0), unused.get(agent, 0)
        if sum(due.amount_atomic for due in owed) > held - leased:
            shares |= fair_shares(held, with_leases(owed), unused_leases=leased)
    lowered = []
    for channel in claimed:
        share = shares.get(channel.address, channel.payable_atomic)
        if share >= channel.payable_atomic:
            lowered.append(channel)
        elif share > 0:
            lowered.append(replace(channel, up_to_atomic=channel.settled_atomic + share))
    return lowered, available


def fair_shares(available: int, dues: Sequence[Due], *, unused_leases: int = 0) -> dict[str, int]:
    """What each channel gets of `available`: never more than is due, and all of it if that suffices.

    What was charged beyond leases is paid from what neither charged nor `unused_leases` need: a gateway that charges
    without a lease could otherwise empty the bond that others rely on.
    """
    leased = {due.channel: due.leased_atomic for due in dues}
    first = pro_rata(available, leased)
    rest = {due.channel: due.amount_atomic - due.leased_atomic for due in dues}
    second = pro_rata(max(available - sum(first.values()) - unused_leases, 0), rest)
    return {channel: first[channel] + second[channel] for channel in leased}


def pro_rata(amount: int, weights: Mapping[str, int]) -> dict[str, int]:
    """`amount` in proportion to the weights, whole units, at most the weight each. Rounded down; the units that are
    left go to the largest remainders, of equal ones to the lower address."""
    total = sum(weights.values())
    if total <= amount:
        return dict(weights)
    shares = {key: amount * weight // total for key, weight in weights.items()}
    order = sorted(weights, key=lambda key: (-(amount * weights[key] % total), key))
    for key in order[: amount - sum(shares.values())]:
        shares[key] += 1
    return shares
