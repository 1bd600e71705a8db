"""The log on a disk that fails at random: what was promised stays, what was not may go, nothing is counted twice."""

import asyncio
import errno
import random
from pathlib import Path

import pytest

from machpay_gateway.errors import LogUnavailable
from machpay_gateway.log.records import Delivered
from machpay_gateway.payments import Payments
from tests.gateway.conftest import eventually
from tests.gateway.logs import AGENTS, accept, open_payments, read_all, running, serve, state
from tests.gateway.test_log_journal import FaultyDisk

FAULTS = [("write_error", errno.ENOSPC), ("write_error", errno.EIO), ("sync_error", errno.EIO)]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    return FaultyDisk(monkeypatch)


async def pay(payments: Payments, rng: random.Random, number: int) -> tuple[int, int]:
    """One payment as an exchange makes it: its number, and what was charged in the end."""
    price = rng.randrange(1, 50)
    name = f"identifier-{number:06d}" if rng.random() < 0.5 else None
    ticket = accept(payments, rng.choice(AGENTS), price, name)
    payments.hasten()
    await asyncio.sleep(rng.random() * 0.003)
    payments.resolve(ticket, 200, price, final=True)
    try:
        await payments.durable(ticket)
    except LogUnavailable:
        payments.resolve(ticket, 503, 0, final=True)
        price = 0
    payments.sent(ticket)
    return ticket.number, price


@pytest.mark.parametrize("seed", range(6))
async def test_what_was_promised_survives_any_order_of_faults_and_rotations(
    quick_folder: Path, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    print("seed", seed)
    # Who is alone writes for itself, or never does.
    monkeypatch.setattr("machpay_gateway.log.journal.QUICK_S", (0.0, 60.0)[seed % 2])
    rng = random.Random(seed)
    promised: dict[int, int] = {}
    async with running(quick_folder, segment_bytes=6_000, retry_s=0.002) as payments:
        for turn in range(12):
            if rng.random() < 0.5:
                fault, error = rng.choice(FAULTS)
                setattr(disk, fault, error)
            calls = [pay(payments, rng, turn * 100 + number) for number in range(rng.randrange(1, 20))]
            promised.update(await asyncio.gather(*calls))
            disk.write_error = disk.sync_error = None
            if rng.random() < 0.3:
                # Only what is durable is ever delivered.
                durable = payments.journal.completed
                payments.journal.append(Delivered(rng.randrange(payments.book.delivered, durable + 1)))
            await eventually(lambda: payments.journal.failure is None, "the log is writable again")
        await payments.durable()
        live, delivered = state(payments.book), payments.book.delivered
        found = {c.accept.number: c.charged for c in read_all(payments, delivered)}
        assert found.items() <= promised.items()
        served = sum(channel.served for channel in payments.book.channels.values())
        assert served == sum(promised.values())
    async with running(quick_folder, segment_bytes=6_000) as again:
        assert state(again.book) == live
        assert again.book.delivered == delivered
        rest = read_all(again, delivered)
        assert {c.accept.number: c.charged for c in rest} == found
        assert [c.seq for c in rest] == list(range(delivered + 1, again.book.completed + 1))


async def test_delivery_goes_on_where_it_was_though_older_segments_are_kept(tmp_path: Path) -> None:
    async with running(tmp_path, segment_bytes=4_000) as payments:
        for number in range(90):
            serve(payments, AGENTS[number % 3], number + 1, f"identifier-{number:06d}")
            await payments.durable()
        payments.journal.append(Delivered(57))
        await payments.durable()
        assert payments.journal.segments[0].number == 1
    async with running(tmp_path, segment_bytes=4_000) as again:
        rest = read_all(again, again.book.delivered)
        assert [(c.seq, c.charged) for c in rest] == [(n, n) for n in range(58, 91)]
        # Everything is still there for who asks from the beginning.
        assert [c.seq for c in read_all(again)] == list(range(1, 91))


async def test_a_full_disk_in_the_first_segment_of_all_leaves_nothing_behind(
    tmp_path: Path, disk: FaultyDisk
) -> None:
    disk.sync_error = errno.ENOSPC
    payments = open_payments(tmp_path)
    with pytest.raises(LogUnavailable):
        await payments.start()
    await payments.journal.close()
    disk.sync_error = None
    async with running(tmp_path) as again:
        serve(again, AGENTS[0])
        await again.durable()
        assert [c.seq for c in read_all(again)] == [1]
