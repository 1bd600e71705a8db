"""The whole network as child processes: what runs, with which environment, in which order.

Used by the demo and by the end-to-end tests. Starting is idempotent over its data folder: the local chain, the
database, the keys and the gateways' logs are found again and reused.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import redis
from solders.hash import Hash

from devnet.chain import bootstrap_chain, host_gateways
from devnet.keys import KeyStore
from devnet.offers import OFFERS, Offer
from devnet.processes import ManagedProcess, ProcessFailed
from devnet.services import Services
from devnet.services.manager import Profile
from devnet.services.ports import reserve_port
from machpay.chain.network import Network

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "contracts" / "artifacts" / "machpay.so"
DEFAULT_PORTS = {"web": 8700, "relayer": 8701, "receiver": 8702, "chain": 8703, "upstream": 8704} | {
    offer.gateway: 8710 + number for number, offer in enumerate(OFFERS)
}


class StartFailed(RuntimeError):
    """The network cannot start; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a local network runs. Ports in `fixed_ports` must be free; the others are preferences."""

    data_dir: Path = ROOT / "var"
    services_profile: Profile = "demo"
    agents: int = 4
    bond_atomic: int = 1_000_000_000
    settle_interval_s: float = 3.0
    chain_poll_interval_s: float = 1.0
    batch_interval_s: float = 10.0
    slot_ms: int = 200
    finalized_lag: int = 4
    lookup_timeout_ms: int = 400
    fixed_ports: dict[str, int] = field(default_factory=dict)
    prefer_default_ports: bool = True


class LocalNetwork:
    """Start with `start()`, stop with `stop()`; in between, processes can be killed and started by name."""

    def __init__(
        self,
        options: Options,
        report: Callable[[str], None] = lambda _step: None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.options = options
        self.data_dir = options.data_dir.resolve()
        self.keys = KeyStore(self.data_dir / "keys")
        self.agent_names = [f"agent-{number + 1}" for number in range(options.agents)]
        self._environ = environ
        self.services = Services(
            self.data_dir / "services", profile=options.services_profile, environ=environ
        )
        self.processes: dict[str, ManagedProcess] = {}
        self._commands: list[subprocess.Popen[bytes]] = []
        self.network: Network | None = None
        self.hosted_gateways: dict[str, str] = {}
        """Vendor -> the gateway that the facilitator hosts for it; filled by `start`."""
        self._report = report
        self._reserved: dict[str, socket.socket] = {}
        self._ports = self._choose_ports()

    # --- Addresses --------------------------------------------------------------------------------------------------

    def url(self, process: str) -> str:
        return f"http://127.0.0.1:{self._ports[process]}"

    def _choose_ports(self) -> dict[str, int]:
        """Ports of this network, kept from others until their process starts: two demos may start side by side."""
        ports = {}
        for name, default in DEFAULT_PORTS.items():
            fixed = self.options.fixed_ports.get(name)
            wanted = fixed or (default if self.options.prefer_default_ports else None)
            self._reserved[name] = reserve_port(wanted)
            ports[name] = int(self._reserved[name].getsockname()[1])
            if wanted and ports[name] != wanted:
                if fixed:
                    raise StartFailed(f"port {fixed} ({name}) is in use by another program")
                self._report(f"port {wanted} ({name}) is in use; using {ports[name]}")
        return ports

    def _launch(self, name: str) -> ManagedProcess:
        """Start the process `name`, freeing its port for it."""
        if reservation := self._reserved.pop(name, None):
            reservation.close()
        process = self.processes[name]
        process.start()
        return process

    # --- Environment ------------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """What every process of the network reads (names as in `.env.example`)."""
        return {
            **self.services.environment,
            "MACHPAY_PROFILE": "demo",
            "SOLANA_RPC_URL": self.url("chain"),
            "MACHPAY_RELAYER_URL": self.url("relayer"),
            "MACHPAY_RECEIVER_URL": self.url("receiver"),
            "MACHPAY_PROGRAM_ID": self.keys.get("program").pubkey,
            "USDC_MINT": self.keys.get("mint").pubkey,
            "ADMIN_KEYPAIR": str(self.keys.path("admin")),
            "RELAYER_KEYPAIR": str(self.keys.path("relayer")),
            "FACILITATOR_KEYPAIR": str(self.keys.path("facilitator")),
            "CUSTODY_KEYPAIR": str(self.keys.path("custody")),
            "MINT_AUTHORITY_KEYPAIR": str(self.keys.path("mint-authority")),
            "SETTLE_INTERVAL_S": str(self.options.settle_interval_s),
            "SETTLE_MINIMUM_ATOMIC": "1",
            "SETTLE_CREATE_MINIMUM_ATOMIC": "1",
            "CHAIN_POLL_INTERVAL_S": str(self.options.chain_poll_interval_s),
            "BATCH_INTERVAL_S": str(self.options.batch_interval_s),
            "BATCH_ARCHIVE_DIR": str(self.data_dir / "batches"),
            "CELERY_BEAT_SCHEDULE_FILENAME": str(self.data_dir / "celerybeat-schedule"),
            "LOG_LEVEL": self._environ.get("LOG_LEVEL", "INFO"),
        }

    def child_environment(self) -> dict[str, str]:
        return {**self._environ, **self.environment(), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    # --- Start and stop ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring everything up. Raises `StartFailed`, `ProcessFailed` or `ServicesError`; call `stop()` in any case."""
        if not PROGRAM.exists():
            raise StartFailed(f"{PROGRAM} is missing: run `make program`")
        self._report("starting PostgreSQL and Valkey")
        self.services.start()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._forget_a_chain_without_its_database()
        self._report("starting the local chain")
        self._start_chain()
        genesis = self._genesis()
        self._forget_another_chain(genesis)
        self.network = Network(
            program_id=self.keys.get("program").public,
            mint=self.keys.get("mint").public,
            domain=Hash.from_string(genesis),
        )
        self._report("creating tables; deploying bonds, vendors, gateways and agents on the chain")
        migration = self._django("migrate", "--no-input", "--verbosity", "0")
        self._add("upstream", self._uvicorn("devnet.upstream:app", "upstream"))
        self._launch("upstream")
        bootstrap_chain(
            rpc_url=self.url("chain"),
            network=self.network,
            keys=self.keys,
            agents=self.agent_names,
            bond_atomic=self.options.bond_atomic,
        )
        self._finish(migration, "migrate")
        operator = self._django(
            "ensure_operator", "--username", "operator", "--password", self.operator_password()
        )
        self._report("starting relayer, receiver, console, worker and beat")
        self._start_network_processes()
        self._finish(operator, "ensure_operator")
        self._report("starting the gateways")
        for offer in OFFERS:
            self.start_gateway(offer)
        self.hosted_gateways = host_gateways(
            rpc_url=self.url("chain"),
            network=self.network,
            keys=self.keys,
            facilitator_url=self.url("relayer") + "/facilitator",
        )
        for offer in OFFERS:
            self.processes[offer.gateway].wait_healthy()
        self._wait_delivered()

    def stop(self) -> None:
        """Stop every process in the reverse of the money's direction, then the servers. Safe to call twice."""
        for reservation in self._reserved.values():
            reservation.close()
        for command in self._commands:
            if command.poll() is None:
                command.kill()
                command.wait()
        # Gateways first, so that they hand what they hold to a relayer that still runs.
        first = [name for name in self.processes if name.startswith("gateway-")]
        rest = [name for name in self.processes if name not in first and name != "chain"]
        for names in (first, rest, ["chain"]):
            group = [self.processes[name] for name in names if name in self.processes]
            for process in group:
                process.terminate()
            for process in group:
                process.wait_stopped()
        self.services.stop()

    def check(self) -> None:
        """Raise `ProcessFailed` if any child has ended by itself."""
        for process in self.processes.values():
            process.check()

    def heal(self) -> None:
        """Start again, and report, what has ended by itself: servers first, since nothing else works without them.
        Raises `ProcessFailed` for a process that ends again and again."""
        if not all(server.get("running", True) for server in self.services.status().values()):
            self._report("PostgreSQL or Valkey ended; starting it again")
            before = self.services.environment
            self.services.start()
            if self.services.environment != before:
                raise ProcessFailed("another program took the port of PostgreSQL or Valkey while it was down")
        for process in self.processes.values():
            if process.revive():
                self._report(f"{process.name} ended; starting it again")

    def delivered(self) -> bool:
        """Whether the gateways have handed over every payment that they completed."""
        with httpx.Client(timeout=60.0, trust_env=False, verify=False) as client:  # noqa: S501  (plain HTTP on this machine)
            reports = [client.get(self.url(offer.gateway) + "/health").json() for offer in OFFERS]
        return not any(report["components"]["delivery"]["undelivered"] for report in reports)

    def _wait_delivered(self, timeout_s: float = 60.0) -> None:
        """What a killed run left in the gateways' logs belongs to that run: it arrives before this one begins."""
        deadline = time.monotonic() + timeout_s
        while not self.delivered():
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"the gateways' payments of an earlier run are not delivered: see {self.data_dir}/log"
                )
            time.sleep(0.05)

    def operator_password(self) -> str:
        """The demo operator's password, drawn once per data folder."""
        path = self.data_dir / "operator-password"
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(os.urandom(9).hex())
        return path.read_text()

    # --- Processes --------------------------------------------------------------------------------------------------

    def _add(self, name: str, command: list[str], health_path: str = "/health") -> ManagedProcess:
        process = ManagedProcess(
            name,
            command,
            env=self.child_environment(),
            log_dir=self.data_dir / "log",
            health_url=self.url(name) + health_path if name in self._ports else None,
            cwd=ROOT,
        )
        self.processes[name] = process
        return process

    def _uvicorn(self, app: str, name: str, *extra: str) -> list[str]:
        return [
            *(sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(self._ports[name])),
            *("--no-access-log", "--timeout-keep-alive", "75", "--timeout-graceful-shutdown", "5"),
            *extra,
        ]

    def _start_chain(self) -> None:
        command = [
            *(
                sys.executable,
                "-m",
                "contracts.localnet",
                "--host",
                "127.0.0.1",
                "--port",
                str(self._ports["chain"]),
            ),
            *("--state", str(self.data_dir / "localnet"), "--program", str(PROGRAM)),
            *("--program-keypair", str(self.keys.path("program"))),
            *("--upgrade-authority", self.keys.get("admin").pubkey),
            *("--slot-ms", str(self.options.slot_ms), "--finalized-lag", str(self.options.finalized_lag)),
        ]
        self._add("chain", command)
        self._launch("chain").wait_healthy()

    def _genesis(self) -> str:
        endpoint = json.loads((self.data_dir / "localnet" / "endpoint.json").read_text())
        return str(endpoint["genesis_hash"])

    def _start_network_processes(self) -> None:
        celery = [sys.executable, "-m", "celery", "-A", "machpay_site", "--quiet"]
        self._add("relayer", self._uvicorn("apps.payments.relayer.asgi:app", "relayer"))
        self._add("receiver", self._uvicorn("apps.telemetry.receiver.asgi:app", "receiver"))
        self._add("web", self._uvicorn("machpay_site.asgi:application", "web"))
        self._add("worker", [*celery, "worker", "--concurrency", "2", "--without-gossip", "--without-mingle"])
        self._add("beat", [*celery, "beat", "--max-interval", "1"])
        for name in ("relayer", "receiver", "web", "worker", "beat"):
            self._launch(name)
        for name in ("relayer", "receiver", "web", "upstream"):
            self.processes[name].wait_healthy()

    def start_gateway(self, offer: Offer) -> None:
        """Write the gateway's configuration and start it; does not wait."""
        folder = self.data_dir / "gateways" / offer.vendor
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "gateway.toml"
        config.write_text(self._gateway_config(offer, folder))
        command = [sys.executable, "-m", "machpay_gateway", "run", "--config", str(config)]
        self._add(offer.gateway, command)
        self._launch(offer.gateway)

    def _gateway_config(self, offer: Offer, folder: Path) -> str:
        assert self.network is not None
        lines = [
            "[gateway]",
            f'keypair_file = "{self.keys.path(offer.gateway)}"',
            f'vendor = "{self.keys.get(f"vendor-{offer.vendor}").pubkey}"',
            'host = "127.0.0.1"',
            f"port = {self._ports[offer.gateway]}",
            f'data_dir = "{folder / "data"}"',
            f'name = "{offer.title}"',
            f'description = "{offer.description}"',
            f"categories = {json.dumps(list(offer.categories))}",
            "",
            "[network]",
            f'rpc_url = "{self.url("chain")}"',
            f'program_id = "{self.network.program_id}"',
            f'mint = "{self.network.mint}"',
            f'domain = "{self.network.domain}"',
            f'relayer_url = "{self.url("relayer")}"',
            f'receiver_url = "{self.url("receiver")}"',
            "",
            "[upstream]",
            f'url = "{self.url("upstream")}"',
            "",
            "[solvency]",
            'mode = "lease"',
            f"lookup_timeout_ms = {self.options.lookup_timeout_ms}",
        ]
        for route in offer.routes:
            lines += [
                "",
                "[[routes]]",
                f'method = "{route.method}"',
                f'path = "{route.path}"',
                f'match = "{route.match}"',
                f"price_atomic = {route.price_atomic}",
                f'description = "{route.description}"',
            ]
        return "\n".join(lines) + "\n"

    def _django(self, *arguments: str) -> "subprocess.Popen[bytes]":
        log_dir = self.data_dir / "log"
        log_dir.mkdir(parents=True, exist_ok=True)
        with (log_dir / f"{arguments[0]}.log").open("wb") as log:
            command = subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                env=self.child_environment(),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._commands.append(command)
        return command

    def _finish(self, command: "subprocess.Popen[bytes]", name: str) -> None:
        try:
            code = command.wait(300)
        except subprocess.TimeoutExpired:
            command.kill()
            code = -1
        if code:
            text = (self.data_dir / "log" / f"{name}.log").read_text(errors="replace")
            raise ProcessFailed(f"manage.py {name} failed with status {code}:\n{text[-3000:]}")

    # --- Another chain ----------------------------------------------------------------------------------------------

    def _forget_a_chain_without_its_database(self) -> None:
        """A chain whose embedded database was lost begins anew too: its old settlements would count as claims."""
        if "DATABASE_URL" in self._environ or not (self.data_dir / "genesis").exists():
            return
        with psycopg.connect(self.services.database_url) as connection:
            row = connection.execute("SELECT to_regclass('payments_network') IS NULL").fetchone()
        if row is not None and row[0]:
            shutil.rmtree(self.data_dir / "localnet", ignore_errors=True)

    def _forget_another_chain(self, genesis: str) -> None:
        """Chain and database belong together: when the chain's state is gone, what was derived from it goes too.

        A database given by DATABASE_URL is never emptied; the relayer refuses to start on it instead.
        """
        marker = self.data_dir / "genesis"
        if marker.exists() and marker.read_text() == genesis:
            return
        if "DATABASE_URL" not in self._environ:
            with psycopg.connect(self.services.database_url, autocommit=True) as connection:
                connection.execute("DROP SCHEMA public CASCADE")
                connection.execute("CREATE SCHEMA public")
        if "REDIS_URL" not in self._environ:
            redis.Redis.from_url(self.services.redis_url).flushall()
        shutil.rmtree(self.data_dir / "gateways", ignore_errors=True)
        shutil.rmtree(self.data_dir / "agents", ignore_errors=True)
        marker.write_text(genesis)
