"""Agents that keep buying from the demo's gateways, as a process: `python -m devnet.traffic`.

Each agent is an ordinary SDK client with several calls in flight. Twice a second the process writes what it saw to a
JSON file that the supervisor reads: paid calls, what was charged per gateway, latencies, failures.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machpay import MachPayClient, MachPayConfig
from machpay.client.errors import ClientError

WORDS = (
    "agent",
    "bond",
    "vendor",
    "river",
    "signal",
    "harbour",
    "copper",
    "window",
    "orbit",
    "lantern",
    "meadow",
    "engine",
    "compass",
    "thunder",
    "paper",
    "glacier",
    "market",
    "violin",
    "desert",
    "bridge",
    "candle",
    "forest",
    "planet",
    "quartz",
)
COUNTRIES = ("CH", "DE", "FR", "JP", "BR", "IN", "KE", "US", "AU", "CL", "NO", "EG", "MX", "PT", "NZ", "CA")
REPORT_EVERY_S = 0.5


@dataclass
class Tally:
    """What the agents have seen since the process started. Latencies are those of the last calls, in ms."""

    started: float = field(default_factory=time.monotonic)
    paid: int = 0
    charged_atomic: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=2_000))
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=2_000))

    def paid_call(self, gateway: str, charged_atomic: int, latency_ms: float) -> None:
        self.paid += 1
        self.charged_atomic[gateway] += charged_atomic
        self.latencies_ms.append(latency_ms)
        self.recent.append(time.monotonic())

    def report(self) -> dict[str, Any]:
        now = time.monotonic()
        window = min(5.0, max(now - self.started, 0.001))
        quantiles = statistics.quantiles(self.latencies_ms, n=100) if len(self.latencies_ms) > 1 else []
        return {
            "paid": self.paid,
            "charged_atomic": dict(self.charged_atomic),
            "failures": dict(self.failures),
            "calls_per_s": round(sum(1 for at in self.recent if now - at <= window) / window, 1),
            "p50_ms": round(quantiles[49], 1) if quantiles else None,
            "p99_ms": round(quantiles[98], 1) if quantiles else None,
        }


def choose_request(gateway: dict[str, Any], rng: random.Random) -> str:
    """A priced URL of this gateway, different from call to call."""
    if gateway["paid_path"].startswith("/countries/"):
        return f"{gateway['url']}/countries/{rng.choice(COUNTRIES)}"
    return f"{gateway['url']}/embed?text={'+'.join(rng.sample(WORDS, 4))}"


async def buyer(
    client: MachPayClient,
    gateways: list[dict[str, Any]],
    rate: float,
    tally: Tally,
    stop: asyncio.Event,
    seed: int,
) -> None:
    """One caller of one agent: about `rate` paid calls a second until `stop`."""
    rng = random.Random(seed)  # noqa: S311  (variety, not secrecy)
    while not stop.is_set():
        gateway = rng.choice(gateways)
        began = time.perf_counter()
        try:
            response = await client.pay_and_call(url=choose_request(gateway, rng), method="GET")
        except ClientError as error:
            tally.failures[getattr(error, "code", type(error).__name__)] += 1
            await asyncio.sleep(0.5)
            continue
        if response.status_code == 200 and response.payment is not None:
            tally.paid_call(
                gateway["gateway"], response.payment.charged, (time.perf_counter() - began) * 1000
            )
        else:
            tally.failures[f"http_{response.status_code}"] += 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), rng.expovariate(rate))


async def write_reports(tally: Tally, path: Path, stop: asyncio.Event) -> None:
    while True:
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(tally.report()))
        partial.replace(path)
        if stop.is_set():
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), REPORT_EVERY_S)


async def run(manifest: Path, report: Path, rate: float, in_flight: int) -> None:
    """Buy from every gateway with every agent of the manifest until SIGTERM; calls in flight are finished."""
    demo = json.loads(manifest.read_text())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tally = Tally()
    reporter = asyncio.create_task(write_reports(tally, report, stop))
    async with contextlib.AsyncExitStack() as stack:
        callers = []
        for index in range(len(demo["agents"])):
            client = await stack.enter_async_context(
                MachPayClient(MachPayConfig.from_demo(manifest, agent=index))
            )
            per_caller = rate / (len(demo["agents"]) * in_flight)
            callers += [
                buyer(client, demo["gateways"], per_caller, tally, stop, seed=index * 100 + caller)
                for caller in range(in_flight)
            ]
        await asyncio.gather(*callers)
    await reporter
    report.write_text(json.dumps(tally.report()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m devnet.traffic", description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("var/demo.json"))
    parser.add_argument("--report", type=Path, default=Path("var/traffic.json"))
    parser.add_argument("--rate", type=float, default=40.0, help="paid calls a second, all agents together")
    parser.add_argument("--in-flight", type=int, default=4, help="callers per agent")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.manifest, arguments.report, arguments.rate, arguments.in_flight))


if __name__ == "__main__":
    main()
