"""What passed through: bytes, connections, and per route which statuses were answered and how fast.

Counted in the way of every request, so each step is a few additions. One period at a time: `take` gives the counts
since it was last called.
"""

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from machpay_gateway.reply import Reply

MAX_ROUTES: Final = 200
"""Routes named in one packet; more are counted together as `other`."""
_FIRST_MS: Final = 0.05
_STEPS_PER_E: Final = 20
_LAST: Final = 300


class Latencies:
    """A histogram in steps of 5 %, from 0.05 ms to two days: small, whatever the traffic."""

    __slots__ = ("_steps", "count")

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}
        self.count = 0

    def add(self, milliseconds: float) -> None:
        step = 0
        if milliseconds > _FIRST_MS:
            step = min(_LAST, math.ceil(math.log(milliseconds / _FIRST_MS) * _STEPS_PER_E))
        self._steps[step] = self._steps.get(step, 0) + 1
        self.count += 1

    def add_all(self, other: "Latencies") -> None:
        """Every sample of `other` too."""
        for step, count in other._steps.items():
            self._steps[step] = self._steps.get(step, 0) + count
        self.count += other.count

    def p99(self) -> float | None:
        """Milliseconds that at least 99 % do not exceed, at most 5 % above the exact value; None without any."""
        if not self.count:
            return None
        wanted, seen = math.ceil(0.99 * self.count), 0
        for step in sorted(self._steps):
            seen += self._steps[step]
            if seen >= wanted:
                return round(_FIRST_MS * math.exp(step / _STEPS_PER_E), 3)
        raise AssertionError("the steps hold every sample")


@dataclass(slots=True)
class RouteTraffic:
    """One route in one period."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)

    def add(self, other: "RouteTraffic") -> None:
        """Count everything of `other` too."""
        self.statuses.update(other.statuses)
        self.latencies.add_all(other.latencies)

    def to_json(self) -> dict[str, Any]:
        """Statuses and their counts, and the latency in ms."""
        shown: dict[str, Any] = {str(status): count for status, count in sorted(self.statuses.items())}
        return {**shown, "latency_p99": self.latencies.p99()}


@dataclass(slots=True)
class Period:
    """What was counted between two calls of `take`."""

    bytes_in: int = 0
    bytes_out: int = 0
    routes: dict[str, RouteTraffic] = field(default_factory=dict)


class Traffic:
    """Counts. `connections` is how many clients are connected now; the totals are since the start."""

    def __init__(self) -> None:
        self.connections = 0
        self.bytes_in_total = 0
        self.bytes_out_total = 0
        self._period = Period()

    def received(self, size: int) -> None:
        """Bytes from a client, as they came."""
        self._period.bytes_in += size
        self.bytes_in_total += size

    def take(self) -> Period:
        """The period that ends now; a new one begins."""
        period, self._period = self._period, Period()
        return period

    def answered(self, reply: Reply) -> None:
        """One exchange has ended. One without an answer (the client was gone) counts only for its bytes."""
        period = self._period
        period.bytes_out += reply.bytes_out
        self.bytes_out_total += reply.bytes_out
        if reply.route is None or reply.status is None:
            return
        route = period.routes.get(reply.route)
        if route is None:
            name = reply.route if len(period.routes) < MAX_ROUTES else "other"
            route = period.routes.setdefault(name, RouteTraffic())
        route.statuses[reply.status] += 1
        route.latencies.add((time.perf_counter() - reply.started_at) * 1000)
