"""The demo: starts the network and its paying agents, shows what happens, and in `--once` proves that it adds up."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.live import Live

from devnet.figures import Figures, FiguresReader
from devnet.manifest import Manifest
from devnet.network import ROOT, LocalNetwork, Options
from devnet.processes import ManagedProcess
from devnet.summary import comparison_table, summary_panel

PAID_CALLS = 200
ONCE_TIMEOUT_S = 240.0


class DemoFailed(RuntimeError):
    """The demo ran, but did not come to what it promises; the text says what was missing."""


@dataclass(frozen=True, slots=True)
class Settings:
    once: bool
    rate: float


class Demo:
    """One run: `start()`, `run()`, `stop()` (which is safe at any point)."""

    def __init__(self, options: Options, settings: Settings) -> None:
        self._settings = settings
        self._out = Console()
        self._began = time.monotonic()
        self._network = LocalNetwork(options, report=self._step)
        self._manifest = Manifest(self._network.data_dir)
        self._report_path = self._network.data_dir / "traffic.json"
        self._figures: FiguresReader | None = None
        self._first_paid = False
        self._first_settled = False
        self._settled_before = 0

    def _step(self, text: str) -> None:
        self._out.print(f"[dim]{time.monotonic() - self._began:5.1f} s[/dim]  {text}", highlight=False)

    def start(self) -> None:
        self._network.start()
        self._manifest.write(self._network)
        self._report_path.unlink(missing_ok=True)
        self._figures = FiguresReader(self._network)
        self._settled_before = self._figures.read().settlements
        self._traffic().start()
        self._step("agents are paying")

    def _traffic(self) -> ManagedProcess:
        import sys

        process = ManagedProcess(
            "traffic",
            [
                *(sys.executable, "-m", "devnet.traffic", "--manifest", str(self._manifest.json_path)),
                *("--report", str(self._report_path), "--rate", str(self._settings.rate)),
            ],
            env=self._network.child_environment(),
            log_dir=self._network.data_dir / "log",
            cwd=ROOT,
        )
        self._network.processes["traffic"] = process
        return process

    def run(self) -> None:
        if self._settings.once:
            self._run_once()
        else:
            self._run_live()

    def _seen(self) -> tuple[dict[str, Any], Figures]:
        assert self._figures is not None
        try:
            traffic = json.loads(self._report_path.read_text())
        except FileNotFoundError:
            traffic = {
                "paid": 0,
                "charged_atomic": {},
                "failures": {},
                "calls_per_s": 0.0,
                "p50_ms": None,
                "p99_ms": None,
            }
        figures = self._figures.read()
        if traffic["paid"] and not self._first_paid:
            self._first_paid = True
            self._step("first paid call")
        if figures.settlements > self._settled_before and not self._first_settled:
            self._first_settled = True
            self._step("first settlement finalised on-chain")
        return traffic, figures

    @property
    def _shown_manifest(self) -> Path:
        """Where the demo is described, as short as it can be written from here."""
        path = self._manifest.json_path
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

    def _run_live(self) -> None:
        url = self._network.url("web")
        self._step(
            f"console: [bold]{url}[/bold]  (admin at {url}/admin/, user operator, password in {self._shown_manifest})"
        )
        with Live(console=self._out, refresh_per_second=4, auto_refresh=False) as live:
            while True:
                self._network.heal()
                try:
                    live.update(summary_panel(*self._seen(), url), refresh=True)
                except psycopg.OperationalError as error:
                    self._step(f"the database does not answer: {error}")
                    time.sleep(1)
                time.sleep(0.5)

    def _run_once(self) -> None:
        deadline = time.monotonic() + ONCE_TIMEOUT_S
        reported = 0
        while True:
            self._network.check()
            traffic, figures = self._seen()
            if traffic["paid"] - reported >= 50:
                reported = traffic["paid"]
                self._step(f"{traffic['paid']} paid calls, {traffic['calls_per_s']}/s")
            if traffic["paid"] >= PAID_CALLS and self._first_settled:
                break
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"only {traffic['paid']} paid calls and {figures.settlements - self._settled_before} settlements "
                    f"after {ONCE_TIMEOUT_S:.0f} s; failures: {traffic['failures']}"
                )
            time.sleep(0.25)
        self._step("stopping the agents; waiting until everything charged is settled")
        self._network.processes.pop("traffic").stop(timeout_s=30)
        self._compare(deadline)

    def _compare(self, deadline: float) -> None:
        """Print chain against ledger per vendor and raise `DemoFailed` unless every line agrees."""
        assert self._figures is not None
        while True:
            self._network.check()
            traffic = json.loads(self._report_path.read_text())
            comparison = self._figures.compare(traffic["charged_atomic"])
            if comparison.agrees or time.monotonic() > deadline:
                break
            time.sleep(0.25)
        self._out.print(comparison_table(comparison))
        if not comparison.agrees:
            raise DemoFailed("chain, ledger and receipts do not agree")
        self._step(f"{traffic['paid']} paid calls; chain, ledger and receipts agree")

    def stop(self) -> None:
        # Without a network of its own this demo did not get past another one that runs on the same folder.
        if self._network.network is not None:
            self._manifest.remove()
        if traffic := self._network.processes.pop("traffic", None):
            traffic.stop(timeout_s=10)
        self._step("stopping")
        self._network.stop()
        self._step("stopped")
