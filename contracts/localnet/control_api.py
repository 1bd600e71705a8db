"""`POST /test/<action>`: what tests may do to the chain that no RPC method does. Served with `--allow-faults` only.

Takes a JSON object of arguments, answers 200 with the chain's slots and the faults still to come, 400 with
`{"error": ...}` for arguments that do not fit. `contracts.localnet.control` is the client.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from contracts.localnet.faults import ErrorAnswer, Interruption, LateAnswer
from contracts.localnet.ledger import Ledger
from contracts.localnet.slots import BLOCKHASH_AGE_MAX, Commitment
from machpay.protocol.encoding import decode_json
from machpay.protocol.errors import MalformedError

COUNT_MAX = 10_000
SLOTS_MAX = 10_000_000
CLOCK_SECONDS_MAX = 10 * 365 * 86_400
WAIT_SECONDS_MAX = 600
_DECODER = msgspec.json.Decoder(dict[str, Any])


class BadArguments(Exception):
    """The arguments of an action do not fit."""


class Arguments:
    """The arguments of one action; each is read once, and what nobody reads is refused."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = dict(values)

    def integer(self, name: str, least: int, most: int, default: int | None = None) -> int:
        """Return a whole number from `least` to `most`."""
        value = self._values.pop(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise BadArguments(f"{name} must be a whole number from {least} to {most}")
        return value

    def seconds(self, name: str) -> float:
        """Return a wait in seconds."""
        value = self._values.pop(name, None)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not 0 <= value <= WAIT_SECONDS_MAX
        ):
            raise BadArguments(f"{name} must be a number from 0 to {WAIT_SECONDS_MAX}")
        return float(value)

    def text(self, name: str) -> str:
        """Return a string."""
        value = self._values.pop(name, None)
        if not isinstance(value, str) or not value:
            raise BadArguments(f"{name} must be a string")
        return value

    def json(self, name: str) -> Any:
        """Return any value, None when it is not given."""
        return self._values.pop(name, None)

    def finish(self) -> None:
        """Refuse what no action knows."""
        if self._values:
            raise BadArguments(f"unknown arguments: {', '.join(sorted(self._values))}")


class ControlApi:
    """The actions over one chain. `disconnect` ends every WebSocket connection."""

    def __init__(self, ledger: Ledger, disconnect: Callable[[], int]) -> None:
        self._ledger = ledger
        self._disconnect = disconnect
        self._actions: dict[str, Callable[[Arguments], None]] = {
            "status": lambda _: None,
            "move_clock": self._move_clock,
            "advance_slots": self._advance_slots,
            "expire_blockhashes": self._expire_blockhashes,
            "drop_sends": self._drop_sends,
            "delay_landing": self._delay_landing,
            "lose_confirmation": self._lose_confirmation,
            "hold_finality": self._hold_finality,
            "release_finality": self._release_finality,
            "fail_calls": self._fail_calls,
            "interrupt_calls": self._interrupt_calls,
            "slow_calls": self._slow_calls,
            "disconnect": lambda _: self._end_connections(),
            "clear": lambda _: self._ledger.clear_faults(),
        }

    def handle(self, action: str, body: bytes) -> tuple[int, bytes]:
        """Do one action; returns the HTTP status and the answer."""
        act = self._actions.get(action)
        if act is None:
            return 404, b'{"error":"no such action"}'
        try:
            act(Arguments(decode_json(_DECODER, body or b"{}", "the arguments")))
        except (BadArguments, MalformedError) as error:
            return 400, msgspec.json.encode({"error": str(error)})
        return 200, msgspec.json.encode(self._status())

    def _status(self) -> dict[str, Any]:
        ledger = self._ledger
        return {
            "slots": {level.name: ledger.slot(level) for level in Commitment},
            "unix_timestamp": ledger.clock.unix_timestamp(),
            "faults": ledger.faults.to_json() | {"waiting": ledger.waiting_count()},
        }

    def _move_clock(self, arguments: Arguments) -> None:
        seconds = arguments.integer("seconds", -CLOCK_SECONDS_MAX, CLOCK_SECONDS_MAX)
        arguments.finish()
        self._ledger.move_clock(seconds)

    def _advance_slots(self, arguments: Arguments) -> None:
        slots = arguments.integer("slots", 1, SLOTS_MAX)
        arguments.finish()
        self._ledger.skip_slots(slots)

    def _expire_blockhashes(self, arguments: Arguments) -> None:
        arguments.finish()
        self._ledger.skip_slots(BLOCKHASH_AGE_MAX + 1)

    def _drop_sends(self, arguments: Arguments) -> None:
        sends = arguments.integer("sends", 0, COUNT_MAX)
        arguments.finish()
        self._ledger.faults.drops = sends

    def _delay_landing(self, arguments: Arguments) -> None:
        slots, sends = arguments.integer("slots", 1, SLOTS_MAX), arguments.integer("sends", 0, COUNT_MAX)
        arguments.finish()
        self._ledger.faults.delay(sends=sends, slots=slots)

    def _lose_confirmation(self, arguments: Arguments) -> None:
        slots, sends = arguments.integer("slots", 1, SLOTS_MAX), arguments.integer("sends", 0, COUNT_MAX)
        arguments.finish()
        self._ledger.faults.hide(sends=sends, slots=slots)

    def _hold_finality(self, arguments: Arguments) -> None:
        arguments.finish()
        self._ledger.hold_finality()

    def _release_finality(self, arguments: Arguments) -> None:
        arguments.finish()
        self._ledger.release_finality()

    def _fail_calls(self, arguments: Arguments) -> None:
        method, calls = arguments.text("method"), arguments.integer("calls", 1, COUNT_MAX)
        code, message = arguments.integer("code", -(2**31), 2**31), arguments.text("message")
        fault = ErrorAnswer(code, message, arguments.json("data"))
        arguments.finish()
        self._ledger.faults.fail_calls(method, calls, fault)

    def _interrupt_calls(self, arguments: Arguments) -> None:
        method, calls = arguments.text("method"), arguments.integer("calls", 1, COUNT_MAX)
        fault = Interruption(arguments.integer("status", 400, 599), arguments.seconds("seconds"))
        arguments.finish()
        self._ledger.faults.fail_calls(method, calls, fault)

    def _slow_calls(self, arguments: Arguments) -> None:
        method, calls = arguments.text("method"), arguments.integer("calls", 1, COUNT_MAX)
        fault = LateAnswer(arguments.seconds("seconds"))
        arguments.finish()
        self._ledger.faults.fail_calls(method, calls, fault)

    def _end_connections(self) -> None:
        self._disconnect()
