"""`python -m devnet` as a person runs it: it proves itself, starts again, and leaves nothing behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from devnet.network import ROOT
from tests.e2e.conftest import wait_until
from tests.support.http import LOCAL

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}


_started: list["subprocess.Popen[str]"] = []
"""Demos of the running test; those that a failure left running are ended after it."""


def start_demo(data: Path, *arguments: str) -> "subprocess.Popen[str]":
    demo = subprocess.Popen(
        [sys.executable, "-m", "devnet", "--data", str(data), "--agents", "2", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _started.append(demo)
    return demo


def processes_of(data: Path) -> list[str]:
    """Every process that has the data folder in its command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(data).encode() in text:
            found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def end(demo: "subprocess.Popen[str]", number: signal.Signals) -> str:
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=120)
    return output


@pytest.fixture
def data(tmp_path: Path):
    folder = tmp_path / "demo data"
    yield folder
    for demo in _started:
        if demo.poll() is None:
            demo.kill()
            demo.communicate()
    _started.clear()
    wait_until(lambda: processes_of(folder) == [], "nothing is left running")


def test_the_demo_can_be_joined_stopped_killed_and_started_again(data: Path) -> None:
    manifest = data / "demo.json"
    demo = start_demo(data)
    wait_until(manifest.exists, "the demo is up")
    joined = json.loads(manifest.read_text())
    for name, url in joined.items():
        if name.endswith("_url") and url.startswith("http"):
            assert httpx.get(f"{url}/health", **LOCAL).status_code == 200, name
    for gateway in joined["gateways"]:
        assert httpx.get(gateway["url"] + gateway["paid_path"], **LOCAL).status_code == 402
    second = start_demo(data)
    output, _ = second.communicate(timeout=120)
    assert (second.returncode, f"in use by process {demo.pid}" in output) == (1, True), output
    assert json.loads(manifest.read_text()) == joined
    output = end(demo, signal.SIGTERM)
    assert demo.returncode == 0, output
    assert "stopped" in output
    assert not manifest.exists()
    wait_until(lambda: processes_of(data) == [], "nothing is left running")

    # Again on the same folder: the same chain, and everything that was charged before is still there.
    demo = start_demo(data)
    wait_until(manifest.exists, "the demo is up again")
    again = json.loads(manifest.read_text())
    assert (again["domain"], again["mint"], again["agents"]) == (
        joined["domain"],
        joined["mint"],
        joined["agents"],
    )
    demo.kill()
    demo.communicate(timeout=120)
    wait_until(
        lambda: [p for p in processes_of(data) if "postgres" not in p and "valkey" not in p] == [],
        "the kernel ended what the killed supervisor had started",
    )

    # After a kill, and with the chain gone: chain and database begin anew together, and the sums agree.
    shutil.rmtree(data / "localnet")
    demo = start_demo(data, "--once")
    output, _ = demo.communicate(timeout=600)
    assert demo.returncode == 0, output
    assert "chain, ledger and receipts agree" in output
    assert "MISMATCH" not in output


def test_a_fixed_port_in_use_is_reported_by_name(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = start_demo(data, "--relayer-port", str(port))
        output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 1
    assert f"port {port} (relayer) is in use" in output


def test_wrong_options_are_explained(data: Path) -> None:
    demo = start_demo(data, "--rate", "0")
    output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 2
    assert "must be positive" in output
