"""The values that cross the ledger's border."""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec


class AccountRef(NamedTuple):
    """The name of an account; it need not exist yet. `sub` divides an owner's accounts of one kind, or is empty."""

    kind: str
    owner: str
    sub: str
    currency: str


@dataclass(frozen=True, slots=True)
class Leg:
    """One entry to be: `amount_atomic` is signed and never zero."""

    account: AccountRef
    amount_atomic: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer to be posted. `key` names it for ever: posting the same key again with the same content returns the
    stored transfer. Legs sum to zero, are of one currency and name an account once each."""

    key: str
    kind: str
    legs: tuple[Leg, ...]

    @classmethod
    def move(
        cls, key: str, kind: str, *, debit: AccountRef, credit: AccountRef, amount_atomic: int
    ) -> "Transfer":
        """`amount_atomic` > 0 from `debit` to `credit`."""
        return cls(key, kind, (Leg(debit, -amount_atomic), Leg(credit, amount_atomic)))

    @property
    def input_hash(self) -> bytes:
        """sha256 over everything but the key, so that one key cannot stand for two movements."""
        legs = sorted((*leg.account, str(leg.amount_atomic)) for leg in self.legs)
        return hashlib.sha256(msgspec.json.encode([self.kind, legs])).digest()


@dataclass(frozen=True, slots=True)
class Posted:
    """A stored transfer. `replayed` is True when it had been stored before this call."""

    id: int
    key: str
    replayed: bool = field(compare=False)
