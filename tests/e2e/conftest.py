"""The whole network as processes, once for all tests of this folder, on servers and a chain of its own."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from solders.pubkey import Pubkey

from devnet.manifest import Manifest, describe
from devnet.network import ROOT, LocalNetwork, Options
from machpay.chain import tokens
from machpay.chain.client import ChainClient
from machpay.chain.network import Network
from machpay.chain.transactions import Commitment


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 300.0) -> None:
    """Poll until true; the failure names what never came."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"after {timeout_s:.0f} s still not: {what}")
        time.sleep(0.1)


@dataclass
class Money:
    """Every ledger balance and every channel total; equal before and after means that nothing moved."""

    accounts: dict[tuple[str, str, str], int]
    channels: dict[str, tuple[int, int]]


class Running:
    """A started network and the ways the tests look at it."""

    def __init__(self, network: LocalNetwork) -> None:
        self.network = network
        self.manifest_path = network.data_dir / "demo.json"
        self.demo: dict[str, Any] = describe(network)
        self._database = psycopg.connect(network.services.database_url, autocommit=True)

    def close(self) -> None:
        self._database.close()

    def _chain(self) -> Network:
        assert self.network.network is not None
        return self.network.network

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self._database.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def value(self, query: str, *parameters: object) -> Any:
        return self.rows(query, *parameters)[0][0]

    def money(self) -> Money:
        accounts = self.rows("SELECT kind, owner, sub, balance_atomic::bigint FROM ledger_account")
        channels = self.rows(
            "SELECT address, charged_total_atomic::bigint, settled_atomic::bigint FROM payments_channel"
        )
        return Money({(k, o, s): b for k, o, s, b in accounts}, {a: (c, s) for a, c, s in channels})

    def trial_balance(self) -> int:
        return int(self.value("SELECT coalesce(sum(balance_atomic), 0)::bigint FROM ledger_account"))

    def total(self, kind: str, owner: str | None = None) -> int:
        """The sum of all ledger accounts of one kind, or of one owner's."""
        query = "SELECT coalesce(sum(balance_atomic), 0)::bigint FROM ledger_account WHERE kind = %s"
        if owner is None:
            return int(self.value(query, kind))
        return int(self.value(query + " AND owner = %s", kind, owner))

    def unsettled(self) -> int:
        return self.total("unsettled")

    def charged(self, gateway: str) -> int:
        query = (
            "SELECT coalesce(sum(charged_total_atomic), 0)::bigint FROM payments_channel WHERE gateway = %s"
        )
        return int(self.value(query, gateway))

    def charged_by(self, agent: str, gateway: str) -> int:
        """What the relayer has stored as charged to one agent by one gateway."""
        return self.charged_on(str(self._chain().channel(*map(Pubkey.from_string, (agent, gateway)))))

    def charged_on(self, channel: str) -> int:
        """What the relayer has stored as charged on one channel, by its address."""
        rows = self.rows(
            "SELECT charged_total_atomic::bigint FROM payments_channel WHERE address = %s", channel
        )
        return int(rows[0][0]) if rows else 0

    def stored_digests(self, gateway: str) -> dict[str, int]:
        """digest -> charged of every stored charged payment; fails on a digest stored twice."""
        rows = self.rows(
            "SELECT encode(digest, 'hex'), charged_atomic::bigint FROM payment_intents "
            "WHERE gateway = %s AND charged_atomic > 0",
            gateway,
        )
        digests = dict(rows)
        assert len(digests) == len(rows)
        return digests

    def settle_everything(self) -> None:
        """Return when the network is at rest: no payment of the demo's gateways is on its way, everything charged is
        settled and paid out, and the ledger has every bond that the vault holds."""
        wait_until(
            lambda: (
                self.network.delivered()
                and self.unsettled() == self.total("owed") == 0
                and self.vault() == self.total("bond") + self.total("forfeited")
            ),
            "everything charged is settled and paid out, and every bond is in the ledger",
        )

    def vault(self) -> int:
        """Atomic units that the program holds, of confirmed transactions: what the ledger will have."""
        return self._held(self._chain().vault(), "confirmed")

    def vendor_balance(self, vendor: str) -> int:
        wallet = tokens.associated_token_address(Pubkey.from_string(vendor), self._chain().mint)
        return self._held(wallet, "finalized")

    def _held(self, wallet: Pubkey, commitment: Commitment) -> int:
        async def ask() -> int:
            async with ChainClient(self.network.url("chain"), self._chain()) as chain:
                return await chain.token_balance(wallet, commitment)

        # In a thread of its own: asynchronous tests have a loop running here.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, ask()).result()

    def start_payer(self, *arguments: str) -> "subprocess.Popen[str]":
        """Started now, ended by `finish`."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.payer", "--manifest", str(self.manifest_path), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def finish(payer: "subprocess.Popen[str]", timeout_s: float = 240.0) -> dict[str, Any]:
    """What a payer printed; its standard error when it failed."""
    try:
        out, err = payer.communicate(timeout=timeout_s)
    finally:
        payer.kill()
        payer.wait()
    assert payer.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The network, at rest: every agent's bond is in the ledger."""
    folder: Path = tmp_path_factory.mktemp("network")
    environ = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    # A relayer that is killed may take long to be back where machines are busy, and gateways serve that long only.
    environ["LEASE_LIFE_S"] = "300"
    options = Options(
        data_dir=folder,
        services_profile="test",
        agents=5,
        bond_atomic=100_000_000,
        settle_interval_s=1.0,
        batch_interval_s=1.0,
        slot_ms=100,
        finalized_lag=3,
        # A busy machine must not turn a first payment into a 503.
        lookup_timeout_ms=10_000,
        prefer_default_ports=False,
    )
    network = LocalNetwork(options, environ=environ)
    try:
        network.start()
        Manifest(folder).write(network)
        running = Running(network)
        wait_until(
            lambda: running.total("bond") == options.agents * options.bond_atomic,
            "the ledger has every agent's bond",
        )
        running.settle_everything()
        yield running
        running.close()
    finally:
        network.stop()
