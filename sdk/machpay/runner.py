"""The continuous end-to-end runner: agents that keep buying from gateways, and whether all of it adds up.

Used by `machpay run-e2e` and by the demo's traffic. Every call goes through an ordinary client, which checks
each receipt; the tally checks what only many calls can show: the advertised price was charged, once, and
only for what was served.
"""

import asyncio
import contextlib
import random
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from machpay.client import MachPayClient, MachPayConfig, PaidResponse
from machpay.client.errors import ClientError

WINDOW_S = 5.0
FAILURE_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """A priced route of one gateway. `url` gives the next URL to call; `price_atomic` what it must cost."""

    gateway: str
    method: str
    price_atomic: int
    url: Callable[[random.Random], str]


@dataclass
class Tally:
    """What the agents have seen since the start. Latencies are those of the last calls, in ms."""

    started: float = field(default_factory=time.monotonic)
    paid: int = 0
    charged_atomic: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    mismatches: Counter[str] = field(default_factory=Counter)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=2_000))
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=2_000))
    served_totals: dict[tuple[str, str], int] = field(default_factory=dict)

    def answered(self, agent: str, target: Target, response: PaidResponse, latency_ms: float) -> None:
        """Take one answer into account."""
        payment, is_served = response.payment, response.is_success
        if payment is None:
            self.mismatches["served_without_payment"] += is_served
            self.failures[f"http_{response.status_code}"] += not is_served
            return
        if payment.gateway != target.gateway:
            self.mismatches["another_gateway"] += 1
        self.charged_atomic[payment.gateway] += payment.charged
        if not is_served:
            self.mismatches["charged_but_not_served"] += payment.charged > 0
            self.failures[f"http_{response.status_code}"] += 1
            return
        self.mismatches["another_price"] += payment.charged != target.price_atomic
        channel = (agent, payment.gateway)
        self.served_totals[channel] = max(self.served_totals.get(channel, 0), payment.served_total)
        self.paid += 1
        self.latencies_ms.append(latency_ms)
        self.recent.append(time.monotonic())

    def failed(self, error: ClientError) -> None:
        """A call raised."""
        self.failures[getattr(error, "code", type(error).__name__)] += 1

    def report(self) -> dict[str, Any]:
        now = time.monotonic()
        window = min(WINDOW_S, max(now - self.started, 0.001))
        quantiles = statistics.quantiles(self.latencies_ms, n=100) if len(self.latencies_ms) > 1 else []
        return {
            "paid": self.paid,
            "charged_atomic": dict(self.charged_atomic),
            "failures": dict(+self.failures),
            "calls_per_s": round(sum(1 for at in self.recent if now - at <= window) / window, 1),
            "p50_ms": round(quantiles[49], 1) if quantiles else None,
            "p99_ms": round(quantiles[98], 1) if quantiles else None,
        }

    def summary(self) -> dict[str, Any]:
        """The report with everything that did not add up. Gateways' own totals must cover what they charged."""
        mismatches = Counter(self.mismatches)
        totals: Counter[str] = Counter()
        for (_agent, gateway), served in self.served_totals.items():
            totals[gateway] += served
        mismatches["total_below_charges"] = sum(
            totals[gateway] < charged for gateway, charged in self.charged_atomic.items()
        )
        return {
            **self.report(),
            "seconds": round(time.monotonic() - self.started, 1),
            "mismatches": dict(+mismatches),
        }


async def _caller(
    client: MachPayClient,
    targets: Sequence[Target],
    rate: float,
    tally: Tally,
    stop: asyncio.Event,
    seed: int,
) -> None:
    """One caller of one agent: about `rate` paid calls a second until `stop`."""
    rng = random.Random(seed)  # noqa: S311  (variety, not secrecy)
    while not stop.is_set():
        target = rng.choice(targets)
        began = time.perf_counter()
        try:
            response = await client.pay_and_call(target.url(rng), target.method)
        except ClientError as error:
            tally.failed(error)
            pause = FAILURE_PAUSE_S
        else:
            tally.answered(client.agent, target, response, (time.perf_counter() - began) * 1000)
            pause = rng.expovariate(rate)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)


async def buy_until(
    stop: asyncio.Event,
    configs: Sequence[MachPayConfig],
    targets: Sequence[Target],
    tally: Tally,
    *,
    rate: float,
    in_flight: int,
) -> None:
    """Buy with every agent from every target, `rate` calls a second together, until `stop`; calls in flight
    are finished."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(MachPayClient(config)) for config in configs]
        share = rate / (len(clients) * in_flight)
        await asyncio.gather(
            *(
                _caller(client, targets, share, tally, stop, seed=index * 100 + number)
                for index, client in enumerate(clients)
                for number in range(in_flight)
            )
        )
