"""Transactions that faults hold back: sent and not landed yet, landed and not to be seen yet. In memory only."""

from dataclasses import dataclass

from solders.signature import Signature
from solders.transaction import VersionedTransaction


@dataclass(frozen=True, slots=True)
class Held:
    """A transaction that lands in slot `due` and is then unseen for `hidden_slots`."""

    due: int
    transaction: VersionedTransaction
    raw: bytes
    hidden_slots: int


class HeldBack:
    """What was sent and waits for its slot, and what landed and stays unseen until its own."""

    def __init__(self) -> None:
        self._waiting: dict[Signature, Held] = {}
        self._unseen_until: dict[Signature, int] = {}

    def add(self, held: Held) -> None:
        """Keep a transaction until its slot."""
        self._waiting[held.transaction.signatures[0]] = held

    def is_waiting(self, signature: Signature) -> bool:
        """Whether the transaction waits to land."""
        return signature in self._waiting

    def take_due(self, slot: int) -> Held | None:
        """Remove and return what is to land in `slot` or before, the earliest first, None when nothing is."""
        first = min(self._waiting.values(), key=lambda held: held.due, default=None)
        if first is None or first.due > slot:
            return None
        return self._waiting.pop(first.transaction.signatures[0])

    def hide(self, signature: Signature, until: int) -> None:
        """Let a transaction be unseen before slot `until`."""
        self._unseen_until[signature] = until

    def hides(self, signature: Signature, slot: int) -> bool:
        """Whether a transaction is unseen in `slot`."""
        return self._unseen_until.get(signature, 0) > slot

    def clear(self) -> None:
        """Show everything hidden and let what waits land in the next slot."""
        self._unseen_until = {}
        self._waiting = {
            signature: Held(0, held.transaction, held.raw, 0) for signature, held in self._waiting.items()
        }

    @property
    def waiting_count(self) -> int:
        """Return how many transactions wait to land."""
        return len(self._waiting)
