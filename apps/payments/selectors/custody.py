"""Reading custodial balances: one user's, and all of them together for reconciliation."""

from dataclasses import dataclass

from apps.ledger import chart
from apps.ledger.chart import AccountKind
from apps.ledger.selectors import Funds, balance, funds, total, total_held


@dataclass(frozen=True, slots=True)
class CustodyBooks:
    """What the ledger says the custodial wallet holds. `held_atomic` is set aside for payouts that are under way."""

    spendable_atomic: int
    held_atomic: int
    unclaimed_atomic: int

    @property
    def total_atomic(self) -> int:
        return self.spendable_atomic + self.held_atomic + self.unclaimed_atomic


def custodial_funds(user_id: int, mint: str) -> Funds:
    """What the network keeps for a user, and how much of it is set aside."""
    return funds(chart.custodial(user_id, mint))


def custody_books(mint: str) -> CustodyBooks:
    """All users' balances."""
    held = total_held(AccountKind.CUSTODIAL, mint)
    return CustodyBooks(
        spendable_atomic=total(AccountKind.CUSTODIAL, mint) - held,
        held_atomic=held,
        unclaimed_atomic=balance(chart.unclaimed(mint)),
    )
