"""What finalised chain state means for the ledger: one function per kind of transfer.

Pure, except for reading what is posted already. Every key contains a total that only rises, so a transfer of
the same rise is the same transfer. `apps.payments.services.chain_mirror` decides what moved; docs/money.md
has the table.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

from apps.ledger import chart
from apps.ledger.selectors import balances_by_owner, balances_of
from apps.ledger.types import Leg, Transfer


@dataclass(frozen=True, slots=True)
class PostedBefore:
    """How far the ledger has followed bonds on their ways out, by agent. `forfeited` holds the agents whose
    slash is posted, with nothing left perhaps; `held` what is in the bond or left of it, if it was read."""

    withdrawn: Mapping[str, int]
    forfeited: Mapping[str, int]
    swept: Mapping[str, int]
    held: Mapping[str, int]

    @classmethod
    def read(cls, mint: str, agents: Collection[str] | None = None) -> Self:
        """Of `agents`, or of all; under the chain cursor's lock, without which nobody posts any of these."""
        kind = chart.AccountKind
        if agents is None:
            return cls(
                withdrawn=balances_by_owner(kind.WITHDRAWN, mint),
                forfeited=balances_by_owner(kind.FORFEITED, mint),
                swept=balances_by_owner(kind.SWEPT, mint),
                held={},
            )
        kinds = (kind.WITHDRAWN, kind.FORFEITED, kind.SWEPT, kind.BOND)
        found = balances_of(kinds, mint, agents)

        def of(kind: chart.AccountKind) -> dict[str, int]:
            return {owner: amount for (each, owner), amount in found.items() if each == kind}

        bonds, forfeited = of(kind.BOND), of(kind.FORFEITED)
        held = {agent: bonds.get(agent, 0) + forfeited.get(agent, 0) for agent in agents}
        return cls(of(kind.WITHDRAWN), forfeited, of(kind.SWEPT), held)


@dataclass(frozen=True, slots=True)
class Parties:
    """Whose money a channel moves."""

    channel: str
    agent: str
    gateway: str
    vendor: str
    mint: str


def deposit(agent: str, mint: str, *, amount: int, total: int) -> Transfer:
    """`total` is `AgentAccount.deposited_total` afterwards."""
    return Transfer.move(
        f"deposit:{agent}:{total}",
        chart.TransferKind.DEPOSIT,
        debit=chart.deposits(mint),
        credit=chart.bond(agent, mint),
        amount_atomic=amount,
    )


def withdraw(agent: str, mint: str, *, amount: int, total: int) -> Transfer:
    """`total` is `AgentAccount.withdrawn_total` afterwards."""
    return Transfer.move(
        f"withdraw:{agent}:{total}",
        chart.TransferKind.WITHDRAW,
        debit=chart.bond(agent, mint),
        credit=chart.withdrawn(agent, mint),
        amount_atomic=amount,
    )


def slash(agent: str, mint: str, *, amount: int) -> Transfer:
    """The key has no total: an agent is slashed once."""
    return Transfer.move(
        f"slash:{agent}",
        chart.TransferKind.SLASH,
        debit=chart.bond(agent, mint),
        credit=chart.forfeited(agent, mint),
        amount_atomic=amount,
    )


def sweep(agent: str, mint: str, *, amount: int, total: int) -> Transfer:
    """`total` is `AgentAccount.swept_total` afterwards."""
    return Transfer.move(
        f"sweep:{agent}:{total}",
        chart.TransferKind.SWEEP,
        debit=chart.forfeited(agent, mint),
        credit=chart.swept(agent, mint),
        amount_atomic=amount,
    )


def claimed(parties: Parties, *, amount: int, settled: int) -> Transfer:
    """Credit ahead of the charges that a rise to `settled` stands for."""
    return Transfer.move(
        f"claimed:{parties.channel}:{settled}",
        chart.TransferKind.CLAIMED,
        debit=chart.spent_unsettled(parties.agent, parties.mint),
        credit=chart.unsettled(parties.vendor, parties.gateway, parties.mint),
        amount_atomic=amount,
    )


def settle(parties: Parties, *, amount: int, owed: int, settled: int, from_forfeited: bool) -> Transfer:
    """A watermark's rise by `amount` to `settled`. `owed` of it could not be paid out, or not yet."""
    source = chart.forfeited if from_forfeited else chart.bond
    vendor = (parties.vendor, parties.gateway, parties.mint)
    legs = (
        Leg(source(parties.agent, parties.mint), -amount),
        Leg(chart.spent_unsettled(parties.agent, parties.mint), amount),
        Leg(chart.unsettled(*vendor), -amount),
        Leg(chart.settled(*vendor), amount - owed),
        Leg(chart.owed(*vendor), owed),
    )
    return Transfer(
        f"settle:{parties.channel}:{settled}",
        chart.TransferKind.SETTLE,
        tuple(leg for leg in legs if leg.amount_atomic),
    )


def distribute(parties: Parties, *, amount: int, paid: int) -> Transfer:
    """`paid` is everything the channel has paid out afterwards, which only rises."""
    vendor = (parties.vendor, parties.gateway, parties.mint)
    return Transfer.move(
        f"distribute:{parties.channel}:{paid}",
        chart.TransferKind.DISTRIBUTE,
        debit=chart.owed(*vendor),
        credit=chart.settled(*vendor),
        amount_atomic=amount,
    )


def reverse(parties: Parties, *, amount: int, total: int) -> Transfer:
    """Credit that no bond covers. `total` is everything of this channel that was ever reversed, this included."""
    vendor = (parties.vendor, parties.gateway, parties.mint)
    return Transfer.move(
        f"reverse:{parties.channel}:{total}",
        chart.TransferKind.REVERSE,
        debit=chart.unsettled(*vendor),
        credit=chart.uncollected(*vendor),
        amount_atomic=amount,
    )


def recollect(parties: Parties, *, amount: int, settled: int) -> Transfer:
    """Reversed credit that a rise to `settled` pays after all."""
    vendor = (parties.vendor, parties.gateway, parties.mint)
    return Transfer.move(
        f"recollect:{parties.channel}:{settled}",
        chart.TransferKind.RECOLLECT,
        debit=chart.uncollected(*vendor),
        credit=chart.unsettled(*vendor),
        amount_atomic=amount,
    )
