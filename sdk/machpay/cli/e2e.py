"""`machpay run-e2e`: keeps paying the gateways of a manifest and checks that it adds up."""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

from machpay.cli.codes import FAILED, OK
from machpay.cli.options import say, usdc
from machpay.client import MachPayConfig
from machpay.client.errors import ConfigError
from machpay.runner import Tally, Target, buy_until

LIVE_LINE_S: Final = 1.0


def run(options: argparse.Namespace) -> int:
    try:
        manifest = json.loads(Path(options.manifest).read_text())
        targets = [_target(entry) for entry in manifest["gateways"]]
        count = len(manifest["agents"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{options.manifest} cannot be used as a manifest: {error!r}") from error
    if not targets or not count:
        raise ConfigError(f"{options.manifest} names no gateways or no agents")
    configs = [MachPayConfig.from_demo(options.manifest, agent=number) for number in range(count)]
    summary = asyncio.run(_buy(options, configs, targets))
    text = "\n".join(f"{name}: {value}" for name, value in summary.items())
    say(options, summary, text)
    return FAILED if summary["mismatches"] or not summary["paid"] else OK


def _target(entry: dict[str, Any]) -> Target:
    url = urljoin(str(entry["url"]), str(entry["paid_path"]))

    def same(_rng: random.Random) -> str:
        return url

    return Target(entry["gateway"], entry["method"], int(entry["price_atomic"]), same)


async def _buy(
    options: argparse.Namespace, configs: Sequence[MachPayConfig], targets: Sequence[Target]
) -> dict[str, Any]:
    tally, stop = Tally(), asyncio.Event()
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    if options.duration is not None:
        loop.call_later(options.duration, stop.set)
    buying = asyncio.create_task(
        buy_until(stop, configs, targets, tally, rate=options.rate, in_flight=options.in_flight)
    )
    while not buying.done():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(buying), LIVE_LINE_S)
        _live_line(options, tally)
    await buying
    if not options.as_json:
        print(file=sys.stderr)
    return tally.summary()


def _live_line(options: argparse.Namespace, tally: Tally) -> None:
    report = tally.report()
    if options.as_json:
        print(json.dumps(report), file=sys.stderr, flush=True)
        return
    charged, failed = sum(report["charged_atomic"].values()), sum(report["failures"].values())
    median = "-" if report["p50_ms"] is None else report["p50_ms"]
    line = f"{report['paid']} paid, {report['calls_per_s']}/s, p50 {median} ms, {usdc(charged)} USDC"
    print(f"\r{line}, {failed} failed   ", end="", file=sys.stderr, flush=True)
