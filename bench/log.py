"""What it takes to make one payment's records durable: the gateway's log, against a file that grows with every record.

    .venv/bin/python bench/log.py [FOLDER]

FOLDER (default var/) decides which disk is measured. Both files are written in turn, a record at a time, so that both
meet the same disk; five runs, medians. The peer is what the log would be without the room ahead of its end.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.paid_calls.report import median, spread, table
from machpay_gateway.log.tail import Tail

RECORD_BYTES, RECORDS, RUNS = 340, 500, 5
"""An accept, an outcome and a `sent` record have 326 bytes together."""


def once(folder: Path) -> dict[str, tuple[float, float]]:
    """One run: µs of time and of CPU per record, medians and means."""
    record = os.urandom(RECORD_BYTES)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    tail = Tail(os.open(folder / "log", flags, 0o600))
    peer = os.open(folder / "peer", flags, 0o600)

    def grow() -> None:
        os.write(peer, record)
        os.fdatasync(peer)

    writers: dict[str, Callable[[], None]] = {
        "the log": lambda: tail.append(record),
        "a file that grows": grow,
    }
    seconds: dict[str, list[float]] = {name: [] for name in writers}
    cpu = dict.fromkeys(writers, 0.0)
    for _ in range(RECORDS):
        for name, write in writers.items():
            began, began_cpu = time.perf_counter(), time.thread_time()
            write()
            cpu[name] += time.thread_time() - began_cpu
            seconds[name].append(time.perf_counter() - began)
    tail.finish()
    os.close(peer)
    return {name: (median(seconds[name]) * 1e6, cpu[name] / RECORDS * 1e6) for name in writers}


def main() -> None:
    """Print one table."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "var")
    root.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-log-", dir=root) as folder:
        runs = [once(Path(folder)) for _ in range(RUNS)]
    rows = [
        [name, spread([run[name][0] for run in runs]), spread([run[name][1] for run in runs])]
        for name in runs[0]
    ]
    table(f"{RECORD_BYTES} bytes written and durable", ["written to", "µs", "µs of CPU"], rows)
    ratio = median(run["the log"][0] / run["a file that grows"][0] for run in runs)
    print(f"\nthe log takes {ratio:.2f} times as long as a file that grows")


if __name__ == "__main__":
    main()
