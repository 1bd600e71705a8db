"""What the ledger does in a second, and what that is of a bare INSERT of the same rows in the same run.

    .venv/bin/python bench/ledger.py

    .venv/bin/python bench/ledger.py --cpu         processor time only, which other work on the machine disturbs less

A PostgreSQL of its own that keeps every commit. Five interleaved runs; medians with the lowest and highest. A single
transfer is a transaction of its own; a batch is 1,000 transfers in one. "Hot" is one custodial account that every
writer pays into. The bare INSERT writes the rows of a batch, transfers and entries with numbers, versions and balances
known beforehand, into tables with the same columns, indexes and column checks, and nothing else: it updates no
balances, takes no locks, looks nothing up and has no guards.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from devnet.services import Services  # noqa: E402

if TYPE_CHECKING:
    from apps.ledger.types import AccountRef, Transfer

RUNS = 5
WRITERS = 8
BATCH = 1_000
SINGLES = 400
BATCHES = 8
USDC = "usdc"
# Each writer pays between accounts of its own; a batch meets each of them a few times, as intake's batches do.
ACCOUNTS = 200

BARE = """
WITH written AS (
    INSERT INTO bare_transfer (id, key, kind, input_hash, entry_count)
    SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bytea[], %s::smallint[])
)
INSERT INTO bare_entry (id, transfer_id, account_id, account_version, amount_atomic, previous_atomic, balance_atomic)
SELECT * FROM
    unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::numeric[], %s::numeric[], %s::numeric[])
