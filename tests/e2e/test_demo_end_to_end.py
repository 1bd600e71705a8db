"""`python -m devnet` as a person runs it: it proves itself, starts again, and leaves nothing behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from devnet.network import ROOT
from devnet.services import Services
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


def processes_of(data: Path) -> dict[int, str]:
    """Every process that has the data folder in its command line or environment: pid -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(data).encode() in text:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found[int(entry.name)] = command
    return found


def pids_of(data: Path, command: str) -> set[int]:
    return {pid for pid, line in processes_of(data).items() if command in line}


def database_pid(data: Path) -> int | None:
    pid: int | None = Services(data / "services", environ={}).status()["postgres"]["pid"]
    return pid


def is_well(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", **LOCAL).status_code == 200
    except httpx.HTTPError:
        return False


def undelivered(demo: dict[str, Any]) -> int:
    """Payments that the demo's gateways completed and the relayer does not have."""
    reports = [httpx.get(gateway["url"] + "/health", **LOCAL).json() for gateway in demo["gateways"]]
    return sum(report["components"]["delivery"]["undelivered"] for report in reports)


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
    wait_until(lambda: processes_of(folder) == {}, "nothing is left running")


def test_the_demo_can_be_joined_killed_stopped_and_started_again(data: Path) -> None:
    manifest = data / "demo.json"
    demo = start_demo(data)
    wait_until(manifest.exists, "the demo is up")
    joined = json.loads(manifest.read_text())
    for name, url in joined.items():
        if name.endswith("_url") and url.startswith("http"):
            assert is_well(url), name
    for gateway in joined["gateways"]:
        assert httpx.get(gateway["url"] + gateway["paid_path"], **LOCAL).status_code == 402
    second = start_demo(data)
    output, _ = second.communicate(timeout=120)
    assert (second.returncode, f"in use by process {demo.pid}" in output) == (1, True), output
    assert json.loads(manifest.read_text()) == joined

    # What ends by itself is started again: a process, and the database under all of them.
    (receiver,) = pids_of(data, "telemetry.receiver")
    os.kill(receiver, signal.SIGKILL)
    wait_until(
        lambda: pids_of(data, "telemetry.receiver") - {receiver} != set() and is_well(joined["receiver_url"]),
        "the receiver is back",
    )
    database = database_pid(data)
    assert database is not None
    os.kill(database, signal.SIGKILL)
    wait_until(
        lambda: database_pid(data) not in (None, database) and is_well(joined["relayer_url"]),
        "the database is back",
    )

    # Killed while its gateways hold payments that the relayer does not have.
    (relayer,) = pids_of(data, "payments.relayer")
    os.kill(relayer, signal.SIGSTOP)
    wait_until(lambda: undelivered(joined) > 0, "gateways hold payments")
    demo.kill()
    demo.communicate(timeout=120)
    os.kill(relayer, signal.SIGKILL)
    wait_until(
        lambda: [p for p in processes_of(data).values() if "postgres" not in p and "valkey" not in p] == [],
        "the kernel ended what the killed supervisor had started",
    )

    # Again on the same folder: the same chain, and what the killed run left is not taken for this one's.
    demo = start_demo(data, "--once")
    output, _ = demo.communicate(timeout=600)
    assert demo.returncode == 0, output
    assert "chain, ledger and receipts agree" in output
    assert "MISMATCH" not in output
    assert (data / "genesis").read_text() == joined["domain"]

    # With the chain gone, chain and database begin anew together.
    shutil.rmtree(data / "localnet")
    demo = start_demo(data)
    wait_until(manifest.exists, "the demo is up again")
    again = json.loads(manifest.read_text())
    assert again["domain"] != joined["domain"]
    assert (again["mint"], again["agents"]) == (joined["mint"], joined["agents"])
    report = data / "traffic.json"
    wait_until(lambda: report.exists() and json.loads(report.read_text())["paid"] > 0, "agents are paying")
    output = end(demo, signal.SIGTERM)
    assert demo.returncode == 0, output
    assert "stopped" in output
    assert not manifest.exists()
    wait_until(lambda: processes_of(data) == {}, "nothing is left running")


def test_a_fixed_port_in_use_is_reported_by_name(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = start_demo(data, "--relayer-port", str(port))
        output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 1
    assert f"port {port} (relayer) is in use" in output


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--rate", "0", "must be positive"),
        ("--rate", "nan", "must be positive"),
        ("--web-port", "70000", "65535"),
    ],
)
def test_wrong_options_are_explained(data: Path, option: str, value: str, said: str) -> None:
    demo = start_demo(data, option, value)
    output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 2
    assert said in output
