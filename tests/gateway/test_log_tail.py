"""The room behind the records of the segment that is being written: it is no record, and it is given back."""

import shutil
from pathlib import Path

import pytest

from machpay_gateway.errors import LogDamaged
from machpay_gateway.log.records import Sent, frame
from machpay_gateway.log.tail import ROOM_BYTES
from machpay_gateway.payments import Payments
from tests.gateway.logs import AGENTS, newest, open_payments, read_all, running, serve, state

AGENT = AGENTS[0]


def crashed(payments: Payments, source: Path, target: Path) -> Path:
    """A copy of the folder as it is now, while the gateway runs; the path of its last segment."""
    assert payments.journal.failure is None
    shutil.copytree(source, target)
    path = newest(target)
    assert path.stat().st_size > payments.journal.segments[-1].end
    return path


async def test_room_behind_the_last_record_is_no_unfinished_write(quick_folder: Path) -> None:
    async with running(quick_folder / "source") as payments:
        serve(payments, AGENT)
        await payments.durable()
        path = crashed(payments, quick_folder / "source", quick_folder / "copy")
        before, end = state(payments.book), payments.journal.segments[-1].end
    async with running(quick_folder / "copy") as again:
        assert state(again.book) == before
        assert [payment.charged for payment in read_all(again)] == [10]
    assert path.stat().st_size == end
    assert list(path.parent.glob("*.torn-*")) == []


@pytest.mark.parametrize("written", [1, 4, 8, 12])
async def test_an_unfinished_write_into_the_room_is_cut(quick_folder: Path, written: int) -> None:
    async with running(quick_folder / "source") as payments:
        serve(payments, AGENT)
        await payments.durable()
        path = crashed(payments, quick_folder / "source", quick_folder / "copy")
        before, end = state(payments.book), payments.journal.segments[-1].end
    torn = frame(Sent(2**64 - 1))[:written]
    with path.open("r+b") as file:
        file.seek(end)
        file.write(torn)
    async with running(quick_folder / "copy") as again:
        assert state(again.book) == before
    assert path.stat().st_size == end
    assert path.with_name(f"{path.stem}.torn-{end}").read_bytes() == torn.rstrip(b"\0")


async def test_there_is_always_more_room_and_never_much(quick_folder: Path) -> None:
    async with running(quick_folder / "source") as payments:
        for number in range(1_000):
            serve(payments, AGENT)
            if number % 50 == 0:
                await payments.durable()
                path, end = newest(quick_folder / "source"), payments.journal.segments[-1].end
                assert end <= path.stat().st_size <= end + ROOM_BYTES
        await payments.durable()
        assert payments.journal.segments[-1].end > ROOM_BYTES
        crashed(payments, quick_folder / "source", quick_folder / "copy")
        before = state(payments.book)
    async with running(quick_folder / "copy") as again:
        assert state(again.book) == before
        assert len(read_all(again)) == 1_000


async def test_who_stops_or_rotates_gives_the_room_back(quick_folder: Path) -> None:
    async with running(quick_folder, segment_bytes=4_000) as payments:
        for _ in range(40):
            serve(payments, AGENT)
            await payments.durable()
        segments = list(payments.journal.segments)
        assert len(segments) > 2
        for segment in segments[:-1]:
            assert segment.path.stat().st_size == segment.end
        assert segments[-1].path.stat().st_size > segments[-1].end
    assert segments[-1].path.stat().st_size == segments[-1].end


async def test_damage_far_from_the_last_record_is_damage_with_room_behind_it_too(quick_folder: Path) -> None:
    async with running(quick_folder / "source") as payments:
        for _ in range(3_500):
            serve(payments, AGENT, 1)
        await payments.durable()
        assert payments.journal.segments[-1].end > 1024 * 1024 + 2_000
        path = crashed(payments, quick_folder / "source", quick_folder / "copy")
    with path.open("r+b") as file:
        file.seek(1_000)
        file.write(b"\xff" * 8)
    broken = open_payments(quick_folder / "copy")
    with pytest.raises(LogDamaged, match="does not check"):
        await broken.start()
    await broken.journal.close()
