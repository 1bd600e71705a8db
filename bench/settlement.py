"""From delivered intents to paid vendors: 100 agents at 20 gateways; relayer, PostgreSQL, program and chain are real.

    .venv/bin/python bench/settlement.py [--quick] [--runs 5]

Each run delivers 100,000 intents over HTTP (every signature verified, answered after commit) and settles the 2,000
channels until every intent is SETTLED in the database. The first run creates the channels; the others find them. The
same again with 2 million old intents in the table shows what history costs. Medians, with the lowest and highest. CPU
is that of relayer, worker, PostgreSQL, Redis and chain together, without the clients': it hardly depends on what else
the machine does.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx
import msgspec
from solders.hash import Hash
from solders.keypair import Keypair
from solders.pubkey import Pubkey

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from devnet.chain import bootstrap_chain  # noqa: E402
from devnet.keys import KeyStore  # noqa: E402
from devnet.network import PROGRAM  # noqa: E402
from devnet.processes import ManagedProcess  # noqa: E402
from devnet.services import Services  # noqa: E402
from devnet.services.ports import free_port  # noqa: E402
from machpay.chain import instructions, tokens  # noqa: E402
from machpay.chain.client import ChainClient  # noqa: E402
from machpay.chain.network import Network  # noqa: E402
from machpay.protocol.intents import PaymentIntent  # noqa: E402
from machpay.protocol.keys import SigningKey  # noqa: E402
from machpay.protocol.nonces import new_nonce, nonce_unix_ms  # noqa: E402
from machpay.protocol.receipts import Receipt  # noqa: E402
from machpay.protocol.settlements import ResolvedPayment, to_item  # noqa: E402
from machpay.protocol.signed_requests import sign_request  # noqa: E402

if TYPE_CHECKING:
    from apps.settlement.chain import ChainSession

T = TypeVar("T")
BATCH_ITEMS = 1_000
POSTS_AT_ONCE = 6
PRICE = 1_000
BOND = 10**12
SLOT_MS, FINALIZED_LAG = 200, 4
LAMPORTS_PER_SOL = 10**9


@dataclass(frozen=True, slots=True)
class Size:
    """How much one run is."""

    agents: int
    gateways: int
    per_channel: int
    history: int

    @property
    def channels(self) -> int:
        return self.agents * self.gateways

    @property
    def intents(self) -> int:
        return self.channels * self.per_channel


FULL = Size(agents=100, gateways=20, per_channel=50, history=2_000_000)
QUICK = Size(agents=20, gateways=5, per_channel=20, history=50_000)


@dataclass(slots=True)
class Measured:
    """What one run took, by the clock and of all processors. `lamports` is what the relayer's key paid."""

    intake_s: float
    intake_cpu_s: float
    settle_s: float
    settle_cpu_s: float
    transactions: int
    channels: int
    lamports: int


@dataclass(slots=True)
class Parties:
    """Keys, and the totals of every channel as its client and gateway keep them."""

    network: Network
    agents: list[SigningKey]
    gateways: list[SigningKey]
    vendors: list[SigningKey]
    totals: dict[tuple[int, int], int] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2,000 intents, two runs: does it work")
    parser.add_argument("--runs", type=int, default=None, help="runs each way (5)")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    runs = options.runs or (2 if options.quick else 5)
    folder = ROOT / "var" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    data = Path(tempfile.mkdtemp(prefix="settlement-", dir=folder))
    data.chmod(0o755)
    with Bench(data, size) as bench:
        first = bench.run("channels are created")
        young = [bench.run("afterwards") for _ in range(runs)]
        bench.add_history()
        old = [bench.run("with history") for _ in range(runs)]
        cosigned = bench.run("co-signed", cosign=True)
        bench.prove()
        show(size, first, young, old, cosigned, bench)


