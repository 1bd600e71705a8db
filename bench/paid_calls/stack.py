"""The processes of the bench and the core each runs on.

One core belongs to the gateway, or to the peer in its turn. Everything else is on the other cores: upstream and load
as they are, and with a lower priority what a vendor does not run: the local chain, relayer and receiver. These, their
PostgreSQL and Valkey are the real ones; every payment of the bench is delivered and stored.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from solders.hash import Hash
from solders.pubkey import Pubkey

from devnet.chain import bootstrap_chain
from devnet.keys import KeyStore
from devnet.network import PROGRAM, ROOT
from devnet.offers import LEXICON, Offer
from devnet.processes import ManagedProcess, ProcessFailed
from devnet.services import Services
from devnet.services.ports import free_port
from machpay.chain.network import Network
from machpay.protocol.keys import SigningKey

PRICE = 100
AGENTS = 32
BOND_ATOMIC = 1_000_000_000
# The packages of this tree, wherever the virtual environment has others from.
_SOURCES = os.pathsep.join(str(ROOT / part) for part in (".", "sdk", "gateway"))
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """`gateway` is one core, `others` the rest (the same one on a machine with a single core)."""

    gateway: int
    others: frozenset[int]

    @classmethod
    def choose(cls) -> "Cores":
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], frozenset(usable[1:] or usable))


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, all of its threads and the kernel's work for it included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@dataclass(frozen=True, slots=True)
class Measured:
    """A server under measurement, and the processes it consists of."""

    url: str
    pids: tuple[int, ...]

    @property
    def cpu_s(self) -> float:
        """CPU seconds that it has used."""
        return sum(map(cpu_s, self.pids))


class Stack:
    """Use as a context manager; inside, `gateway()` and `peer()` start what is measured."""

    def __init__(self, folder: Path) -> None:
        self.cores = Cores.choose()
        self.folder = folder
        self.keys = KeyStore(folder / "keys")
        self.agents = [self.keys.get(f"agent-{number}") for number in range(AGENTS)]
        self.network: Network
        self.rpc_url = ""
        self.relayer_url = ""
        self.receiver_url = ""
        self.upstream_url = ""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Stack":
        # What is started from here inherits it; the gateway is given its own core.
        os.sched_setaffinity(0, self.cores.others)
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        services = self._stack.enter_context(Services(self.folder / "services", environ={}))
        state = self.folder / "chain"
        self.rpc_url = self._http(
            "chain",
            lambda port: [
                *("-m", "contracts.localnet", "--port", str(port), "--state", str(state)),
                *("--program", str(PROGRAM), "--program-keypair", str(self.keys.path("program"))),
                *("--upgrade-authority", self.keys.get("admin").pubkey, "--slot-ms", "200"),
            ],
        )
        told = json.loads((state / "endpoint.json").read_text())
        self.network = Network(
            self.keys.get("program").public,
            self.keys.get("mint").public,
            Hash.from_string(told["genesis_hash"]),
        )
        bootstrap_chain(
            rpc_url=self.rpc_url,
            network=self.network,
            keys=self.keys,
            agents=[f"agent-{number}" for number in range(AGENTS)],
            bond_atomic=BOND_ATOMIC,
        )
        environment = {
            **services.environment,
            "MACHPAY_PROFILE": "demo",
            "SOLANA_RPC_URL": self.rpc_url,
            "MACHPAY_PROGRAM_ID": str(self.network.program_id),
            "USDC_MINT": str(self.network.mint),
            "LOG_LEVEL": "WARNING",
        }
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--no-input", "--verbosity", "0"],
            env={**os.environ, **environment},
            cwd=ROOT,
            check=True,
        )
        self.relayer_url = self._uvicorn("relayer", "apps.payments.relayer.asgi:app", environment)
        self.receiver_url = self._uvicorn("receiver", "apps.telemetry.receiver.asgi:app", environment)
        port = free_port()
        self._run("upstream", [sys.executable, "-m", "bench.paid_calls.upstream", str(port)])
        self.upstream_url = f"http://127.0.0.1:{port}"

    def key_of(self, offer: Offer) -> SigningKey:
        return self.keys.get(offer.gateway)

    def vendor_of(self, offer: Offer) -> Pubkey:
        return self.keys.get(f"vendor-{offer.vendor}").public

    # --- What is measured -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def gateway(self, offer: Offer = LEXICON, *, workers: int = 1) -> Iterator[Measured]:
        """A fresh gateway, its log on the disk. One process has its own core; several have as many cores as they are,
        beginning with it."""
        folder = Path(tempfile.mkdtemp(prefix="gateway-", dir=self.folder))
        config = folder / "gateway.toml"
        config.write_text(self._configuration(offer, folder))
        gateway = [sys.executable, "-m", "machpay_gateway"]
        if workers > 1:
            self._register(offer, gateway, config, workers)
        command = [*gateway, "run", "--config", str(config), "--port", "0", "--workers", str(workers)]
        endpoint = folder / "data" / "endpoint.json"
        cores = [self.cores.gateway, *sorted(self.cores.others - {self.cores.gateway})][:workers]
        with self._pinned(folder.name, command, cores) as process:
            deadline = time.monotonic() + 60
            while not endpoint.exists():
                process.check()
                if time.monotonic() > deadline:
                    raise SystemExit(f"the gateway did not start\n{process.log_tail()}")
                time.sleep(0.05)
            told = json.loads(endpoint.read_text())
            states = [endpoint.parent / f"worker-{number}" / "worker.json" for number in range(1, workers)]
            states.append(endpoint.parent / ("endpoint.json" if workers == 1 else "worker.json"))
            yield Measured(told["url"], tuple(json.loads(state.read_text())["pid"] for state in states))

    @contextlib.contextmanager
    def peer(self) -> Iterator[Measured]:
        """The stock middleware on the gateway's core."""
        port = free_port()
        with self._pinned("peer", [sys.executable, "-m", "bench.paid_calls.peer", str(port)]) as process:
            url = f"http://127.0.0.1:{port}"
            _wait(process, f"{url}/health")
            assert process.pid is not None
            yield Measured(url, (process.pid,))

    def delivered(self, measured: Measured, timeout_s: float = 120.0) -> None:
        """Wait until the relayer and the receiver have everything that a gateway served."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            told = httpx.get(f"{measured.url}/health", trust_env=False, timeout=30).json()
            parts = [worker["components"] for worker in told.get("workers", [told])]
            if not any(part["delivery"]["undelivered"] or part["receiver"]["queued"] for part in parts):
                return
            time.sleep(0.5)
        raise SystemExit("the relayer did not take the payments in time")

    def _register(self, offer: Offer, gateway: list[str], config: Path, workers: int) -> None:
        """Make the identities of all processes known, as a vendor does."""
        vendor, payer = self.keys.path(f"vendor-{offer.vendor}"), self.keys.path("admin")
        subprocess.run(
            [
                *(*gateway, "register", "--config", str(config), "--workers", str(workers), "--json"),
                *("--vendor-keypair", str(vendor), "--fee-payer", str(payer)),
            ],
            env={**os.environ, "PYTHONPATH": _SOURCES},
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def _configuration(self, offer: Offer, folder: Path) -> str:
        return f"""
