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
    UNCOLLECTED = "uncollected"
    CUSTODY_DEPOSITS = "custody_deposits"
    CUSTODIAL = "custodial"
    UNCLAIMED = "unclaimed"
    PAID_OUT = "paid_out"


MAY_BE_NEGATIVE: Final = (AccountKind.DEPOSITS, AccountKind.SPENT_UNSETTLED, AccountKind.CUSTODY_DEPOSITS)
"""Where money comes from (the world outside) and what an agent has spent ahead of the chain."""

SHARDED: Final = (AccountKind.CUSTODIAL,)
"""Accounts that many strangers pay into at once. Each is several rows, its shards, whose balances add up to the
account's; a credit goes to the shard of its connection, so writers do not wait for each other. Debits and holds come
out of shard 0, which the others are folded into when it does not suffice."""

SHARDS: Final = 16
"""Eight writers meet on one of 16 shards seldom enough; more would only make reading a balance dearer."""


class TransferKind(StrEnum):
    DEPOSIT = "deposit"
    CHARGE = "charge"
    CLAIMED = "claimed"
    SETTLE = "settle"
    DISTRIBUTE = "distribute"
    WITHDRAW = "withdraw"
    SLASH = "slash"
    SWEEP = "sweep"
    REVERSE = "reverse"
    RECOLLECT = "recollect"
    CUSTODY_DEPOSIT = "custody_deposit"
    ATTRIBUTE = "attribute"
    PAY = "pay"
    PAYOUT = "payout"
    FOLD = "fold"


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


def uncollected(vendor: str, gateway: str, currency: str) -> AccountRef:
    """What the vendor earned through the gateway from agents whose bonds did not cover it, and was not paid since."""
    return AccountRef(AccountKind.UNCOLLECTED, vendor, gateway, currency)


def custody_deposits(currency: str) -> AccountRef:
    """Minus everything that ever came into the custodial wallet. Written by the deposit sync only."""
    return AccountRef(AccountKind.CUSTODY_DEPOSITS, WORLD, "", currency)


def custodial(user_id: int, currency: str) -> AccountRef:
    """What the network keeps for a user in its custodial wallet."""
    return AccountRef(AccountKind.CUSTODIAL, f"user:{user_id}", "", currency)


def unclaimed(currency: str) -> AccountRef:
    """What came into the custodial wallet without saying for whom, until an operator has found out."""
    return AccountRef(AccountKind.UNCLAIMED, WORLD, "", currency)


def paid_out(user_id: int, currency: str) -> AccountRef:
    """Everything that was ever paid out of a user's custodial balance to a wallet."""
    return AccountRef(AccountKind.PAID_OUT, f"user:{user_id}", "", currency)
