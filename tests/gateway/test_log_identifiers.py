"""What identifiers stand for is rebuilt from the log: after a crash, a rotation, a removal of segments."""

import random
from pathlib import Path

import pytest

from machpay_gateway.log.records import Delivered, Identified
from machpay_gateway.payments import Payments
from tests.gateway.conftest import eventually
from tests.gateway.logs import AGENTS, accept, newest, open_payments, records, running, serve, state

AGENT = AGENTS[0]


def name(number: int) -> str:
    return f"identifier-{number:06d}"


def is_bound(payments: Payments, number: int) -> bool:
    return payments.book.bindings.get(AGENT.public, name(number)) is not None


async def test_a_served_payment_keeps_its_identifier_and_a_void_one_frees_it(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        served = serve(payments, AGENT, identifier=name(1))
        void = accept(payments, AGENT, identifier=name(2))
        payments.resolve(void, 500, 0, final=True)
        payments.sent(void)
        free_of_charge = accept(payments, AGENT, identifier=name(3))
        payments.resolve(free_of_charge, 200, 0, final=True)
        payments.sent(free_of_charge)
        await payments.durable()
        live = state(payments.book)
        digest = payments.book.digest(served.payment)
    async with running(tmp_path) as again:
        assert state(again.book) == live
        binding = again.book.bindings.get(AGENT.public, name(1))
        assert binding is not None
        assert (binding.digest, binding.request_hash) == (digest, served.payment.accept.request_hash)
        assert binding.receipt == again.find(digest).receipt
        assert [is_bound(again, number) for number in (1, 2, 3)] == [True, False, True]
        assert again.book.bindings.get(AGENTS[1].public, name(1)) is None


async def test_a_payment_that_a_crash_left_open_frees_its_identifier(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        accept(payments, AGENT, identifier=name(1))
        charged = accept(payments, AGENT, identifier=name(2))
        payments.resolve(charged, 200, 10, final=True)
        await payments.durable()
        assert (is_bound(payments, 1), is_bound(payments, 2)) == (True, True)
    async with running(tmp_path) as again:
        assert (is_bound(again, 1), is_bound(again, 2)) == (False, False)
        assert again.book.channel(AGENT.public).committed == 0


async def test_segments_stay_while_an_identifier_in_them_is_remembered(tmp_path: Path) -> None:
    async with running(tmp_path, segment_bytes=4_000) as payments:
        for number in range(60):
            serve(payments, AGENT, identifier=name(number))
            await payments.durable()
        for _ in range(60):
            serve(payments, AGENT)
            await payments.durable()
        payments.journal.append(Delivered(payments.book.completed))
        await payments.durable()
        assert payments.journal.segments[0].number == 1
        last_number = payments.journal.segments[-1].number
        assert last_number > 4
        live = state(payments.book)
    async with running(tmp_path, segment_bytes=4_000, identifiers_s=1) as again:
        assert state(again.book) == live
        assert all(is_bound(again, number) for number in range(60))
        # When they are old enough they are forgotten, and the segments go.
        again.book.bindings.prune(2**40)
        assert len(again.book.bindings) == 0
        serve(again, AGENT)
        await again.durable()
        await eventually(lambda: again.journal.segments[0].number >= last_number, "old segments are removed")
        totals = state(again.book)["channels"]
    async with running(tmp_path) as last:
        assert state(last.book)["channels"] == totals


async def test_memory_for_identifiers_is_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    async with running(tmp_path, max_identifiers=5) as payments:
        for number in range(8):
            serve(payments, AGENT, identifier=name(number))
        assert [is_bound(payments, number) for number in range(8)] == [False] * 3 + [True] * 5
        assert payments.book.bindings.oldest == 4
    async with running(tmp_path, max_identifiers=5) as again:
        assert [is_bound(again, number) for number in range(8)] == [False] * 3 + [True] * 5


async def test_an_open_payment_takes_its_identifier_into_the_next_segment(tmp_path: Path) -> None:
    async with running(tmp_path) as payments:
        ticket = accept(payments, AGENT, identifier=name(1))
        await payments.durable()
        await payments.journal._rotate()
        assert Identified(ticket.number, name(1)) in [record for record, _ in records(newest(tmp_path))]
        payments.resolve(ticket, 200, 10, final=True)
        payments.sent(ticket)
        await payments.durable()
    async with running(tmp_path) as again:
        assert is_bound(again, 1)


@pytest.mark.parametrize("seed", range(4))
async def test_random_crashes_never_forget_a_sent_charge_nor_bind_a_void_one(
    quick_folder: Path, seed: int
) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    served: set[int] = set()
    number = 0
    for _ in range(5):
        payments = open_payments(quick_folder, segment_bytes=4_000)
        await payments.start()
        for _ in range(rng.randrange(40)):
            number += 1
            ticket = accept(payments, AGENT, identifier=name(number))
            fate = rng.random()
            if fate < 0.2:
                continue
            charged = 0 if fate < 0.4 else 10
            payments.resolve(ticket, 200 if charged else 502, charged, final=True)
            await payments.durable()
            if fate > 0.6 or not charged:
                payments.sent(ticket)
                served |= {number} if charged else set()
        await payments.durable()
        segment = payments.journal.segments[-1]
        end, path = segment.end, segment.path
        for extra in range(rng.randrange(5)):
            serve(payments, AGENT, identifier=name(100_000 + number + extra))
        await payments.journal.close()
        if newest(quick_folder) == path:
            with path.open("r+b") as file:
                file.truncate(rng.randrange(end, path.stat().st_size + 1))
    async with running(quick_folder) as last:
        assert {n for n in range(1, number + 1) if is_bound(last, n)} == served
        assert all(
            binding.receipt is not None and binding.receipt.receipt.charged == 10
            for binding in last.book.bindings.snapshot().values()
        )
