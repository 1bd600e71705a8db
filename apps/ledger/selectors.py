"""Reading the ledger. Amounts are signed integers of atomic units; a sharded account reads as one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from django.db.models import QuerySet, Sum

from apps.ledger.chart import AccountKind
from apps.ledger.models import Account, Hold
from apps.ledger.statements import InvalidCursor, StatementLine, statement
from apps.ledger.types import AccountRef, Book

__all__ = [
    "Funds",
    "InvalidCursor",
    "StatementLine",
    "TrialBalance",
    "balance",
    "balances",
    "balances_by_owner",
    "balances_of",
    "funds",
    "hold_state",
    "statement",
    "total",
    "total_held",
    "trial_balance",
]


@dataclass(frozen=True, slots=True)
class TrialBalance:
    """The sum of all balances of one book and currency, by kind of account. `total_atomic` is zero, or the books are
    broken."""

    book: str
    currency: str
    by_kind: dict[str, int]

    @property
    def total_atomic(self) -> int:
        return sum(self.by_kind.values())


class Funds(NamedTuple):
    """What an account has, and how much of it is held."""

    balance_atomic: int
    held_atomic: int

    @property
    def spendable_atomic(self) -> int:
        return self.balance_atomic - self.held_atomic


def funds(account: AccountRef) -> Funds:
    """Balance and holds of one account; zero for one that nothing was posted to yet."""
    row = Account.objects.filter(**account._asdict()).aggregate(
        balance=Sum("balance_atomic"), held=Sum("held_atomic")
    )
    return Funds(int(row["balance"] or 0), int(row["held"] or 0))


def balance(account: AccountRef) -> int:
    """The balance of one account, what is held included; zero for one that nothing was posted to yet."""
    return funds(account).balance_atomic


def total(kind: AccountKind, currency: str, *, owner: str | None = None, book: str = Book.MAIN) -> int:
    """The sum of the balances of all accounts of a kind, of one owner if given (all of a vendor's gateways)."""
    accounts = _of_kind(kind, currency, book)
    if owner is not None:
        accounts = accounts.filter(owner=owner)
    return int(accounts.aggregate(total=Sum("balance_atomic"))["total"] or 0)


def total_held(kind: AccountKind, currency: str, *, book: str = Book.MAIN) -> int:
    """The sum of everything that is held of accounts of a kind."""
    return int(_of_kind(kind, currency, book).aggregate(total=Sum("held_atomic"))["total"] or 0)


def balances_by_owner(kind: AccountKind, currency: str, *, book: str = Book.MAIN) -> dict[str, int]:
    """The balance of each owner of accounts of a kind, summed over `sub`."""
    rows = _of_kind(kind, currency, book).values_list("owner").annotate(Sum("balance_atomic"))
    return {owner: int(amount) for owner, amount in rows}


def balances_of(
    kinds: Iterable[AccountKind], currency: str, owners: Iterable[str]
) -> dict[tuple[str, str], int]:
    """The balances of these owners' accounts of these kinds by (kind, owner), summed over `sub`. Accounts that do not
    exist are absent."""
    rows = (
        Account.objects.filter(owner__in=set(owners), kind__in=[*kinds], currency=currency, book=Book.MAIN)
        .values_list("kind", "owner")
        .annotate(Sum("balance_atomic"))
    )
    return {(kind, owner): int(amount) for kind, owner, amount in rows}


def balances(kind: AccountKind, currency: str, *, book: str = Book.MAIN) -> dict[tuple[str, str], int]:
    """The balance of every account of a kind, by (owner, sub)."""
    rows = _of_kind(kind, currency, book).values_list("owner", "sub").annotate(Sum("balance_atomic"))
    return {(owner, sub): int(amount) for owner, sub, amount in rows}


def hold_state(key: str) -> str | None:
    """What became of a hold: OPEN, POSTED, VOIDED, EXPIRED; None if there is none."""
    return Hold.objects.filter(key=key).values_list("state", flat=True).first()


def trial_balance() -> list[TrialBalance]:
    """One trial balance per book and currency, from the accounts' balances in one statement."""
    rows = (
        Account.objects.values_list("book", "currency", "kind")
        .annotate(Sum("balance_atomic"))
        .order_by("book", "currency", "kind")
    )
    books: dict[tuple[str, str], dict[str, int]] = {}
    for book, currency, kind, amount in rows:
        books.setdefault((book, currency), {})[kind] = int(amount)
    return [TrialBalance(book, currency, by_kind) for (book, currency), by_kind in books.items()]


def _of_kind(kind: AccountKind, currency: str, book: str) -> QuerySet[Account]:
    return Account.objects.filter(kind=kind, currency=currency, book=book)
