"""Reading the ledger. Amounts are signed integers of atomic units."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Sum

from apps.ledger.chart import AccountKind
from apps.ledger.models import Account, Entry
from apps.ledger.types import AccountRef


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One entry of an account's history."""

    version: int
    transfer_id: int
    key: str
    kind: str
    amount_atomic: int
    balance_atomic: int
    posted_at: datetime


@dataclass(frozen=True, slots=True)
class TrialBalance:
    """The sum of all balances of one currency, by kind of account. `total_atomic` is zero, or the books are broken."""

    currency: str
    by_kind: dict[str, int]

    @property
    def total_atomic(self) -> int:
        return sum(self.by_kind.values())


def balance(account: AccountRef) -> int:
    """The balance of one account; zero for one that nothing was posted to yet."""
    row = Account.objects.filter(**account._asdict()).values_list("balance_atomic", flat=True).first()
    return row or 0


def total(kind: AccountKind, currency: str, *, owner: str | None = None) -> int:
    """The sum of the balances of all accounts of a kind, of one owner if given (all of a vendor's gateways)."""
    accounts = Account.objects.filter(kind=kind, currency=currency)
    if owner is not None:
        accounts = accounts.filter(owner=owner)
    return int(accounts.aggregate(total=Sum("balance_atomic"))["total"] or 0)


def balances_by_owner(kind: AccountKind, currency: str) -> dict[str, int]:
    """The balance of each owner of accounts of a kind, summed over `sub`."""
    rows = (
        Account.objects.filter(kind=kind, currency=currency)
        .values_list("owner")
        .annotate(Sum("balance_atomic"))
    )
    return {owner: int(amount) for owner, amount in rows}


def balances_of(
    kinds: Iterable[AccountKind], currency: str, owners: Iterable[str]
) -> dict[tuple[str, str], int]:
    """The balances of these owners' accounts of these kinds by (kind, owner), summed over `sub`. Accounts that do not
    exist are absent."""
    rows = (
        Account.objects.filter(owner__in=set(owners), kind__in=[*kinds], currency=currency)
        .values_list("kind", "owner")
        .annotate(Sum("balance_atomic"))
    )
    return {(kind, owner): int(amount) for kind, owner, amount in rows}


def balances(kind: AccountKind, currency: str) -> dict[tuple[str, str], int]:
    """The balance of every account of a kind, by (owner, sub)."""
    rows = Account.objects.filter(kind=kind, currency=currency).values_list("owner", "sub", "balance_atomic")
    return {(owner, sub): int(amount) for owner, sub, amount in rows}


def statement(account: AccountRef, *, after_version: int = 0, limit: int = 100) -> list[StatementLine]:
    """An account's history from its first entry on; pass the last `version` of a page to get the next one."""
    entries = (
        Entry.objects.filter(
            account__kind=account.kind,
            account__owner=account.owner,
            account__sub=account.sub,
            account__currency=account.currency,
            account_version__gt=after_version,
        )
        .select_related("transfer")
        .order_by("account_version")[:limit]
    )
    return [
        StatementLine(
            version=entry.account_version,
            transfer_id=entry.transfer_id,
            key=entry.transfer.key,
            kind=entry.transfer.kind,
            amount_atomic=entry.amount_atomic,
            balance_atomic=entry.balance_atomic,
            posted_at=entry.transfer.created_at,
        )
        for entry in entries
    ]


def trial_balance() -> list[TrialBalance]:
    """One trial balance per currency, from the accounts' balances in one statement."""
    rows = (
        Account.objects.values_list("currency", "kind")
        .annotate(Sum("balance_atomic"))
        .order_by("currency", "kind")
    )
    currencies: dict[str, dict[str, int]] = {}
    for currency, kind, amount in rows:
        currencies.setdefault(currency, {})[kind] = int(amount)
    return [TrialBalance(currency, by_kind) for currency, by_kind in currencies.items()]
