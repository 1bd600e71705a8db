"""The chart of accounts and the kinds of transfers. docs/money.md says what each posting means."""

from enum import StrEnum
from typing import Final

from apps.ledger.types import AccountRef


class AccountKind(StrEnum):
    """What an account counts. Owners are base58 keys, currencies mints."""

    DEPOSITS = "deposits"
    WITHDRAWN = "withdrawn"
    SWEPT = "swept"
    BOND = "bond"
    FORFEITED = "forfeited"
    SPENT_UNSETTLED = "spent_unsettled"
    UNSETTLED = "unsettled"
    SETTLED = "settled"
    OWED = "owed"


MAY_BE_NEGATIVE: Final = (AccountKind.DEPOSITS, AccountKind.SPENT_UNSETTLED)
"""Where money comes from (the world outside) and what an agent has spent ahead of the chain."""


class TransferKind(StrEnum):
    DEPOSIT = "deposit"
    CHARGE = "charge"
    CLAIMED = "claimed"
    SETTLE = "settle"
    DISTRIBUTE = "distribute"
    WITHDRAW = "withdraw"
    SLASH = "slash"
    SWEEP = "sweep"


WORLD: Final = "world"
"""The owner of the accounts at the edge of the system."""


def deposits(currency: str) -> AccountRef:
    """Minus everything that ever came in from outside. One row for the whole network, written by chain sync only."""
    return AccountRef(AccountKind.DEPOSITS, WORLD, "", currency)


def bond(agent: str, currency: str) -> AccountRef:
    """The agent's bond on chain, as of the last finalised slot that was applied."""
    return AccountRef(AccountKind.BOND, agent, "", currency)


def withdrawn(agent: str, currency: str) -> AccountRef:
    """Everything that ever left the agent's bond for its owner's wallet."""
    return AccountRef(AccountKind.WITHDRAWN, agent, "", currency)


def forfeited(agent: str, currency: str) -> AccountRef:
    """What is left of a slashed agent's bond. It exists from the posting of the slash on."""
    return AccountRef(AccountKind.FORFEITED, agent, "", currency)


def swept(agent: str, currency: str) -> AccountRef:
    """Everything of a forfeited bond that reporter and treasury were paid."""
    return AccountRef(AccountKind.SWEPT, agent, "", currency)


def spent_unsettled(agent: str, currency: str) -> AccountRef:
    """Minus what the agent was charged and the chain has not settled yet."""
    return AccountRef(AccountKind.SPENT_UNSETTLED, agent, "", currency)


def unsettled(vendor: str, gateway: str, currency: str) -> AccountRef:
    """What the vendor earned through the gateway and the chain has not settled yet."""
    return AccountRef(AccountKind.UNSETTLED, vendor, gateway, currency)


def settled(vendor: str, gateway: str, currency: str) -> AccountRef:
    """What the chain has settled for the vendor through the gateway and paid out."""
    return AccountRef(AccountKind.SETTLED, vendor, gateway, currency)


def owed(vendor: str, gateway: str, currency: str) -> AccountRef:
    """What the chain has settled for the vendor through the gateway and still keeps, until it is distributed."""
    return AccountRef(AccountKind.OWED, vendor, gateway, currency)