class Bench:
    """The running network: a context manager that leaves nothing behind."""

    def __init__(self, data: Path, size: Size) -> None:
        self.size = size
        self.data = data
        self.keys = KeyStore(data / "keys")
        self.services = Services(data / "services", profile="demo")
        self.processes: list[ManagedProcess] = []
        self.signers = ProcessPoolExecutor(2)
        self.anchors_s: list[float] = []
        self.proofs_ms: list[float] = []

    def __enter__(self) -> "Bench":
        self.services.start()
        self.chain_url = self._start_chain()
        self._prepare_chain()
        environment = self._environment()
        os.environ.update(environment)
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        self._start_relayer(environment)
        self._recon(self._sync)
        return self

    def __exit__(self, *_error: object) -> None:
        self.signers.shutdown()
        for process in reversed(self.processes):
            process.stop()
        self.services.erase()
        shutil.rmtree(self.data, ignore_errors=True)

    # ---- what is measured

    def run(self, name: str, *, cosign: bool = False) -> Measured:
        """Deliver, settle, and check that everything is settled exactly."""
        from apps.payments.models import Settlement

        bodies = self._bodies()
        began, cpu_before = time.perf_counter(), servers_cpu()
        asyncio.run(self._deliver(bodies))
        intake_s, intake_cpu_s = time.perf_counter() - began, servers_cpu() - cpu_before
        del bodies
        rows = Settlement.objects.exclude(kind="ANCHOR").order_by("id")
        before = rows.count()
        paid_before = self._relayer_lamports()
        began, cpu_before = time.perf_counter(), servers_cpu() + time.process_time()
        self._recon(self._settle_cosigned if cosign else self._settle)
        settle_s, settle_cpu_s = time.perf_counter() - began, servers_cpu() + time.process_time() - cpu_before
        self._check()
        new = list(rows[before:])
        run = Measured(
            intake_s,
            intake_cpu_s,
            settle_s,
            settle_cpu_s,
            transactions=len(new),
            channels=sum(row.channel_count for row in new),
            lamports=paid_before - self._relayer_lamports(),
        )
        say(name, run)
        self.anchor()
        return run

    def add_history(self) -> None:
        """Old settled intents, as SQL: what they hold does not matter, how many there are does."""
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE payment_intents DISABLE TRIGGER USER")
            cursor.execute(_HISTORY, [self.size.history])
            cursor.execute("ALTER TABLE payment_intents ENABLE TRIGGER USER")
            cursor.execute("VACUUM ANALYZE payment_intents")

    def anchor(self) -> None:
        """Commit what this run stored as one batch: beside settling, as beat does it."""
        from apps.payments.models import Batch
        from apps.settlement.services.anchor import commit_batch

        began = time.perf_counter()
        self._recon(commit_batch)
        self.anchors_s.append(time.perf_counter() - began)
        while Batch.objects.filter(state="CUT").exists():
            self._recon(self._follow)
            self._recon(commit_batch)
            time.sleep(SLOT_MS / 1000)

    def prove(self) -> None:
        """Proofs of payments all over the last batch."""
        from apps.payments.models import Batch
        from apps.payments.selectors.proofs import proof_of

        batch = Batch.objects.latest("sequence")
        for at in range(20):
            digest = bytes(batch.leaves.get(index=batch.leaf_count * at // 20).digest)
            began = time.perf_counter()
            proof_of(digest, network=self.parties.network)
            self.proofs_ms.append((time.perf_counter() - began) * 1000)

    # ---- steps

    def _bodies(self) -> list[tuple[str, bytes]]:
        """Per batch the gateway and the body; signing is the agents' and gateways' work and is not measured."""
        parties, size = self.parties, self.size
        work = []
        for number, gateway in enumerate(parties.gateways):
            totals = [parties.totals.get((agent, number), 0) for agent in range(size.agents)]
            secrets = [agent.keypair().secret() for agent in parties.agents]
            work.append(
                (
                    parties.network,
                    secrets,
                    gateway.keypair().secret(),
                    parties.vendors[number].public,
                    totals,
                    size.per_channel,
                )
            )
            for agent in range(size.agents):
                parties.totals[agent, number] = totals[agent] + size.per_channel * PRICE
        gateways = [gateway.pubkey for gateway in parties.gateways]
        found = []
        for gateway_key, bodies in zip(gateways, self.signers.map(build_bodies, work), strict=True):
            found += [(gateway_key, body) for body in bodies]
        # As gateways deliver: all at the same time, none far ahead.
        return [
            found[at]
            for start in range(per(found, size))
            for at in range(start, len(found), per(found, size))
        ]

    async def _deliver(self, bodies: Sequence[tuple[str, bytes]]) -> None:
        keys = {gateway.pubkey: gateway for gateway in self.parties.gateways}
        waiting = iter(bodies)
        async with httpx.AsyncClient(base_url=self.relayer_url, timeout=120, trust_env=False) as http:

            async def post() -> None:
                for gateway, body in waiting:
                    headers = sign_request(keys[gateway], "POST", "/settlements", body)
                    answer = await http.post("/settlements", content=body, headers=headers)
                    answer.raise_for_status()
                    counts = answer.json()
                    assert counts["rejected"] == counts["duplicates"] == 0, counts

            await asyncio.gather(*(post() for _ in range(POSTS_AT_ONCE)))

    def _settle(self, chain: "ChainSession") -> None:
        """What worker and beat do, back to back, until nothing is left."""
        from django.db.models import Q

        from apps.payments.models import Channel
        from apps.settlement.services.follow import follow
        from apps.settlement.services.settle import settle
        from apps.settlement.services.sync import sync_chain
        from apps.settlement.services.tables import extend_tables

        tables_wait = True
        while True:
            if tables_wait:
                # Rent for tables is paid once; a quiet network has them before much is due.
                tables_wait = bool(extend_tables(chain)) or _tables_pending()
                time.sleep(SLOT_MS / 1000)
                continue
            settle(chain, everything=True)
            follow(chain)
            sync_chain(chain)
            if not Channel.objects.filter(Q(unsettled_since__isnull=False) | Q(owed_atomic__gt=0)).exists():
                return

    def _settle_cosigned(self, chain: "ChainSession") -> None:
        """As `_settle`, with every agent co-signing what it is asked to."""
        from uuid import UUID

        from django.db.models import Q

        from apps.payments.models import Channel
        from apps.payments.services.aggregations import asked, sign
        from apps.settlement.services.follow import follow
        from apps.settlement.services.settle import settle
        from apps.settlement.services.sync import sync_chain

        network = self.parties.network
        while True:
            for agent in self.parties.agents:
                for proposal in asked(agent.pubkey):
                    aggregate, vouchers = proposal.parse(
                        domain=network.domain, mint=network.mint, agent=agent.public
                    )
                    assert aggregate.covers(vouchers)
                    sign(
                        UUID(proposal.id),
                        agent=agent.pubkey,
                        signature=aggregate.sign(agent),
                        network=network,
                    )
            settle(chain)
            follow(chain)
            sync_chain(chain)
            if not Channel.objects.filter(Q(unsettled_since__isnull=False) | Q(owed_atomic__gt=0)).exists():
                return

    def _sync(self, chain: "ChainSession") -> None:
        from apps.settlement.services.sync import sync_chain

        sync_chain(chain)

    def _follow(self, chain: "ChainSession") -> None:
        from apps.settlement.services.follow import follow

        follow(chain)

    def _recon(self, step: "Callable[[ChainSession], object]") -> None:
        from apps.settlement.chain import connect

        with connect() as chain:
            step(chain)

    def _check(self) -> None:
        from django.db.models import Sum

        from apps.ledger.selectors import trial_balance
        from apps.payments.models import Channel, PaymentIntent

        assert not PaymentIntent.objects.filter(status__in=["PENDING", "PROCESSING"]).exists()
        paid = sum(self.parties.totals.values())
        totals = Channel.objects.aggregate(charged=Sum("charged_total_atomic"), settled=Sum("settled_atomic"))
        assert totals == {"charged": paid, "settled": paid}, (totals, paid)
        assert not [book for book in trial_balance() if book.total_atomic]

    def _relayer_lamports(self) -> int:
        relayer = self.keys.get("relayer").public
        return self._ask(lambda chain: chain.lamports(relayer, "finalized"))

    def _ask(self, question: Callable[[ChainClient], Awaitable[T]]) -> T:
        async def connected() -> T:
            async with ChainClient(self.chain_url, self.network) as chain:
                return await question(chain)

        return asyncio.run(connected())

    # ---- the network

    def _start_chain(self) -> str:
        state = self.data / "chain"
        endpoint = state / "endpoint.json"

        def health() -> str | None:
            return (
                msgspec.json.decode(endpoint.read_bytes())["rpc_url"] + "/health"
                if endpoint.exists()
                else None
            )

        command = [
            *(sys.executable, "-m", "contracts.localnet", "--port", "0", "--state", str(state)),
            *("--program", str(PROGRAM), "--program-keypair", str(self.keys.path("program"))),
            *("--upgrade-authority", self.keys.get("admin").pubkey),
            *("--slot-ms", str(SLOT_MS), "--finalized-lag", str(FINALIZED_LAG)),
        ]
        self._start("chain", command, dict(os.environ), health)
        told = msgspec.json.decode(endpoint.read_bytes())
        program, mint = self.keys.get("program").public, self.keys.get("mint").public
        self.network = Network(program, mint, Hash.from_string(told["genesis_hash"]))
        return str(told["rpc_url"])

    def _start_relayer(self, environment: dict[str, str]) -> None:
        port = free_port()
        self.relayer_url = f"http://127.0.0.1:{port}"
        command = [
            *(sys.executable, "-m", "uvicorn", "apps.payments.relayer.asgi:app", "--port", str(port)),
            *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
        ]
        self._start("relayer", command, {**os.environ, **environment}, self.relayer_url + "/health")

    def _start(
        self, name: str, command: list[str], env: dict[str, str], health: str | Callable[[], str | None]
    ) -> None:
        process = ManagedProcess(
            name, command, env=env, log_dir=self.data / "log", health_url=health, cwd=ROOT
        )
        self.processes.append(process)
        process.start()
        process.wait_healthy()

    def _environment(self) -> dict[str, str]:
        return {
            **self.services.environment,
            "MACHPAY_PROFILE": "demo",
            "DJANGO_SETTINGS_MODULE": "machpay_site.settings",
            "SOLANA_RPC_URL": self.chain_url,
            "MACHPAY_PROGRAM_ID": str(self.network.program_id),
            "USDC_MINT": str(self.network.mint),
            "RELAYER_KEYPAIR": str(self.keys.path("relayer")),
            "SETTLE_MINIMUM_ATOMIC": "1",
            "SETTLE_CREATE_MINIMUM_ATOMIC": "1",
            "AGGREGATION_LIFE_S": "600",
            "BATCH_INTERVAL_S": "0",
            "BATCH_LEAVES_MAX": "10000000",
            "LOG_LEVEL": "ERROR",
            "PYTHONPATH": str(ROOT),
        }

    def _prepare_chain(self) -> None:
        """Agents with bonds, and a vendor of its own for every gateway."""
        names = [f"agent-{number}" for number in range(self.size.agents)]
        for start in range(0, len(names), 20):
            bootstrap_chain(
                rpc_url=self.chain_url,
                network=self.network,
                keys=self.keys,
                agents=names[start : start + 20],
                bond_atomic=BOND,
            )
        pairs = [(f"bench-vendor-{n}", f"bench-gateway-{n}") for n in range(self.size.gateways)]
        admin = self.keys.get("admin").keypair()

        async def register(chain: ChainClient) -> None:
            await chain.airdrop(self.keys.get("relayer").public, 10_000 * LAMPORTS_PER_SOL)
            for vendor, gateway in pairs:
                await _register(chain, self.network, self.keys.get(vendor), self.keys.get(gateway), admin)

        self._ask(register)
        self.parties = Parties(
            self.network,
            [self.keys.get(name) for name in names],
            [self.keys.get(gateway) for _, gateway in pairs],
            [self.keys.get(vendor) for vendor, _ in pairs],
        )


async def _register(
    chain: ChainClient, network: Network, vendor: SigningKey, gateway: SigningKey, admin: Keypair
) -> None:
    payout = tokens.associated_token_address(vendor.public, network.mint)
    steps = [
        tokens.create_ata_idempotent(payer=admin.pubkey(), owner=vendor.public, mint=network.mint),
        instructions.register_vendor(
            network, authority=vendor.public, payout=payout, price=PRICE, payer=admin.pubkey()
        ),
        instructions.register_gateway(
            network, gateway=gateway.public, authority=vendor.public, payer=admin.pubkey()
        ),
    ]
    await chain.send_and_confirm(steps, admin, [vendor.keypair(), gateway.keypair()])


def servers_cpu() -> float:
    """Seconds of processor time that the processes below this one have used so far, those that ended included."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = sum(int(ticks) for ticks in fields[11:15])
    total = 0
    for process, ticks in used.items():
        above = parents.get(process)
        while above is not None and above != os.getpid():
            above = parents.get(above)
        total += ticks if above is not None else 0
    return total / os.sysconf("SC_CLK_TCK")


def _tables_pending() -> bool:
    from apps.payments.selectors.lookup_tables import pending_tables

    return bool(pending_tables())


def per(bodies: Sequence[object], size: Size) -> int:
    """How many batches one gateway delivers."""
    return max(1, len(bodies) // size.gateways)


def build_bodies(
    work: tuple[Network, list[bytes], bytes, Pubkey, list[int], int],
) -> list[bytes]:
    """The bodies that one gateway posts: `count` payments of every agent, signed by agent and gateway."""
    network, secrets, gateway_seed, vendor, totals, count = work
    gateway = SigningKey(gateway_seed)
    items = []
    for secret, before in zip(secrets, totals, strict=True):
        items += list(_payments(network, SigningKey(secret), gateway, vendor, before, count))
    return [
        msgspec.json.encode({"gateway_id": gateway.pubkey, "batch": items[at : at + BATCH_ITEMS]})
        for at in range(0, len(items), BATCH_ITEMS)
    ]


def _payments(
    network: Network, agent: SigningKey, gateway: SigningKey, vendor: Pubkey, before: int, count: int
) -> Iterator[object]:
    channel = network.channel(agent.public, gateway.public)
    total = before
    for number in range(count):
        total += PRICE
        nonce = new_nonce()
        deadline = nonce_unix_ms(nonce) // 1000 + 60
        intent = PaymentIntent(channel, total, nonce, PRICE, deadline, bytes(32))
        receipt = Receipt(intent.digest, 200, PRICE, total, int(time.time()))
        payment = ResolvedPayment(
            agent=agent.public,
            gateway=gateway.public,
            vendor=vendor,
            intent=intent,
            signature=intent.sign(agent),
            charged=PRICE,
            http_status=200,
            served_total=total,
            served_at=receipt.time,
            receipt=receipt.sign(gateway),
            seq=before // PRICE + number + 1,
        )
        yield to_item(payment)


_HISTORY = """
INSERT INTO payment_intents (
    nonce_time, agent, nonce, channel, gateway, vendor, digest, amount_atomic, charged_atomic, charged_through_atomic,
    cumulative_atomic, deadline, request_hash, signature, status, http_status, gateway_seq, settled_at
)
SELECT now() - interval '20 days' + n * interval '1 millisecond', c.agent, gen_random_uuid(), c.address, c.gateway,
    c.vendor, sha256(n::text::bytea), 1, 1, 1, 1, 0, sha256('x'), sha256('y') || sha256('z'), 'SETTLED', 200, n, now()
FROM generate_series(1, %s) n
JOIN (SELECT row_number() OVER (ORDER BY address) - 1 AS place, * FROM payments_channel) c
    ON c.place = n %% (SELECT count(*) FROM payments_channel)
"""


# ---- what it prints


def say(name: str, run: Measured) -> None:
    print(
        f"{name}: intake {run.intake_s:.1f} s (CPU {run.intake_cpu_s:.1f} s), settled {run.settle_s:.1f} s"
        f" (CPU {run.settle_cpu_s:.1f} s),"
        f" {run.transactions} transactions, {run.lamports:,} lamports",
        flush=True,
    )


def show(
    size: Size, first: Measured, young: list[Measured], old: list[Measured], cosigned: Measured, bench: Bench
) -> None:
    """The tables of docs/performance.md."""

    def row(name: str, values: Sequence[float], unit: str, digits: int = 0) -> None:
        median, low, high = statistics.median(values), min(values), max(values)
        print(f"| {name} | {median:,.{digits}f} {unit} | {low:,.{digits}f} - {high:,.{digits}f} |")

    intake = [[size.intents / run.intake_s for run in runs] for runs in (young, old)]
    settled = [[size.channels / run.settle_s * 60 for run in runs] for runs in (young, old)]
    print(f"\n{size.intents:,} intents, {size.channels:,} channels, {len(young)} runs each way\n")
    print("| | median | lowest - highest |\n| --- | --- | --- |")
    row("intake, every signature verified", intake[0], "intents/s")
    row(f"intake with {size.history:,} old intents", intake[1], "intents/s")
    row("settled until every intent is SETTLED", settled[0], "channels/min")
    row(f"settled with {size.history:,} old intents", settled[1], "channels/min")
    for what, of in (("intake", "intake_cpu_s"), ("settling", "settle_cpu_s")):
        cpu = [[getattr(run, of) for run in runs] for runs in (young, old)]
        row(f"CPU of {what}", cpu[0], "s", 1)
        row(f"CPU of {what} with old intents", cpu[1], "s", 1)
        ratio = statistics.median(cpu[1]) / statistics.median(cpu[0])
        print(f"| CPU with old intents over CPU without, {what} | {ratio:.2f} | |")
    print(
        "\n| settling | transactions | channels each | lamports per 1,000 payments |\n| --- | --- | --- | --- |"
    )
    for name, run in (
        ("the first time, with the rent of channels and tables", first),
        ("afterwards", young[-1]),
        ("co-signed by the agents", cosigned),
    ):
        each = size.channels / run.transactions
        per_thousand = run.lamports * 1_000 // size.intents
        print(f"| {name} | {run.transactions:,} | {each:.1f} | {per_thousand:,} |")
    anchor_s, proof_ms = statistics.median(bench.anchors_s), statistics.median(bench.proofs_ms)
    print(
        f"\nA batch of {size.intents:,} payments is cut, stored and sent in {anchor_s:.1f} s;"
        f" one proof takes {proof_ms:.1f} ms."
    )


if __name__ == "__main__":
    main()
