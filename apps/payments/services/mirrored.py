"""What taking over one snapshot of the chain changed: for logs, live pages and whoever acts on it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BondMoved:
    """`amount_atomic` was put into an agent's bond, or was withdrawn, forfeited or swept from it, since the last
    applied slot."""

    agent: str
    amount_atomic: int


@dataclass(frozen=True, slots=True)
class DistributionSeen:
    """`amount_atomic` of what a channel was owed reached the vendor."""

    channel: str
    gateway: str
    vendor: str
    amount_atomic: int


@dataclass(frozen=True, slots=True)
class SettlementSeen:
    """A channel's watermark rose by `amount_atomic` to `settled_atomic`; `claimed_atomic` of it was above
    every recorded charge, which only a claim can do. `owed_atomic` of it waits for the vendor on chain;
    `recollected_atomic` of it had been reversed; `from_forfeited` says that a slashed agent's bond paid."""

    channel: str
    agent: str
    gateway: str
    vendor: str
    amount_atomic: int
    claimed_atomic: int
    settled_atomic: int
    owed_atomic: int = 0
    recollected_atomic: int = 0
    from_forfeited: bool = False


@dataclass(slots=True)
class Applied:
    """What one snapshot changed. `applied` is False when its slot was not new. `ended_settlements` are those
    whose effect the mirrors now contain."""

    slot: int
    applied: bool
    deposits: list[BondMoved] = field(default_factory=list)
    withdrawals: list[BondMoved] = field(default_factory=list)
    settled: list[SettlementSeen] = field(default_factory=list)
    distributed: list[DistributionSeen] = field(default_factory=list)
    slashed: list[BondMoved] = field(default_factory=list)
    swept: list[BondMoved] = field(default_factory=list)
    ended_settlements: list[int] = field(default_factory=list)
    intents_settled: int = 0

    @property
    def moved(self) -> bool:
        """Whether any money moved."""
        return bool(
            self.deposits
            or self.withdrawals
            or self.settled
            or self.distributed
            or self.slashed
            or self.swept
        )
