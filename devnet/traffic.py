"""Agents that keep buying from the demo's gateways, as a process: `python -m devnet.traffic`.

The buying is the SDK's own end-to-end runner. Twice a second the process writes what it saw to a
JSON file that the supervisor reads: paid calls, what was charged per gateway, latencies, failures.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

from machpay import MachPayConfig
from machpay.runner import Tally, Target, buy_until

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


def choose_request(gateway: dict[str, Any], rng: random.Random) -> str:
    """A priced URL of this gateway, different from call to call."""
    if gateway["paid_path"].startswith("/countries/"):
        return f"{gateway['url']}/countries/{rng.choice(COUNTRIES)}"
    return f"{gateway['url']}/embed?text={'+'.join(rng.sample(WORDS, 4))}"


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
    configs = [MachPayConfig.from_demo(manifest, agent=index) for index in range(len(demo["agents"]))]
    targets = [
        Target(entry["gateway"], "GET", entry["price_atomic"], partial(choose_request, entry))
        for entry in demo["gateways"]
    ]
    await buy_until(stop, configs, targets, tally, rate=rate, in_flight=in_flight)
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
