"""Recovery: every place a crash can cut the log, every byte that can be damaged."""

import random
import shutil
from pathlib import Path

import pytest

from machpay.protocol.errors import RefusalCode
from machpay.protocol.keys import SigningKey
from machpay.protocol.screening import Reject
from machpay_gateway.book import Book
from machpay_gateway.decide import admit
from machpay_gateway.errors import LogDamaged, LogError, LogMismatch
from machpay_gateway.log.join import Join
from machpay_gateway.log.records import Accept, Record
from machpay_gateway.log.segments import recover
from machpay_gateway.payments import LOST_STATUS, Ticket
from tests.gateway.factories import make_attempt, make_credit, network
from tests.gateway.logs import (
    AGENTS,
    KEY,
    accept,
    identity,
    newest,
    open_payments,
    read_all,
    records,
    running,
    serve,
    state,
)

FIRST, SECOND, THIRD = AGENTS


async def write_a_busy_log(folder: Path) -> Path:
    """Interleaved payments of every kind; the path of the segment they are in."""
    async with running(folder) as payments:
        one, two = accept(payments, FIRST, 10), accept(payments, SECOND, 20)
        payments.resolve(two, 200, 20, final=True)
        three = accept(payments, FIRST, 30)
        payments.sent(two)
        payments.resolve(one, 200, 10, final=True)
        payments.resolve(three, 500, 0, final=True)
        payments.sent(three)
        payments.sent(one)
        streamed = accept(payments, THIRD, 40)
        payments.resolve(streamed, 200, 40, final=False)
        payments.sent(streamed)
        serve(payments, SECOND, 5)
        payments.resolve(streamed, 200, 40, final=True)
        broken = accept(payments, THIRD, 7)
        payments.resolve(broken, 200, 7, final=False)
        payments.sent(broken)
        payments.resolve(broken, 502, 0, final=True)
        await payments.durable()
        return newest(folder)


def cut_copy(source: Path, target: Path, segment: Path, length: int) -> None:
    """A copy of the folder as it is after a crash that left `length` bytes of `segment`."""
    shutil.copytree(source, target)
    with (target / "log" / segment.name).open("r+b") as file:
        file.truncate(length)


def expected_charges(written: list[Record]) -> dict[int, int]:
    """Payment number -> what must be charged after a crash behind `written`: durable sent charges, nothing else."""
    join = Join()
    charges = {}
    for record in written:
        payment = join.apply(record)
        if payment is not None:
            charges[payment.accept.number] = payment.charged
    for number, payment in join.open.items():
        charges[number] = payment.charged if payment.sent else 0
    return charges


async def test_a_log_cut_at_any_byte_recovers_what_was_whole_before_it(quick_folder: Path) -> None:
    segment = await write_a_busy_log(quick_folder / "source")
    whole = records(segment)
    size = segment.stat().st_size
    first = whole[0][1]
    for length in range(first, size + 1):
        prefix = [(record, end) for record, end in whole if end <= length]
        wanted = Book(network(), KEY.public)
        for record, _ in prefix:
            wanted.apply(record)
        folder = quick_folder / "cut"
        cut_copy(quick_folder / "source", folder, segment, length)
        book = Book(network(), KEY.public)
        (found,) = recover(folder / "log", identity(), book.apply)
        assert state(book) == state(wanted), length
        assert found.end == prefix[-1][1]
        assert (folder / "log" / segment.name).stat().st_size == found.end
        shutil.rmtree(folder)


