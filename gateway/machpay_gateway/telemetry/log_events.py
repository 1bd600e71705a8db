"""Warnings and errors of this process as `com.machpay.log` events, so that a vendor sees them without a shell.

Bounded in rate: what is more than that is counted, and the count travels with the next one. What the sending itself
logs is left out, or a receiver that is away would feed on its own absence.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from machpay.protocol.events import LOG

BURST: Final = 20
PER_MINUTE: Final = 30
MESSAGE_MAX: Final = 2_000
_OWN: Final = ("machpay_gateway.events", "machpay_gateway.telemetry")

Emit = Callable[[str, None, Callable[[], dict[str, Any]]], None]


class LogEvents(logging.Handler):
    """Use as a context manager inside the event loop: records of level WARNING and above become events."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(logging.WARNING)
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._allowed = float(BURST)
        self._at = time.monotonic()
        self._suppressed = 0

    def __enter__(self) -> "LogEvents":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`, in whatever thread the record was made."""
        if record.name.startswith(_OWN) or self._loop.is_closed() or not self._may():
            return
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = _text(f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}")
        if self._suppressed:
            fields["suppressed"], self._suppressed = self._suppressed, 0
        data = {"level": record.levelname.lower(), "msg": _text(record.getMessage()), "fields": fields}
        # A thread may still log while the loop is being closed.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._emit, LOG, None, lambda: data)

    def _may(self) -> bool:
        # `logging` calls a handler under its lock, so no two threads are here at once.
        now = time.monotonic()
        self._allowed = min(BURST, self._allowed + (now - self._at) * PER_MINUTE / 60)
        self._at = now
        if self._allowed < 1:
            self._suppressed += 1
            return False
        self._allowed -= 1
        return True


def _text(text: str) -> str:
    """Short, and without NUL, which the network's database cannot hold."""
    return text[:MESSAGE_MAX].replace("\x00", " ")
