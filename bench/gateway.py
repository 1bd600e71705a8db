"""What a paid call costs: the gateway against itself with payments off, and against the stock x402 stack.

    .venv/bin/python bench/gateway.py             all figures of docs/performance.md (about 6 minutes)
    .venv/bin/python bench/gateway.py --quick     one short run of each, to see that everything works

One gateway process has one core, its log is on the disk and every answer waits for the fsync. Upstream and load are
on the other cores; relayer, receiver, PostgreSQL and the local chain are the real ones, there too and with a lower
priority. Five interleaved runs, medians with the lowest and highest. CPU is what the kernel counts for the gateway's
process, from the first request to the last delivered payment.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop

from bench.paid_calls import clients, load, orders, steps
from bench.paid_calls.report import median, progress, say, spread, table
from bench.paid_calls.stack import PRICE, Measured, Stack
from devnet.network import ROOT
from devnet.offers import ATLAS, LEXICON
from machpay_gateway.siblings.family import identity

CONNECTIONS = 64
LIMITS = {"payment": 150.0, "middleware": 2.0, "client": 3.0, "p50": 5.0, "p99": 50.0}


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    runs: int = 5
    closed: int = 8_000
    peer: int = 4_000
    calls: int = 300
    rate: int = 1_000
    seconds: int = 60

    @classmethod
    def quick(cls) -> "Plan":
        return cls(runs=1, closed=2_000, peer=1_000, calls=50, rate=200, seconds=5)


@dataclass
class Figures:
    """Samples by name; medians are taken at the end."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return median(self.samples[name])

    def spread(self, name: str, digits: int = 0) -> str:
        return spread(self.samples[name], digits)

    def ratio(self, above: str, below: str) -> list[float]:
        """Run by run, so that what disturbed a run disturbs both."""
        return [a / b for a, b in zip(self.samples[above], self.samples[below], strict=True)]


