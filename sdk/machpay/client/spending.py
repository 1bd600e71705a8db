"""What an agent has authorised today, by vendor: counted before anything is signed, and kept between runs.

Unlike the totals in `store`, this is a ledger: processes that share a state folder take turns under a file
lock, read, check and write, so together they keep within one day's budget. A file that cannot be read or
written stops payments instead of starting the day anew.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from machpay.client.budgets import Budgets
from machpay.client.channels import Channel
from machpay.client.errors import SpendingUnknownError
from machpay.client.orders import Order
from machpay.protocol.encoding import parse_u64
from machpay.protocol.errors import MalformedError
from machpay.protocol.nonces import nonce_unix_ms


class _Document(msgspec.Struct):
    agent: str
    day: str
    vendors: dict[str, str]


class Spending:
    """Takes from one agent's budgets. Without a `path` it counts in this process only, without a budget for days not at
    all."""

    def __init__(self, budgets: Budgets, agent: str, path: Path | None) -> None:
        self._budgets = budgets
        self._agent = agent
        self._counts = budgets.counts_days
        self._path = path if self._counts else None
        self._day = ""
        self._vendors: dict[str, int] = {}

    def take(self, vendor: str, *, least: int, wanted: int, spent_in_call: int, now: float) -> int:
        """Count a signature that authorises between `least` and `wanted` more; returns how much it may.

        Raises `BudgetExceededError`, `SpendingUnknownError`; then nothing is counted.
        """
        if not self._counts:
            return self._budgets.grant({}, vendor, least=least, wanted=wanted, spent_in_call=spent_in_call)
        with self._turn(now):
            granted = self._budgets.grant(
                self._vendors, vendor, least=least, wanted=wanted, spent_in_call=spent_in_call
            )
            if granted:
                self._vendors[vendor] = self._vendors.get(vendor, 0) + granted
        return granted

    def give_back(self, vendor: str, amount: int, *, taken_at: float, now: float) -> None:
        """Uncount what turned out to authorise nothing. What was taken on another day is gone with it."""
        if amount == 0 or not self._counts or _day(taken_at) != _day(now):
            return
        # Counting too much is safe: what cannot be written down now stays counted.
        with contextlib.suppress(SpendingUnknownError), self._turn(now):
            self._vendors[vendor] = max(0, self._vendors.get(vendor, 0) - amount)

    def forgive(self, channel: Channel, order: Order, now: float) -> int:
        """Uncount a signature below what another holder of the key has authorised: it added nothing. Returns what it
        had taken."""
        if not order.growth or not channel.is_covered_by_others(order.intent.cumulative):
            return 0
        taken_at = nonce_unix_ms(order.intent.nonce) / 1000
        self.give_back(str(order.offer.vendor), order.growth, taken_at=taken_at, now=now)
        return order.growth

    def today(self, now: float) -> dict[str, int]:
        """What was authorised today, by vendor, in atomic units. Raises `SpendingUnknownError`."""
        with self._turn(now):
            return dict(self._vendors)

    @contextlib.contextmanager
    def _turn(self, now: float) -> Iterator[None]:
        """Today's figures, nobody else at them; what is different afterwards is written."""
        if self._path is None:
            self._start_day(_day(now))
            yield
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise SpendingUnknownError(str(self._path), str(error)) from error
        try:
            # Only POSIX has it; an agent without budgets runs anywhere.
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
            self._load(self._path)
            self._start_day(_day(now))
            before = dict(self._vendors)
            yield
            if self._vendors != before:
                self._save(self._path)
        finally:
            os.close(lock)

    def _start_day(self, day: str) -> None:
        # A clock that steps back must not open a day a second time.
        if day > self._day:
            self._day, self._vendors = day, {}

    def _load(self, path: Path) -> None:
        try:
            document = msgspec.json.decode(path.read_bytes(), type=_Document)
            if document.agent != self._agent:
                raise MalformedError(f"it belongs to agent {document.agent}")
            vendors = {key: parse_u64(amount, key) for key, amount in document.vendors.items()}
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, MalformedError) as error:
            raise SpendingUnknownError(str(path), str(error)) from error
        self._day, self._vendors = document.day, vendors

    def _save(self, path: Path) -> None:
        vendors = {vendor: str(amount) for vendor, amount in sorted(self._vendors.items())}
        document = _Document(self._agent, self._day, vendors)
        partial = path.with_suffix(".new")
        try:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
            partial.replace(path)
        except OSError as error:
            raise SpendingUnknownError(str(path), str(error)) from error


def _day(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).date().isoformat()
