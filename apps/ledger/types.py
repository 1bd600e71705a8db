"""The values that cross the ledger's border."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, NamedTuple

import msgspec


class Book(StrEnum):
    """Books are apart: no transfer has legs in two of them. Simulated money lives in a book of its own."""

    MAIN = "main"
    SIMULATION = "simulation"


class AccountRef(NamedTuple):
    """The name of an account; it need not exist yet. `sub` divides an owner's accounts of one kind, or is empty."""

    kind: str
    owner: str
    sub: str
    currency: str
    book: str = Book.MAIN

    def in_book(self, book: Book) -> "AccountRef":
        """The account of the same name in another book."""
        return self._replace(book=book)


@dataclass(frozen=True, slots=True)
class Leg:
    """One entry to be: `amount_atomic` is signed and never zero."""

    account: AccountRef
    amount_atomic: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer to be posted. `key` names it for ever: posting the same key again with the same content returns the
    stored transfer. Legs sum to zero, are of one currency and book, and name an account once each.

    `hold` is the key of an open hold that this transfer resolves: it debits the hold's account by at most what was
    held, and the rest of the hold is released."""

    key: str
    kind: str
    legs: tuple[Leg, ...]
    hold: str = ""

    @classmethod
    def move(
        cls, key: str, kind: str, *, debit: AccountRef, credit: AccountRef, amount_atomic: int, hold: str = ""
    ) -> "Transfer":
        """`amount_atomic` > 0 from `debit` to `credit`."""
        return cls(key, kind, (Leg(debit, -amount_atomic), Leg(credit, amount_atomic)), hold)

    @property
    def input_hash(self) -> bytes:
        """sha256 over everything but the key, so that one key cannot stand for two movements."""
        legs = sorted((*_named(leg.account), str(leg.amount_atomic)) for leg in self.legs)
        content: list[object] = [self.kind, legs]
        return _hash([*content, self.hold] if self.hold else content)


@dataclass(frozen=True, slots=True)
class Posted:
    """A stored transfer. `replayed` is True when it had been stored before this call."""

    id: int
    key: str
    replayed: bool = field(compare=False)


HoldState = Literal["OPEN", "POSTED", "VOIDED", "EXPIRED"]
OPEN: Final = "OPEN"


@dataclass(frozen=True, slots=True)
class Hold:
    """Money to be set aside: `amount_atomic` > 0 of what `account` may spend, until it is posted, voided, or
    `expires_at` has passed. `key` names it for ever, as with transfers."""

    key: str
    account: AccountRef
    amount_atomic: int
    expires_at: datetime | None = None

    @property
    def input_hash(self) -> bytes:
        expires = None if self.expires_at is None else self.expires_at.isoformat()
        return _hash([_named(self.account), str(self.amount_atomic), expires])


@dataclass(frozen=True, slots=True)
class Held:
    """A stored hold. `replayed` is True when it had been stored before this call."""

    id: int
    key: str
    state: HoldState
    replayed: bool = field(compare=False)


def _named(account: AccountRef) -> tuple[str, ...]:
    """Hashes of the main book's movements do not name it: they are as old as the first book."""
    name = (account.kind, account.owner, account.sub, account.currency)
    return name if account.book == Book.MAIN else (*name, account.book)


def _hash(content: list[object]) -> bytes:
    return hashlib.sha256(msgspec.json.encode(content)).digest()