class Bench:
    """One stack, and what was measured on it."""

    def __init__(self, stack: Stack, plan: Plan) -> None:
        self._stack = stack
        self._plan = plan
        self._payers = [
            orders.Payer(stack.network, agent, stack.key_of(LEXICON).public, stack.vendor_of(LEXICON), PRICE)
            for agent in stack.agents[:-1]
        ]
        self.figures = Figures()

    def run(self) -> None:
        with self._stack.gateway() as gateway, self._stack.peer() as peer:
            self._warm_up(gateway, self._payers)
            self._closed("warm-up of the peer", peer, orders.stock(self._stack.agents[0], 300))
            for number in range(self._plan.runs):
                say(f"run {number + 1} of {self._plan.runs}: closed loops")
                self._costs(gateway, peer)
                say(f"run {number + 1} of {self._plan.runs}: whole calls")
                self._calls(gateway, peer)
            self._report_costs()
            self._report_throughput()
            self._report_calls()
            self._open(gateway)
            self._scaling(gateway)

    def _warm_up(self, gateway: Measured, payers: list[orders.Payer]) -> None:
        """Until every agent is known: first look-ups go to the chain and may take longer than one answer waits."""
        for _ in range(20):
            requests = orders.paid(payers, 4 * len(payers))
            result = uvloop.run(load.closed_loop(gateway.url, requests, connections=CONNECTIONS))
            if not result.failed:
                self._stack.delivered(gateway)
                return
            # What was refused may be above what was accepted: the next totals are above both.
            time.sleep(0.5)
        raise SystemExit(f"the gateway refuses payments: {result.failures}; see {self._stack.folder}")

    # --- Closed loops -----------------------------------------------------------------------------------------------

    def _costs(self, gateway: Measured, peer: Measured) -> None:
        plan, figures, stack = self._plan, self.figures, self._stack
        free = [orders.request("/free")] * plan.closed
        self._sampled("free", gateway, free, lambda: None)
        paid = orders.paid(self._payers, plan.closed)
        self._sampled("paid", gateway, paid, lambda: stack.delivered(gateway))
        stock = orders.stock(stack.agents[0], plan.peer)
        self._sampled("stock", peer, stock, lambda: None)
        for name, microseconds in steps.measure().items():
            figures.add(f"step {name}", microseconds)

    def _sampled(
        self, name: str, server: Measured, requests: list[bytes], settle: Callable[[], None]
    ) -> None:
        before = server.cpu_s
        result = self._closed(name, server, requests)
        settle()
        self.figures.add(f"{name} µs", (server.cpu_s - before) / len(requests) * 1e6)
        self.figures.add(f"{name}/s", result.per_second)
        self.figures.add(f"{name} load share", result.cpu_s / result.seconds)

    def _closed(self, name: str, server: Measured, requests: list[bytes]) -> load.Result:
        result = uvloop.run(
            load.closed_loop(
                server.url, requests, connections=CONNECTIONS, progress=progress(name, len(requests))
            )
        )
        if result.failed:
            raise SystemExit(
                f"{name} at {server.url}: not every answer was 200: {result.failures}; see {self._stack.folder}"
            )
        return result

    def _report_costs(self) -> None:
        figures = self.figures
        names = [name for name in figures.samples if name.startswith("step ")]
        whole = [
            paid - free
            for paid, free in zip(figures.samples["paid µs"], figures.samples["free µs"], strict=True)
        ]
        known = sum(figures.median(name) for name in names)
        rows = [(name.removeprefix("step "), f"{figures.median(name):.0f}") for name in names]
        rows += [
            ("the rest: deciding, the book, log and fsync, waking up", f"{median(whole) - known:.0f}"),
            ("**one payment** (a paid request less a free one)", f"**{spread(whole)}**"),
            ("a free request through the same gateway", figures.spread("free µs")),
        ]
        table("CPU of one payment in the gateway, µs", ("step", "µs"), rows)
        _verdict("one payment", median(whole), "at most", LIMITS["payment"], "µs")

    def _report_throughput(self) -> None:
        figures = self.figures
        rows = [
            (text, figures.spread(f"{name}/s"), figures.spread(f"{name} µs"), f"{share:.0%}")
            for name, text in (
                ("paid", "MachPay gateway, proxying, durable log"),
                ("free", "the same gateway, payments off"),
                ("stock", "stock x402 FastAPI middleware, serving in process"),
            )
            for share in [figures.median(f"{name} load share")]
        ]
        header = ("server on one core", "calls/s", "CPU µs per call", "load's share of its core")
        table(f"Closed loop, {CONNECTIONS} connections, pre-signed payments", header, rows)
        _verdict(
            "calls/s against the stock middleware", median(figures.ratio("paid/s", "stock/s")), "at least", 2
        )
        _verdict(
            "CPU against the stock middleware", median(figures.ratio("stock µs", "paid µs")), "at least", 2
        )

    # --- Several processes ------------------------------------------------------------------------------------------

    def _scaling(self, one: Measured) -> None:
        """One process on one core against two on two, half of whose requests arrive at the wrong one. On a machine with
        two cores the second one has the load and everything else to carry too."""
        plan, stack, figures = self._plan, self._stack, self.figures
        say("starting two gateway processes of another vendor")
        key, vendor = stack.key_of(ATLAS), stack.vendor_of(ATLAS)
        pairs = [
            orders.Payer(stack.network, agent, identity(key, index).public, vendor, PRICE)
            for agent in stack.agents[:-1]
            for index in (0, 1)
        ]
        with stack.gateway(ATLAS, workers=2) as two:
            self._warm_up(two, pairs)
            for number in range(plan.runs):
                say(f"run {number + 1} of {plan.runs}: one and two processes")
                for name, server, payers in (("1 process", one, self._payers), ("2 processes", two, pairs)):
                    self._sampled(
                        name, server, orders.paid(payers, plan.closed), partial(stack.delivered, server)
                    )
        rows = [
            (name, figures.spread(f"{name}/s"), figures.spread(f"{name} µs"))
            for name in ("1 process", "2 processes")
        ]
        table(
            "Several gateway processes, every second request forwarded",
            ("gateway", "calls/s", "CPU µs per call"),
            rows,
        )
        print(
            f"\n2 processes against 1: {median(figures.ratio('2 processes/s', '1 process/s')):.2f} times the calls"
        )

    # --- Whole calls ------------------------------------------------------------------------------------------------

    def _calls(self, gateway: Measured, peer: Measured) -> None:
        stack, count = self._stack, self._plan.calls
        ours = clients.sdk_calls(gateway.url, stack.agents[-1], stack.network, count)
        theirs = clients.stock_calls(peer.url, stack.agents[-1], count)
        self.figures.add("sdk ms", median(ours) * 1000)
        self.figures.add("stock client ms", median(theirs) * 1000)

    def _report_calls(self) -> None:
        figures = self.figures
        rows = [
            ("MachPay SDK, MachPay gateway, upstream behind it", figures.spread("sdk ms", 2)),
            ("stock x402 client on httpx, stock middleware", figures.spread("stock client ms", 2)),
        ]
        table("A whole paid call by one client, one after the other", ("client", "median ms"), rows)
        ratio = median(figures.ratio("stock client ms", "sdk ms"))
        _verdict("whole calls against the stock client", ratio, "at least", LIMITS["client"])

    # --- Open loop --------------------------------------------------------------------------------------------------

    def _open(self, gateway: Measured) -> None:
        plan = self._plan
        count = plan.rate * plan.seconds
        say(f"signing {count:,} payments for the open loop")
        requests = orders.paid(self._payers, count)
        result = uvloop.run(
            load.open_loop(
                gateway.url,
                requests,
                rate=plan.rate,
                connections=256,
                progress=progress("open loop", count),
            )
        )
        say("waiting until everything is delivered")
        self._stack.delivered(gateway)
        p50, p99 = result.percentile_ms(0.5), result.percentile_ms(0.99)
        row = (f"{plan.rate:,}", f"{plan.seconds} s", f"{p50:.1f}", f"{p99:.1f}", result.failed)
        header = ("paid calls/s", "for", "p50 ms", "p99 ms", "errors")
        table("Open loop", header, [row])
        _verdict("p50", p50, "at most", LIMITS["p50"], "ms")
        _verdict("p99", p99, "at most", LIMITS["p99"], "ms")


def _verdict(what: str, value: float, relation: str, limit: float, unit: str = "times") -> None:
    good = value <= limit if relation == "at most" else value >= limit
    print(f"\n{'ok  ' if good else 'MISS'} {what}: {value:.1f} {unit}, wanted {relation} {limit:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=_var()))
    # The database's account has to pass.
    folder.chmod(0o755)
    say("starting PostgreSQL, Valkey, the local chain, relayer and receiver")
    with Stack(folder) as stack:
        Bench(stack, Plan.quick() if options.quick else Plan()).run()
    # After a failure the processes' logs are still there to be read.
    shutil.rmtree(folder, ignore_errors=True)


def _var() -> Path:
    var = ROOT / "var"
    var.mkdir(exist_ok=True)
    return var


if __name__ == "__main__":
    main()
