"""Several connections at once: no lost update, no double posting, no deadlock."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from django.db import connection, transaction

from apps.ledger import chart
from apps.ledger.errors import InsufficientFunds
from apps.ledger.models import Transfer as TransferRow
from apps.ledger.selectors import balance
from apps.ledger.services import post
from apps.ledger.types import Transfer

USDC = "usdc"
T = TypeVar("T")
WRITERS = 8
pytestmark = pytest.mark.django_db(transaction=True)


def together(work: Callable[[int], T]) -> list[T]:
    """Run `work(0..7)` on eight connections that start at the same moment."""
    barrier = threading.Barrier(WRITERS)

    def run(number: int) -> T:
        try:
            barrier.wait()
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(run, range(WRITERS)))


def move(key: str, source: str, target: str, amount: int) -> Transfer:
    return Transfer.move(
        key, "settle", debit=chart.bond(source, USDC), credit=chart.bond(target, USDC), amount_atomic=amount
    )


def fund(**bonds: int) -> None:
    with transaction.atomic():
        post(
            [
                Transfer.move(
                    f"fund:{agent}",
                    "deposit",
                    debit=chart.deposits(USDC),
                    credit=chart.bond(agent, USDC),
                    amount_atomic=amount,
                )
                for agent, amount in bonds.items()
            ]
        )


def test_the_same_transfers_from_eight_connections_are_stored_once():
    fund(a=1000)

    def work(_number: int) -> int:
        with transaction.atomic():
            return sum(
                not posted.replayed for posted in post([move(f"t{n}", "a", "b", 3) for n in range(20)])
            )

    assert sum(together(work)) == 20
    assert balance(chart.bond("b", USDC)) == 60
    assert TransferRow.objects.count() == 21


def test_no_update_of_a_hot_account_is_lost():
    fund(**{f"agent{n}": 100 for n in range(WRITERS)})

    def work(number: int) -> None:
        for round_ in range(10):
            with transaction.atomic():
                post([move(f"{number}-{round_}", f"agent{number}", "hot", 10)])

    together(work)
    assert balance(chart.bond("hot", USDC)) == WRITERS * 100


def test_transfers_in_opposite_directions_do_not_deadlock():
    fund(a=1000, b=1000)

    def work(number: int) -> None:
        for round_ in range(15):
            key = f"{number}-{round_}"
            with transaction.atomic():
                post([move(key, "a", "b", 1) if number % 2 else move(key, "b", "a", 1)])

    together(work)
    assert balance(chart.bond("a", USDC)) == balance(chart.bond("b", USDC)) == 1000


def test_the_last_coin_is_spent_once():
    fund(a=10)

    def work(number: int) -> bool:
        try:
            with transaction.atomic():
                post([move(f"spend{number}", "a", f"winner{number}", 10)])
        except InsufficientFunds:
            return False
        return True

    assert sorted(together(work)) == [False] * (WRITERS - 1) + [True]
    assert balance(chart.bond("a", USDC)) == 0


def test_accounts_created_at_the_same_time_are_created_once():
    fund(a=10_000)

    def work(number: int) -> None:
        order = range(30) if number % 2 else range(29, -1, -1)
        with transaction.atomic():
            post([move(f"{number}-{n}", "a", f"new{n}", 1) for n in order])

    together(work)
    assert [balance(chart.bond(f"new{n}", USDC)) for n in range(30)] == [WRITERS] * 30
