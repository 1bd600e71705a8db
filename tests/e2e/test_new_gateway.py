"""A vendor joins a running network: the example, set up word for word as its README says, is paid and reports; and a
registration that stops half-way is finished by the command it prints."""

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from solders.pubkey import Pubkey

from devnet.network import ROOT
from devnet.services.ports import free_port
from machpay import MachPayClient, MachPayConfig
from machpay.chain.client import ChainClient
from machpay.protocol.keys import SigningKey
from machpay_gateway.setup.files import to_toml
from machpay_gateway.setup.networks import Wanted, find_network
from tests.e2e.conftest import Running, wait_until
from tests.support.http import LOCAL

# A dozen commands are started one after the other, each a process of its own.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

EXAMPLE = ROOT / "examples" / "vendor_fastapi"


def readme_commands() -> list[str]:
    text = (EXAMPLE / "README.md").read_text()
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


@dataclass
class Shell:
    """Runs the README's commands in a copy of the example, its addresses changed to this network's."""

    folder: Path
    words: dict[str, str]
    environment: dict[str, str]
    background: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def _arguments(self, command: str) -> list[str]:
        for old, new in self.words.items():
            command = command.replace(old, new)
        return shlex.split(command)

    def run(self, command: str, *extra: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        ran = subprocess.run(
            [*self._arguments(command), *extra],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ran.returncode == code, f"{command}\n{ran.stdout}\n{ran.stderr}"
        return ran

    def start(self, command: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"output-{len(self.background)}").open("wb") as output:
            process = subprocess.Popen(
                self._arguments(command.removesuffix(" &")),
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        self.background.append(process)
        return process

    def output(self, number: int) -> str:
        return (self.folder / f"output-{number}").read_text()

    def close(self) -> None:
        for process in reversed(self.background):
            process.terminate()
        for process in self.background:
            process.wait(60)


@pytest.fixture
def shell(running: Running, tmp_path: Path) -> Iterator[Shell]:
    shutil.copytree(EXAMPLE, tmp_path / "vendor_fastapi")
    upstream, port = free_port(), free_port()
    config = tmp_path / "vendor_fastapi" / "gateway.toml"
    # The README's ports may be taken on a machine that runs tests.
    text = config.read_text().replace("8000", str(upstream)).replace("8402", str(port))
    config.write_text(text + "\n[telemetry]\nperiod_s = 1\n")
    shell = Shell(
        tmp_path / "vendor_fastapi",
        {
            "8000": str(upstream),
            "8402": str(port),
            "../../var/demo.json": str(running.manifest_path),
            "../../var/keys": str(running.network.keys.folder),
        },
        {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MACHPAY_STATE_DIR": str(tmp_path / "state"),
        },
    )
    yield shell
    shell.close()


def test_the_vendor_example_is_set_up_paid_and_seen_as_its_readme_says(
    running: Running, shell: Shell
) -> None:
    serve, init, register, run, check, call = readme_commands()
    shell.start(serve)
    shell.run(init)
    registered = json.loads(shell.run(register, "--json").stdout)
    gateway, vendor = registered["gateways"][0], registered["vendor"]
    assert registered["relayer"] == "registered"
    assert len(registered["transactions"]) == 2
    running_gateway = shell.start(run)
    data = shell.folder / "shop" / "data"
    wait_until((data / "endpoint.json").exists, "the gateway is ready")
    url = json.loads((data / "endpoint.json").read_text())["url"]

    # Everything is well, and registering again has nothing to do.
    findings = json.loads(shell.run(check, "--json").stdout)["findings"]
    assert {
        finding["what"]: finding["level"] for finding in findings if finding["what"] != "data_dir"
    } == dict.fromkeys(
        [
            *("configuration", "key_file", "log", "upstream", "relayer", "receiver", "clock"),
            *("domain", "program", "registration", "payout"),
        ],
        "ok",
    )
    assert json.loads(shell.run(register, "--json").stdout)["transactions"] == []
    assert running.rows("SELECT vendor, status FROM payments_gateway WHERE pubkey = %s", gateway) == [
        (vendor, "UP")
    ]

    # Paid once by the README's last line, and by a program; what fails or is free costs nothing.
    paid = shell.run(call)
    assert json.loads(paid.stdout) == {"number": 100, "prime": 541}
    charges = asyncio.run(calls(running, url))
    assert charges == [1_000, 0, 2_500]
    assert httpx.get(f"{url}/status", **LOCAL).json() == {"status": "ok"}
    offered = httpx.get(f"{url}/machpay.json", **LOCAL).json()["endpoints"]
    assert [(each["path"], each["price_atomic"]) for each in offered] == [
        ("/status", 0),
        ("/primes/*", 1_000),
        ("/factors", 2_500),
    ]
    wait_until(lambda: running.charged(gateway) == 4_500, "the relayer has every charge")

    check_reports(running, gateway, shell)
    check_files(running, gateway, shell)
    running.settle_everything()
    assert running.vendor_balance(vendor) == 4_500
    assert running_gateway.poll() is None


async def calls(running: Running, url: str) -> list[int]:
    """A paid call, one that fails, and one with a body: what each was charged."""
    async with MachPayClient(MachPayConfig.from_demo(running.manifest_path, agent=1)) as client:
        answers = [
            await client.pay_and_call(f"{url}/primes/3"),
            await client.pay_and_call(f"{url}/primes/0"),
            await client.pay_and_call(f"{url}/factors", method="POST", json=[12, 35]),
        ]
    assert [answer.status_code for answer in answers] == [200, 422, 200]
    assert answers[2].json() == {"12": [2, 2, 3], "35": [5, 7]}
    return [answer.charged for answer in answers]


def check_reports(running: Running, gateway: str, shell: Shell) -> None:
    """The real receiver has the payments, and packets that add up to them."""

    def packets() -> list[dict[str, Any]]:
        query = "SELECT data FROM telemetry_events WHERE source = %s AND type = %s ORDER BY event_time"
        return [row[0] for row in running.rows(query, f"gateway:{gateway}", "com.machpay.gateway.telemetry")]

    def revenue() -> int:
        return sum(packet["business"]["total_revenue"] for packet in packets())

    def served() -> list[int]:
        """How often the packets say that each route answered 200."""
        routes = [packet["business"]["routes"] for packet in packets()]
        return [
            sum(each.get(path, {}).get("200", 0) for each in routes)
            for path in ("/primes/*", "/factors", "/status")
        ]

    # A packet tells one period, and the free call may fall into another than the last charge.
    wait_until(lambda: revenue() == 4_500, "the packets tell every charge")
    wait_until(lambda: served() == [2, 1, 1], "the packets tell every call")
    configurations = [packet["config"] for packet in packets() if "config" in packet]
    assert [each["price_per_unit"] for each in configurations] == [1_000]
    assert configurations[0]["accepted_mint"] == running.demo["mint"]
    wait_until(
        lambda: running.value("SELECT count(*) FROM payment_authorized WHERE gateway = %s", gateway) >= 3,
        "the receiver has the payments",
    )
    wait_until(
        lambda: shell.output(1).count("is well") == 2, "the gateway found the relayer and the receiver well"
    )


def check_files(running: Running, gateway: str, shell: Shell) -> None:
    """Exported payments are known to the relayer already, whichever way they come back."""
    config = "--config shop/gateway.toml"
    exported = json.loads(shell.run(f"machpay-gateway export {config} --output all.jsonl --json").stdout)
    assert (exported["charged_atomic"], exported["open"]) == (4_500, 0)
    before = running.stored_digests(gateway), running.charged(gateway)
    imported = json.loads(shell.run(f"machpay-gateway import {config} --file all.jsonl --json").stdout)
    assert (imported["known"], imported["imported"], imported["rejected"]) == (exported["written"], 0, 0)
    assert (running.stored_digests(gateway), running.charged(gateway)) == before
    survey = subprocess.run(
        [
            sys.executable,
            "manage.py",
            "import_settlements",
            "--dry-run",
            "--file",
            shell.folder / "all.jsonl",
        ],
        cwd=ROOT,
        env=running.network.child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"- {exported['written']} already processed" in survey.stdout


def test_a_registration_that_stops_half_way_is_finished_by_the_command_it_prints(
    running: Running, shell: Shell
) -> None:
    _, init, register, *_ = readme_commands()
    shell.run(init)
    config = shell.folder / "shop" / "gateway.toml"
    whole = config.read_text()
    tables = tomllib.loads(whole)
    tables["network"]["relayer_url"] = "http://127.0.0.1:1"
    config.write_text(to_toml(tables))
    gateway = SigningKey.load(shell.folder / "shop" / "gateway-key.json").pubkey

    def on_chain() -> bool:
        return asyncio.run(_registered(running, gateway))

    dry = json.loads(shell.run(f"{register} --dry-run --json").stdout)
    assert (dry["vendor_was"], dry["gateways_were"], dry["transactions"]) == (
        "missing",
        {gateway: "missing"},
        [],
    )
    poor = shell.run(register.removesuffix(" --airdrop"), code=3)
    assert "has 0 lamports" in poor.stderr
    assert shell.run(register.split(" --vendor-keypair")[0], code=2).stdout == ""
    assert not on_chain()

    half = shell.run(f"{register} --wait 0", code=4)
    finish = half.stderr.strip().splitlines()[-1].strip()
    assert finish == "machpay-gateway register --config shop/gateway.toml --relayer-only"
    assert on_chain()
    up = "SELECT 1 FROM payments_gateway WHERE pubkey = %s AND status = 'UP'"
    assert running.rows(up, gateway) == []

    config.write_text(whole)
    shell.run(finish)
    assert running.rows(up, gateway) == [(1,)]

    # Somebody else's vendor cannot take the key over, and no key is registered twice.
    tables = tomllib.loads(whole)
    tables["gateway"]["vendor"] = running.demo["gateways"][0]["vendor"]
    config.write_text(to_toml(tables))
    taken = shell.run("machpay-gateway register --config shop/gateway.toml", code=3)
    assert f"gateway {gateway} serves vendor" in taken.stderr


def test_a_relayers_address_is_enough_to_know_the_network(running: Running) -> None:
    demo = running.demo
    wanted = Wanted(
        rpc_url=demo["rpc_url"], relayer_url=demo["relayer_url"], receiver_url=demo["receiver_url"]
    )
    found = asyncio.run(find_network(wanted, offline=False))
    assert (found.network, found.notes) == (running.network.network, ())


async def _registered(running: Running, gateway: str) -> bool:
    async with ChainClient(running.network.url("chain"), running.network.network) as chain:
        return await chain.gateway(Pubkey.from_string(gateway)) is not None
