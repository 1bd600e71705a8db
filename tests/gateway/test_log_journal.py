"""Group fsync, a disk that fails and comes back, rotation, removal of delivered segments, reading in order."""

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from machpay_gateway.errors import LogUnavailable
from machpay_gateway.log.backlog import Backlog
from machpay_gateway.log.reader import LogReader
from machpay_gateway.log.records import Delivered, Header
from machpay_gateway.payments import Payments
from tests.gateway.conftest import eventually
from tests.gateway.logs import AGENTS, accept, newest, open_payments, read_all, records, running, serve, state

AGENT = AGENTS[0]


class FaultyDisk:
    """Counts fsyncs, lets writes or fsyncs fail while `error` is set, and fsyncs wait while `is_free` is cleared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.is_free = threading.Event()
        self.is_free.set()
        self.write_error: int | None = None
        self.sync_error: int | None = None
        self._write, self._sync = os.pwrite, os.fdatasync
        monkeypatch.setattr("machpay_gateway.log.tail.os.pwrite", self.write)
        monkeypatch.setattr("machpay_gateway.log.tail.os.fdatasync", self.fdatasync)

    def write(self, descriptor: int, data: Any, at: int) -> int:
        if self.write_error is not None:
            # A full disk takes a part before it refuses.
            self._write(descriptor, bytes(data)[: len(data) // 2], at)
            raise OSError(self.write_error, os.strerror(self.write_error))
        return self._write(descriptor, data, at)

    def fdatasync(self, descriptor: int) -> None:
        self.syncs += 1
        assert self.is_free.wait(60)
        if self.sync_error is not None:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        self._sync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    return FaultyDisk(monkeypatch)


async def pay(payments: Payments, agent: Any = AGENT, price: int = 10) -> int:
    """What an exchange does with the log; the charge of the answer that was sent."""
    ticket = accept(payments, agent, price)
    payments.hasten()
    payments.resolve(ticket, 200, price, final=True)
    try:
        await payments.durable(ticket)
    except LogUnavailable:
        payments.resolve(ticket, 503, 0, final=True)
        payments.sent(ticket)
        return 0
    payments.sent(ticket)
    return price


async def test_everybody_who_waits_shares_an_fsync(tmp_path: Path, disk: FaultyDisk) -> None:
    async with running(tmp_path) as payments:
        before = disk.syncs
        charged = await asyncio.gather(*(pay(payments) for _ in range(200)))
        assert charged == [10] * 200
        # All 200 were queued before the first write, so one group takes them; at most one more follows it.
        assert disk.syncs - before <= 2


async def test_durable_returns_only_when_the_bytes_are_on_the_disk(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        ticket = accept(payments, AGENT)
        payments.resolve(ticket, 200, 10, final=True)
        await payments.durable()
        kinds = [type(record).__name__ for record, _ in records(newest(tmp_path))]
        assert kinds[-2:] == ["Accept", "Outcome"]


async def test_who_waits_for_less_is_not_kept_by_who_waits_for_more(tmp_path: Path, disk: FaultyDisk) -> None:
    async with running(tmp_path) as payments:
        first, second = accept(payments, AGENT), accept(payments, AGENT)
        disk.is_free.clear()
        before = disk.syncs
        waits_for_first = asyncio.create_task(payments.durable(first))
        await eventually(lambda: disk.syncs == before + 1, "the disk is at work")
        third = accept(payments, AGENT)
        waits_for_third = asyncio.create_task(payments.durable(third))
        waits_for_second = asyncio.create_task(payments.durable(second))
        await asyncio.sleep(0)
        disk.is_free.set()
        await waits_for_second
        assert (waits_for_first.done(), waits_for_third.done()) == (True, False)
        await waits_for_third
        assert disk.syncs == before + 2


async def test_a_payment_that_is_alone_is_on_the_disk_before_anybody_waits(
    tmp_path: Path, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machpay_gateway.log.journal.QUICK_S", 60.0)
    async with running(tmp_path) as payments:
        # Whether the disk is quick is known once it was written to.
        await pay(payments)
        await payments.durable()
        before = disk.syncs
        ticket = accept(payments, AGENT)
        payments.hasten()
        assert disk.syncs == before
        await asyncio.sleep(0)
        assert disk.syncs == before + 1
        assert [type(record).__name__ for record, _ in records(newest(tmp_path))][-1] == "Accept"
        # Nothing is left to wait for: not even a disk that stands still is in the way.
        disk.is_free.clear()
        payments.resolve(ticket, 200, 10, final=True)
        await payments.durable(ticket)
        disk.is_free.set()


async def test_records_nobody_waits_for_are_written_soon(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        serve(payments, AGENT)
        await eventually(lambda: len(read_all(payments)) == 1, "the payment is durable")


@pytest.mark.parametrize("fault", ["write_error", "sync_error"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_a_failing_disk_stops_payments_without_charging_and_lets_them_go_on_when_it_is_back(
    tmp_path: Path, disk: FaultyDisk, fault: str, error: int
) -> None:
    async with running(tmp_path) as payments:
        assert await pay(payments) == 10
        await payments.durable()
        setattr(disk, fault, error)
        assert await asyncio.gather(*(pay(payments) for _ in range(5))) == [0] * 5
        assert payments.journal.failure is not None
        channel = payments.book.channel(AGENT.public)
        assert (channel.served, channel.reserved) == (10, 0)
        # While it lasts nothing is promised, immediately.
        assert await pay(payments) == 0
        setattr(disk, fault, None)
        await eventually(lambda: payments.journal.failure is None, "the log is writable again")
        assert await pay(payments, price=7) == 7
        await payments.durable()
        assert [c.charged for c in read_all(payments)] == [10, 0, 0, 0, 0, 0, 0, 7]
        live = state(payments.book)
    async with running(tmp_path) as again:
        assert state(again.book) == live
        assert [c.charged for c in read_all(again)] == [10, 0, 0, 0, 0, 0, 0, 7]


async def test_a_sent_record_lost_with_the_disk_is_written_again(tmp_path: Path, disk: FaultyDisk) -> None:
    """The answer had gone out: the charge must survive although its `sent` record failed."""
    async with running(tmp_path) as payments:
        ticket = accept(payments, AGENT)
        payments.resolve(ticket, 200, 10, final=True)
        await payments.durable()
        disk.sync_error = errno.EIO
        payments.sent(ticket)
        await eventually(lambda: payments.journal.failure is not None, "the write fails")
        assert read_all(payments) == []
        disk.sync_error = None
        await eventually(lambda: payments.journal.failure is None, "the log is writable again")
        (completed,) = read_all(payments)
        assert (completed.seq, completed.charged) == (1, 10)
    async with running(tmp_path) as again:
        assert again.book.channel(AGENT.public).served == 10
        assert [c.seq for c in read_all(again)] == [1]


async def test_a_payment_in_flight_while_the_disk_fails_can_still_be_charged_afterwards(
    tmp_path: Path, disk: FaultyDisk
) -> None:
    async with running(tmp_path) as payments:
        ticket = accept(payments, AGENT)
        disk.sync_error = errno.EIO
        await eventually(lambda: payments.journal.failure is not None, "the accept record is not durable")
        disk.sync_error = None
        await eventually(lambda: payments.journal.failure is None, "the log is writable again")
        payments.resolve(ticket, 200, 10, final=True)
        await payments.durable()
        payments.sent(ticket)
        await payments.durable()
        assert [c.charged for c in read_all(payments)] == [10]


async def test_a_gateway_that_cannot_write_at_start_says_so(tmp_path: Path, disk: FaultyDisk) -> None:
    disk.write_error = errno.ENOSPC
    payments = open_payments(tmp_path)
    with pytest.raises(LogUnavailable, match="No space"):
        await payments.start()
    await payments.journal.close()
    assert list((tmp_path / "log").glob("*.log")) == []


async def test_segments_rotate_and_go_when_everything_in_them_is_delivered(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    async with running(tmp_path, segment_bytes=4_000) as payments:
        for number in range(200):
            await pay(payments, AGENTS[number % 3])
        await payments.durable()
        assert len(list(folder.glob("*.log"))) > 5
        everything = read_all(payments)
        assert [c.seq for c in everything] == list(range(1, 201))
        payments.journal.append(Delivered(200))
        await payments.durable()
        for _ in range(20):
            await pay(payments)
        await payments.durable()
        live = state(payments.book)
        remaining = payments.journal.segments[0].completed
        assert remaining > 100
        await eventually(lambda: len(list(folder.glob("*.log"))) <= 4, "old segments are removed")
    async with running(tmp_path, segment_bytes=4_000) as again:
        # What is left of the log is enough for the whole book.
        assert state(again.book) == live
        assert again.book.delivered == 200
        assert [c.seq for c in read_all(again, 200)] == list(range(201, 221))


async def test_a_lost_cursor_never_moves_behind_what_was_removed(tmp_path: Path) -> None:
    async with running(tmp_path, segment_bytes=4_000) as payments:
        for _ in range(100):
            await pay(payments)
        await payments.durable()
        payments.book.delivered = 100
        await pay(payments)
        await payments.durable()
        first = payments.journal.segments[0]
        assert first.completed > 0
        await eventually(
            lambda: min((tmp_path / "log").glob("*.log")) == first.path, "old segments are removed"
        )
    async with running(tmp_path) as again:
        assert again.book.delivered >= first.completed


async def test_a_snapshot_alone_gives_the_whole_book_with_open_payments(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        for agent in AGENTS:
            await pay(payments, agent)
        waiting = accept(payments, AGENTS[0], 3)
        streamed = accept(payments, AGENTS[1], 4)
        payments.resolve(streamed, 200, 4, final=False)
        payments.sent(streamed)
        await payments.durable()
        live = state(payments.book)
        await payments.journal._rotate()
        book = type(payments.book)(payments.book._network, payments.book._gateway)
        snapshot = records(newest(tmp_path))
        assert isinstance(snapshot[0][0], Header)
        for record, _ in snapshot:
            book.apply(record)
        assert state(book) == live
        # And both can be finished from there.
        payments.resolve(waiting, 200, 3, final=True)
        payments.sent(waiting)
        payments.resolve(streamed, 502, 0, final=True)
        await payments.durable()
        assert [c.charged for c in read_all(payments)] == [10, 10, 10, 3, 0]


async def test_a_reader_that_follows_along_sees_every_payment_once(tmp_path: Path) -> None:
    async with running(tmp_path, segment_bytes=4_000) as payments:
        reader = LogReader(payments.journal, 0)
        seen = []
        for number in range(120):
            await pay(payments)
            if number % 7 == 0:
                seen += reader.read(3)
            if number % 50 == 49:
                payments.journal.append(Delivered(seen[-1].seq))
        await payments.durable()
        while batch := reader.read(3):
            seen += batch
        assert [c.seq for c in seen] == list(range(1, 121))
        assert [c.accept.number for c in seen] == list(range(1, 121))


async def test_a_backlog_longer_than_memory_is_read_from_the_log_and_then_from_memory_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machpay_gateway.log.journal.LATEST", 10)
    async with running(tmp_path, segment_bytes=4_000) as payments:
        backlog = Backlog(payments.journal, 0)
        seen = []
        for burst in (3, 8, 40, 1, 10, 11, 25, 2):
            for _ in range(burst):
                await pay(payments)
            await payments.durable()
            while batch := await backlog.read(7):
                assert len(batch) <= 7
                seen += batch
                payments.journal.append(Delivered(seen[-1].seq))
            assert not payments.journal.latest
        assert [payment.seq for payment in seen] == list(range(1, 101))
        assert [payment.accept.number for payment in seen] == list(range(1, 101))


async def test_the_backlog_of_an_earlier_run_comes_before_what_is_new(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        for _ in range(5):
            await pay(payments)
        payments.journal.append(Delivered(2))
        await payments.durable()
    async with running(tmp_path) as again:
        backlog = Backlog(again.journal, again.book.delivered)
        await pay(again)
        await again.durable()
        seen = []
        while batch := await backlog.read(2):
            seen += batch
        assert [payment.seq for payment in seen] == [3, 4, 5, 6]


async def test_a_look_up_says_how_far_back_every_payment_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machpay_gateway.payments.RECENT_PAYMENTS", 2)
    nobody = bytes(32)
    async with running(tmp_path) as payments:
        await asyncio.sleep(0.01)
        assert 0 < payments.find(nobody).remembers_s < 60
        tickets = [serve(payments, AGENTS[0], 10) for _ in range(2)]
        assert payments.find(nobody).remembers_s > 0
        # The first one is forgotten now, and it was completed a moment ago.
        tickets.append(serve(payments, AGENTS[0], 10))
        digests = [payments.book.digest(ticket.payment) for ticket in tickets]
        found = [payments.find(digest) for digest in digests]
        assert [one.state for one in found] == ["unknown", "served", "served"]
        assert payments.find(nobody).remembers_s == 0
        await payments.durable()
    async with running(tmp_path) as again:
        assert [again.find(digest).state for digest in digests] == ["unknown", "served", "served"]
        assert again.find(nobody).remembers_s == 0


async def test_a_read_of_the_backlog_that_is_cancelled_skips_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, segment_bytes=4_000) as payments:
        for _ in range(60):
            await pay(payments)
        await payments.durable()
    async with running(tmp_path, segment_bytes=4_000) as again:
        backlog = Backlog(again.journal, 0)
        seen = []
        for turns in range(1, 8):
            reading = asyncio.create_task(backlog.read(25))
            for _ in range(turns):
                await asyncio.sleep(0)
            if reading.done():
                seen += reading.result()
                continue
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        while batch := await backlog.read(25):
            seen += batch
        assert [payment.seq for payment in seen] == list(range(1, 61))
