"""`Control`: how a test moves a local chain's clock and injects faults.

    with Control(rpc_url) as control:
        control.drop_sends(1)

The chain has to run with `--allow-faults`. Faults live in the chain's memory until they have happened or `clear()`;
`clear()` also runs on leaving the context, so that one test's faults never reach another. Calls are synchronous and
short: from a coroutine they hold up its loop for a millisecond, as the chain is a process of its own.
"""

from types import TracebackType
from typing import Any, Self

import httpx

NODE_UNHEALTHY = -32005


class ControlError(Exception):
    """The chain refused: it runs without `--allow-faults`, or the arguments do not fit."""


class Control:
    """The test-only side of one chain. Every method returns its status (see `status`)."""

    def __init__(self, rpc_url: str) -> None:
        self._http = httpx.Client(base_url=rpc_url, timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.clear()
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection; faults stay."""
        self._http.close()

    def status(self) -> dict[str, Any]:
        """Return `{slots: {processed, confirmed, finalized}, unix_timestamp, faults: {drops, delays, hidings, calls,
        finality_held_at, waiting}}`."""
        return self._do("status")

    def clear(self) -> dict[str, Any]:
        """Undo every fault: what was delayed lands now, what was hidden is seen, finality catches up."""
        return self._do("clear")

    # Time

    def move_clock(self, seconds: int) -> dict[str, Any]:
        """Move the time that programs see, forward or back. Slots are not affected; kept across restarts."""
        return self._do("move_clock", seconds=seconds)

    def advance_slots(self, slots: int) -> dict[str, Any]:
        """Let slots pass at once. The time that programs see is not affected."""
        return self._do("advance_slots", slots=slots)

    def expire_blockhashes(self) -> dict[str, Any]:
        """Let so many slots pass that no block hash of before can be used any more."""
        return self._do("expire_blockhashes")

    def hold_finality(self) -> dict[str, Any]:
        """Keep the finalized slot where it is; processed and confirmed go on."""
        return self._do("hold_finality")

    def release_finality(self) -> dict[str, Any]:
        """Let the finalized slot catch up at once."""
        return self._do("release_finality")

    # The next sends (airdrops are not among them, nor what preflight refuses)

    def drop_sends(self, sends: int = 1) -> dict[str, Any]:
        """Answer the next `sends` transactions with their signature and never run them."""
        return self._do("drop_sends", sends=sends)

    def delay_landing(self, slots: int, sends: int = 1) -> dict[str, Any]:
        """Run each of the next `sends` transactions `slots` slots after it was sent, if its block hash lives still."""
        return self._do("delay_landing", slots=slots, sends=sends)

    def lose_confirmation(self, slots: int, sends: int = 1) -> dict[str, Any]:
        """Run the next `sends` transactions, and for `slots` slots know nothing of them: no status, no history, no
        signature notification. What they did to accounts is seen, and sending one again is a duplicate."""
        return self._do("lose_confirmation", slots=slots, sends=sends)

    # The next calls of a method ("*" for any)

    def fail_calls(
        self,
        method: str,
        calls: int = 1,
        *,
        code: int = NODE_UNHEALTHY,
        message: str = "Node is unhealthy",
        data: object = None,
    ) -> dict[str, Any]:
        """Answer the next `calls` calls with a JSON-RPC error, doing nothing."""
        if code == NODE_UNHEALTHY and data is None:
            # As a cluster sends it; solders cannot read the error without.
            data = {"numSlotsBehind": None}
        return self._do("fail_calls", method=method, calls=calls, code=code, message=message, data=data)

    def interrupt_calls(
        self, method: str, calls: int = 1, *, status: int = 503, seconds: float = 0
    ) -> dict[str, Any]:
        """Answer the next `calls` calls with an HTTP status after `seconds`, doing nothing."""
        return self._do("interrupt_calls", method=method, calls=calls, status=status, seconds=seconds)

    def slow_calls(self, method: str, calls: int = 1, *, seconds: float) -> dict[str, Any]:
        """Do the next `calls` calls at once and answer them after `seconds`: a client that waits less cannot know."""
        return self._do("slow_calls", method=method, calls=calls, seconds=seconds)

    def disconnect(self) -> dict[str, Any]:
        """End every WebSocket connection."""
        return self._do("disconnect")

    def _do(self, action: str, **arguments: object) -> dict[str, Any]:
        answer = self._http.post(f"/test/{action}", json=arguments)
        if answer.status_code != 200:
            raise ControlError(f"{action}: {answer.status_code} {answer.text}")
        result: dict[str, Any] = answer.json()
        return result