async def test_a_crash_between_any_two_records_charges_durable_sent_payments_only(tmp_path: Path) -> None:
    segment = await write_a_busy_log(tmp_path / "source")
    whole = records(segment)
    for index, (_, end) in enumerate(whole):
        folder = tmp_path / "cut"
        cut_copy(tmp_path / "source", folder, segment, end)
        written = [record for record, _ in whole[: index + 1]]
        charges = expected_charges(written)
        accepts = {record.number: record for record in written if isinstance(record, Accept)}
        async with running(folder) as payments:
            await payments.durable()
            delivered = read_all(payments)
            assert {c.accept.number: c.charged for c in delivered} == charges
            assert [c.seq for c in delivered] == list(range(1, len(accepts) + 1))
            assert not payments.book.join.open
            for agent in AGENTS:
                channel = payments.book.channel(agent.public)
                own = {n: a for n, a in accepts.items() if a.agent == agent.public}
                assert channel.served == sum(charges[number] for number in own)
                assert channel.reserved == 0
                assert channel.highest == max((a.cumulative for a in own.values()), default=0)
                if own:
                    assert channel.voucher is not None
                    assert channel.voucher.is_signed_by(agent.public)
            for receipt in (payments.book.receipt(c, c.outcome) for c in delivered if c.outcome):
                assert receipt.is_signed_by(KEY.public)
            assert all(payments.book.guard.has(a.agent, a.nonce) for a in accepts.values())
            after = state(payments.book)
        # A second start changes nothing any more.
        async with running(folder) as again:
            assert state(again.book) == after
            assert [c.charged for c in read_all(again)] == [c.charged for c in delivered]
        shutil.rmtree(folder)


