"""Faults that a test asks for: what happens to the next sends, to the next calls of a method, and to finality.

In memory only: a restart has none. The ledger asks about sends and finality, the RPC about calls. Nothing here
acts by itself, and without `--allow-faults` nobody can set any.
"""

from dataclasses import dataclass, field
from typing import Any

# Matches any method.
ANY_METHOD = "*"


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one sent transaction: dropped, or landed `delay_slots` later and then unseen for
    `hidden_slots`."""

    dropped: bool = False
    delay_slots: int = 0
    hidden_slots: int = 0


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """The call is not done and answered with this JSON-RPC error."""

    code: int
    message: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class Interruption:
    """The call is not done; its whole HTTP request is answered with `status`, after `seconds`."""

    status: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LateAnswer:
    """The call is done at once and answered after `seconds`."""

    seconds: float


CallFault = ErrorAnswer | Interruption | LateAnswer


@dataclass(slots=True)
class _ForSends:
    sends: int = 0
    slots: int = 0

    def take(self) -> int:
        """Use up one send; returns its slots, 0 when none is left."""
        if not self.sends:
            return 0
        self.sends -= 1
        return self.slots


@dataclass(slots=True)
class Faults:
    """Every fault that is waiting to happen."""

    drops: int = 0
    finality_held_at: int | None = None
    _delays: _ForSends = field(default_factory=_ForSends)
    _hidings: _ForSends = field(default_factory=_ForSends)
    _calls: dict[str, list[CallFault]] = field(default_factory=dict)

    def delay(self, *, sends: int, slots: int) -> None:
        """Land each of the next `sends` transactions `slots` slots after it was sent."""
        self._delays = _ForSends(sends, slots)

    def hide(self, *, sends: int, slots: int) -> None:
        """Run each of the next `sends` transactions, and know nothing of it for `slots` slots."""
        self._hidings = _ForSends(sends, slots)

    def fail_calls(self, method: str, calls: int, fault: CallFault) -> None:
        """Have `fault` happen to the next `calls` calls of a method, after the faults it already waits for."""
        self._calls.setdefault(method, []).extend([fault] * calls)

    def take_send(self) -> Fate:
        """Return what happens to the transaction being sent, and use that up."""
        if self.drops:
            self.drops -= 1
            return Fate(dropped=True)
        return Fate(delay_slots=self._delays.take(), hidden_slots=self._hidings.take())

    def take_call(self, method: str) -> CallFault | None:
        """Return what happens to this call of a method, and use that up."""
        for name in (method, ANY_METHOD):
            waiting = self._calls.get(name)
            if waiting:
                return waiting.pop(0)
        return None

    def clear(self) -> None:
        """Forget every fault that has not happened, and let finality go on."""
        self.drops = 0
        self.finality_held_at = None
        self._delays, self._hidings = _ForSends(), _ForSends()
        self._calls = {}

    def to_json(self) -> dict[str, object]:
        """Return what is still waiting to happen."""
        return {
            "drops": self.drops,
            "delays": self._delays.sends,
            "hidings": self._hidings.sends,
            "calls": {method: len(waiting) for method, waiting in self._calls.items() if waiting},
            "finality_held_at": self.finality_held_at,
        }
