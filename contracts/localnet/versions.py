"""What accounts were at earlier slots that are not final yet.

Keeps, per slot, the state each changed account had before that slot. The newest state lives in the bank; what
is older than the finalised slot is forgotten.
"""

from collections.abc import Iterator

from solders.account import Account
from solders.pubkey import Pubkey


class Versions:
    """The earlier states of accounts changed in slots that are not final yet."""

    def __init__(self) -> None:
        self._before: dict[int, dict[Pubkey, Account | None]] = {}

    def keep(self, slot: int, address: Pubkey, before: Account | None) -> None:
        """Remember the state an account had before its first change in `slot` (later changes in it are ignored)."""
        self._before.setdefault(slot, {}).setdefault(address, before)

    def forget_through(self, slot: int) -> None:
        """Drop what only views at slots before `slot` need."""
        for number in [number for number in self._before if number <= slot]:
            del self._before[number]

    def changed_after(self, slot: int) -> dict[Pubkey, Account | None]:
        """Return every account changed after `slot` with the state it had at the end of `slot`."""
        states: dict[Pubkey, Account | None] = {}
        for changes in self._later(slot):
            states = changes | states
        return states

    def find(self, slot: int, address: Pubkey) -> tuple[Account | None] | None:
        """Return a 1-tuple of the account's state at the end of `slot`, or None if it has not changed since."""
        for changes in self._later(slot):
            if address in changes:
                return (changes[address],)
        return None

    def _later(self, slot: int) -> Iterator[dict[Pubkey, Account | None]]:
        # Slots are kept in the order they happened: the first change after `slot` found its state as `slot` left it.
        return (changes for number, changes in self._before.items() if number > slot)