async def test_a_payment_that_was_never_sent_becomes_void_with_a_signed_receipt(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        ticket = accept(payments, FIRST, 10)
        payments.resolve(ticket, 200, 10, final=True)
        await payments.durable()
        digest = payments.book.digest(ticket.payment)
    async with running(tmp_path) as payments:
        found = payments.find(digest)
        assert found.state == "void"
        assert found.receipt is not None
        assert (found.receipt.receipt.charged, found.receipt.receipt.http_status) == (0, LOST_STATUS)
        assert found.receipt.is_signed_by(KEY.public)


async def test_a_replayed_nonce_is_refused_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        ticket = serve(payments, FIRST, 10)
        await payments.durable()
    async with running(tmp_path) as payments:
        intent = payments.book.intent(ticket.payment.accept)
        attempt = make_attempt(FIRST, KEY.public, intent)
        decision = admit(intent.cumulative, 10, payments.standing(attempt, make_credit()))
        assert isinstance(decision, Reject)
        assert decision.code is RefusalCode.NONCE_REPLAYED


async def test_any_changed_byte_of_the_last_segment_cuts_there_and_keeps_the_cut_bytes(
    quick_folder: Path,
) -> None:
    segment = await write_a_busy_log(quick_folder / "source")
    whole = records(segment)
    original = segment.read_bytes()
    for position in range(whole[0][1], len(original)):
        folder = quick_folder / "cut"
        shutil.copytree(quick_folder / "source", folder)
        changed = bytearray(original)
        changed[position] ^= 0x10
        path = folder / "log" / segment.name
        path.write_bytes(changed)
        before = [record for record, end in whole if end <= position]
        wanted = Book(network(), KEY.public)
        for record in before:
            wanted.apply(record)
        book = Book(network(), KEY.public)
        (found,) = recover(folder / "log", identity(), book.apply)
        assert state(book) == state(wanted), position
        torn = path.with_name(f"{path.stem}.torn-{found.end}")
        assert torn.read_bytes() == bytes(changed[found.end :]).rstrip(b"\0")
        shutil.rmtree(folder)


@pytest.mark.parametrize("position", [0, 7, 8, 16, 100, -1, -50])
async def test_a_changed_byte_in_an_older_segment_refuses_to_start(tmp_path: Path, position: int) -> None:
    segment = await write_a_busy_log(tmp_path)
    async with running(tmp_path):
        pass
    assert newest(tmp_path) != segment
    changed = bytearray(segment.read_bytes())
    changed[position] ^= 0x10
    segment.write_bytes(changed)
    payments = open_payments(tmp_path)
    with pytest.raises(LogDamaged, match=segment.name):
        await payments.start()
    await payments.journal.close()
    assert segment.read_bytes() == changed


async def test_damage_far_from_the_end_is_not_taken_for_a_torn_write(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        for _ in range(4_000):
            serve(payments, FIRST, 1)
        await payments.durable()
    path = newest(tmp_path)
    changed = bytearray(path.read_bytes())
    assert len(changed) > 1024 * 1024 + 2_000
    changed[1_000] ^= 1
    path.write_bytes(changed)
    payments = open_payments(tmp_path)
    with pytest.raises(LogDamaged):
        await payments.start()
    await payments.journal.close()


async def test_a_missing_segment_refuses_to_start(tmp_path: Path) -> None:
    for _ in range(3):
        async with running(tmp_path) as payments:
            serve(payments, FIRST)
    segments = sorted((tmp_path / "log").glob("*.log"))
    assert len(segments) == 3
    segments[1].unlink()
    payments = open_payments(tmp_path)
    with pytest.raises(LogDamaged, match="missing"):
        await payments.start()
    await payments.journal.close()


async def test_a_crash_while_a_segment_was_being_written_leaves_the_one_before(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        serve(payments, FIRST)
        before = state(payments.book)
    draft = tmp_path / "log" / "00000000000000000002.tmp"
    draft.write_bytes(b"MPGWLOG\x01half a snapshot")
    async with running(tmp_path) as payments:
        assert state(payments.book) == before
    assert not draft.exists()


async def test_the_log_of_another_gateway_is_refused(tmp_path: Path) -> None:
    await write_a_busy_log(tmp_path)
    other = identity(SigningKey(b"z" * 32))
    with pytest.raises(LogMismatch, match=KEY.pubkey):
        recover(tmp_path / "log", other, lambda _record: None)


async def test_two_processes_cannot_use_one_log(tmp_path: Path) -> None:
    async with running(tmp_path):
        second = open_payments(tmp_path)
        with pytest.raises(LogError, match="in use"):
            await second.start()
        await second.journal.close()


@pytest.mark.parametrize("seed", range(8))
async def test_random_payments_crashes_and_rotations_never_lose_or_double_a_sent_charge(
    tmp_path: Path, seed: int
) -> None:
    """Small segments, random interleavings, crashes at a random byte behind the last durable point."""
    print("seed", seed)
    rng = random.Random(seed)
    folder = tmp_path
    promised: dict[int, int] = {}
    for _ in range(6):
        payments = open_payments(folder, segment_bytes=4_000)
        await payments.start()
        open_tickets: list[Ticket] = []
        for _ in range(rng.randrange(60)):
            step = rng.random()
            if step < 0.45 or not open_tickets:
                open_tickets.append(accept(payments, rng.choice(AGENTS), rng.randrange(1, 50)))
                continue
            ticket = open_tickets.pop(rng.randrange(len(open_tickets)))
            if step < 0.55:
                payments.resolve(ticket, 500, 0, final=True)
                payments.sent(ticket)
                promised[ticket.number] = 0
                continue
            payments.resolve(ticket, 200, ticket.price, final=True)
            await payments.durable()
            if step < 0.9:
                payments.sent(ticket)
                promised[ticket.number] = ticket.price
        await payments.durable()
        durable, segment = dict(promised), payments.journal.segments[-1]
        number, end = segment.number, segment.end
        for _ in range(rng.randrange(20)):
            serve(payments, rng.choice(AGENTS), rng.randrange(1, 50))
        await payments.journal.close()
        path = newest(folder)
        if path.stem == f"{number:020d}":
            # The crash: any part of what was written behind the last durable point may be missing.
            with path.open("r+b") as file:
                file.truncate(rng.randrange(end, path.stat().st_size + 1))
        # What was durable must be there; what was not may be void.
        async with running(folder, segment_bytes=4_000) as again:
            await again.durable()
            found = {c.accept.number: c.charged for c in read_all(again)}
            assert all(found[number] == charge for number, charge in durable.items()), seed
            assert set(found) == set(range(1, again.book.next_number))
            for agent in AGENTS:
                channel = again.book.channel(agent.public)
                own = [c for c in read_all(again) if c.accept.agent == agent.public]
                assert channel.served == sum(c.charged for c in own)
                assert channel.served + channel.reserved <= channel.highest
            promised = found