[gateway]
keypair_file = "{self.keys.path(offer.gateway)}"
vendor = "{self.vendor_of(offer)}"
data_dir = "{folder / "data"}"
max_timeout_s = 570

[network]
rpc_url = "{self.rpc_url}"
program_id = "{self.network.program_id}"
mint = "{self.network.mint}"
domain = "{self.network.domain}"
relayer_url = "{self.relayer_url}"
receiver_url = "{self.receiver_url}"

[upstream]
url = "{self.upstream_url}"
keep_alive_s = 60

[limits]
rate_per_s = 100000
rate_burst = 100000

[solvency]
lookup_timeout_ms = 10000

[[routes]]
path = "/paid"
price_atomic = {PRICE}

[[routes]]
path = "/free"
"""

    # --- Processes --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _pinned(self, name: str, command: list[str], cores: Sequence[int] = ()) -> Iterator[ManagedProcess]:
        listed = ",".join(map(str, cores or [self.cores.gateway]))
        process = self._process(name, ["taskset", "-c", listed, *command])
        process.start()
        try:
            yield process
        finally:
            process.stop(timeout_s=60)

    def _uvicorn(self, name: str, app: str, environment: dict[str, str]) -> str:
        return self._http(
            name,
            lambda port: [
                "-m",
                "uvicorn",
                app,
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--no-access-log",
            ],
            environment,
        )

    def _http(
        self, name: str, arguments: Callable[[int], list[str]], environment: dict[str, str] | None = None
    ) -> str:
        port = free_port()
        command = ["nice", "-n", "10", sys.executable, *arguments(port)]
        process = self._run(name, command, environment)
        url = f"http://127.0.0.1:{port}"
        _wait(process, f"{url}/health")
        return url

    def _run(
        self, name: str, command: list[str], environment: dict[str, str] | None = None
    ) -> ManagedProcess:
        process = self._process(name, command, environment)
        self._stack.callback(process.stop)
        process.start()
        return process

    def _process(
        self, name: str, command: list[str], environment: dict[str, str] | None = None
    ) -> ManagedProcess:
        env = {**os.environ, "PYTHONPATH": _SOURCES, "LOG_LEVEL": "WARNING", **(environment or {})}
        return ManagedProcess(name, command, env=env, log_dir=self.folder / "log", cwd=ROOT)


def _wait(process: ManagedProcess, url: str, timeout_s: float = 60.0) -> None:
    """Return when `url` answers 200. Raises `ProcessFailed`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        process.check()
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=2.0, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise ProcessFailed(f"{process.name} did not start.\n{process.log_tail()}")