"""

Rate = float


def main() -> None:
    folder = ROOT / "var" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    data = Path(tempfile.mkdtemp(prefix="ledger-", dir=folder))
    data.chmod(0o755)
    services = Services(data, profile="demo")
    services.start()
    try:
        os.environ.update(services.environment)
        os.environ.update(MACHPAY_PROFILE="demo", DJANGO_SETTINGS_MODULE="machpay_site.settings")
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        bench = Bench()
        if "--cpu" not in sys.argv[1:]:
            show(bench.run())
        bench.show_cpu()
    finally:
        services.erase()


class Bench:
    """The cases, over one database that grows with every run as a ledger does."""

    def __init__(self) -> None:
        from django.db import connection, transaction

        from apps.ledger import chart
        from apps.ledger.services import post

        self._numbers = count(1)
        self._versions = count(1)
        self._hot = chart.custodial(0, USDC)
        self._edge = chart.custody_deposits(USDC)
        self._mine = [
            [chart.custodial(1 + writer * ACCOUNTS + number, USDC) for number in range(ACCOUNTS)]
            for writer in range(WRITERS)
        ]
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE bare_transfer (LIKE ledger_transfer INCLUDING ALL)")
            cursor.execute("CREATE TABLE bare_entry (LIKE ledger_entry INCLUDING ALL)")
        for accounts in self._mine:
            with transaction.atomic():
                post([self._move(self._edge, account, 10**12) for account in accounts])

    def run(self) -> dict[str, list[Rate]]:
        cases: dict[str, Callable[[], Rate]] = {
            "bare INSERT, 1 writer": lambda: self._timed(1, self._bare, BATCHES, BATCH),
            "batches, 1 writer": lambda: self._timed(1, self._batches, BATCHES, BATCH),
            "batches, 8 writers": lambda: self._timed(WRITERS, self._batches, BATCHES // 4, BATCH),
            "single, 1 writer": lambda: self._timed(1, self._singles, SINGLES, 1),
            "single, 8 writers": lambda: self._timed(WRITERS, self._singles, SINGLES // 4, 1),
            "hot account, single, 1 writer": lambda: self._timed(1, self._hot_singles, SINGLES, 1),
            "hot account, single, 8 writers": lambda: self._timed(
                WRITERS, self._hot_singles, SINGLES // 4, 1
            ),
            "hot account, batches, 1 writer": lambda: self._timed(1, self._hot_batches, BATCHES, BATCH),
            "hot account, batches, 8 writers": lambda: self._timed(
                WRITERS, self._hot_batches, BATCHES // 4, BATCH
            ),
        }
        found: dict[str, list[Rate]] = {name: [] for name in cases}
        for number in range(RUNS):
            print(f"run {number + 1} of {RUNS}", file=sys.stderr)
            for name, case in cases.items():
                found[name].append(case())
        return found

    def show_cpu(self) -> None:
        """Processor time of a batch, in this process and in its PostgreSQL backend (Linux counts it)."""
        spent: dict[str, list[float]] = {"bare INSERT": [], "batch": []}
        for number in range(RUNS + 1):
            for name, work in (("bare INSERT", self._bare), ("batch", self._batches)):
                milliseconds = self._cpu_ms(work)
                if number:
                    spent[name].append(milliseconds)
        bare, batch = (statistics.median(values) for values in spent.values())
        ratio = statistics.median(
            limit / ours for limit, ours in zip(spent["bare INSERT"], spent["batch"], strict=True)
        )
        print(
            f"\nprocessor time of {BATCH} transfers: bare INSERT {bare:.1f} ms, batch {batch:.1f} ms: {ratio:.2f}"
        )

    def _cpu_ms(self, work: Callable[[int, int], Callable[[], None]]) -> float:
        from django.db import connection

        connection.ensure_connection()
        scheduled = Path(f"/proc/{connection.connection.info.backend_pid}/schedstat")
        steps = [work(0, BATCH) for _ in range(BATCHES)]

        def used() -> float:
            return time.process_time() * 1e3 + int(scheduled.read_text().split()[0]) / 1e6

        began = used()
        for step in steps:
            step()
        return (used() - began) / BATCHES

    def _timed(
        self, writers: int, work: Callable[[int, int], Callable[[], None]], repeats: int, size: int
    ) -> Rate:
        """Transfers per second of `writers` connections that each do `repeats` transactions of `size` transfers. What
        they send is prepared before the clock starts."""
        from django.db import connection

        barrier = threading.Barrier(writers + 1)

        def run(writer: int) -> None:
            steps = [work(writer, size) for _ in range(repeats)]
            connection.ensure_connection()
            barrier.wait()
            for step in steps:
                step()
            connection.close()

        with ThreadPoolExecutor(writers) as pool:
            running = [pool.submit(run, writer) for writer in range(writers)]
            barrier.wait()
            began = time.perf_counter()
            for each in running:
                each.result()
            return writers * repeats * size / (time.perf_counter() - began)

    # ---- what one transaction is

    def _singles(self, writer: int, size: int) -> Callable[[], None]:
        return self._posting(self._among(writer, size))

    _batches = _singles

    def _hot_singles(self, writer: int, size: int) -> Callable[[], None]:
        mine = self._mine[writer]
        return self._posting([self._move(mine[n % ACCOUNTS], self._hot, 1) for n in range(size)])

    _hot_batches = _hot_singles

    def _bare(self, _writer: int, size: int) -> Callable[[], None]:
        from django.db import connection, transaction

        from apps.core.arrays import binaries, integers, texts

        moves = self._among(0, size)
        first = next(self._versions) * size * 2
        headers = [(first + n, move.key, move.kind, move.input_hash, 2) for n, move in enumerate(moves)]
        entries = [
            (first + 2 * n + side, first + n, n % ACCOUNTS, first + 2 * n + side, 1, 10**12, 10**12 + 1)
            for n in range(size)
            for side in (0, 1)
        ]
        forms: list[Callable[..., str]] = [integers, texts, texts, binaries, integers, *[integers] * 7]

        def insert() -> None:
            rows = [*zip(*headers, strict=True), *zip(*entries, strict=True)]
            columns = [form(column) for form, column in zip(forms, rows, strict=True)]
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(BARE, columns)

        return insert

    def _posting(self, transfers: "list[Transfer]") -> Callable[[], None]:
        from django.db import transaction

        from apps.ledger.services import post

        def posting() -> None:
            with transaction.atomic():
                post(transfers)

        return posting

    def _among(self, writer: int, size: int) -> "list[Transfer]":
        mine = self._mine[writer]
        return [
            self._move(mine[n % ACCOUNTS], mine[(n * 7 + 1 + n // ACCOUNTS) % ACCOUNTS], 1)
            if n % ACCOUNTS != (n * 7 + 1 + n // ACCOUNTS) % ACCOUNTS
            else self._move(mine[0], mine[1], 1)
            for n in (next(self._numbers) for _ in range(size))
        ]

    def _move(self, debit: "AccountRef", credit: "AccountRef", amount: int) -> "Transfer":
        from apps.ledger.types import Transfer

        key = f"bench:{next(self._numbers)}"
        return Transfer.move(key, "pay", debit=debit, credit=credit, amount_atomic=amount)


def show(found: dict[str, list[Rate]]) -> None:
    """The tables of docs/performance.md. Ratios are taken run by run: what disturbed a run disturbs both sides."""
    print("| case | transfers/s | of the bare INSERT |\n|---|---|---|")
    bare = found["bare INSERT, 1 writer"]
    for name, rates in found.items():
        share = statistics.median(rate / limit for rate, limit in zip(rates, bare, strict=True))
        low, high = min(rates), max(rates)
        print(f"| {name} | {statistics.median(rates):,.0f} ({low:,.0f}-{high:,.0f}) | {share:.2f} |")
    for kind in ("single", "batches"):
        one, eight = found[f"hot account, {kind}, 1 writer"], found[f"hot account, {kind}, 8 writers"]
        ratio = statistics.median(b / a for a, b in zip(one, eight, strict=True))
        print(f"\nhot account, {kind}: 8 writers do {ratio:.2f} times what 1 does")


if __name__ == "__main__":
    main()
