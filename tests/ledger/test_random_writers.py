"""Random histories by several connections at once: whatever they did, the books add up and nobody overspent.

Each example has a currency of its own, so examples share the database and not the accounts.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from apps.ledger import chart
from apps.ledger.errors import (
    HoldNotFound,
    HoldResolved,
    IdempotencyConflict,
    InsufficientFunds,
    InvalidTransfer,
)
from apps.ledger.selectors import funds, statement
from apps.ledger.services import expire, post, reserve, void
from apps.ledger.types import AccountRef, Hold, Transfer

WRITERS = 3
USERS = 3
OPENING = 1_000
PAST = datetime(2020, 1, 1, tzinfo=UTC)
_example = itertools.count()
REFUSALS = (InsufficientFunds, HoldResolved, HoldNotFound, IdempotencyConflict, InvalidTransfer)


@dataclass(frozen=True)
class Step:
    """One thing one writer tries. Names come from a small set, so that writers get in each other's way."""

    do: str
    name: int
    user: int
    other: int
    amount: int


steps = st.builds(
    Step,
    do=st.sampled_from(["pay", "pay", "hold", "brief", "post", "part", "void", "expire"]),
    name=st.integers(0, 12),
    user=st.integers(0, USERS - 1),
    other=st.integers(0, USERS - 1),
    amount=st.integers(1, 600),
)


class Writers(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.currency = f"currency-{next(_example)}"
        self.users = [chart.custodial(number, self.currency) for number in range(USERS)]
        self.out = chart.paid_out(0, self.currency)
        self.edge = chart.custody_deposits(self.currency)
        self.moved: Counter[AccountRef] = Counter()
        with transaction.atomic():
            post(
                [
                    Transfer.move(
                        f"{self.currency}:open:{number}",
                        "custody_deposit",
                        debit=self.edge,
                        credit=user,
                        amount_atomic=OPENING,
                    )
                    for number, user in enumerate(self.users)
                ]
            )
        self.moved += Counter(dict.fromkeys(self.users, OPENING))
        self.moved[self.edge] -= OPENING * USERS

    @rule(plans=st.lists(st.lists(steps, max_size=6), min_size=WRITERS, max_size=WRITERS))
    def together(self, plans: list[list[Step]]) -> None:
        barrier = threading.Barrier(WRITERS)

        def write(plan: list[Step]) -> list[Transfer]:
            try:
                barrier.wait()
                return [transfer for step in plan for transfer in self.attempt(step)]
            finally:
                connection.close()

        with ThreadPoolExecutor(WRITERS) as pool:
            for transfer in itertools.chain.from_iterable(pool.map(write, plans)):
                for leg in transfer.legs:
                    self.moved[leg.account] += leg.amount_atomic

    def attempt(self, step: Step) -> list[Transfer]:
        """Do one step in a transaction; returns what this writer, and nobody else, has moved."""
        try:
            with transaction.atomic():
                return self.steps()[step.do](step)
        except REFUSALS:
            return []

    def steps(self) -> dict[str, Callable[[Step], list[Transfer]]]:
        return {
            "pay": lambda step: self.post(self.pay(step)),
            "hold": lambda step: self.hold(step, None),
            "brief": lambda step: self.hold(step, PAST),
            "post": lambda step: self.post(self.payout(step, 1)),
            "part": lambda step: self.post(self.payout(step, 2)),
            "void": lambda step: self.nothing(void([self.key("hold", step)])),
            "expire": lambda _step: self.nothing(expire(now=PAST)),
        }

    def key(self, what: str, step: Step) -> str:
        return f"{self.currency}:{what}:{step.name}"

    def pay(self, step: Step) -> Transfer:
        source, target = self.users[step.user], self.users[step.other]
        return Transfer.move(
            self.key("pay", step), "pay", debit=source, credit=target, amount_atomic=step.amount
        )

    def payout(self, step: Step, divisor: int) -> Transfer:
        return Transfer.move(
            self.key("out", step),
            "payout",
            debit=self.users[step.user],
            credit=self.out,
            amount_atomic=max(1, step.amount // divisor),
            hold=self.key("hold", step),
        )

    def hold(self, step: Step, expires_at: datetime | None) -> list[Transfer]:
        reserve([Hold(self.key("hold", step), self.users[step.user], step.amount, expires_at)])
        return []

    def post(self, transfer: Transfer) -> list[Transfer]:
        (posted,) = post([transfer])
        return [] if posted.replayed else [transfer]

    def nothing(self, _done: object) -> list[Transfer]:
        return []

    @invariant()
    def books_add_up(self) -> None:
        accounts = [*self.users, self.out, self.edge]
        assert {account: funds(account).balance_atomic for account in accounts} == {
            account: self.moved[account] for account in accounts
        }
        assert sum(self.moved.values()) == 0
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT a.id FROM ledger_account a WHERE a.currency = %s AND ("
                " a.balance_atomic <> (SELECT coalesce(sum(amount_atomic), 0) FROM ledger_entry e"
                "                      WHERE e.account_id = a.id)"
                " OR a.version <> (SELECT count(*) FROM ledger_entry e WHERE e.account_id = a.id)"
                " OR a.held_atomic <> (SELECT coalesce(sum(amount_atomic), 0) FROM ledger_hold h"
                "                      WHERE h.account_id = a.id AND h.state = 'OPEN')"
                " OR (a.kind <> 'custody_deposits' AND a.balance_atomic < a.held_atomic))",
                [self.currency],
            )
            assert cursor.fetchall() == []
        for user in self.users:
            lines = statement(user)
            assert [line.balance_atomic for line in lines] == list(
                itertools.accumulate(line.amount_atomic for line in lines)
            )
            assert (lines[-1].balance_atomic if lines else 0) == funds(user).balance_atomic


@pytest.mark.django_db(transaction=True)
def test_any_history_of_several_writers_adds_up():
    run_state_machine_as_test(
        Writers,
        settings=settings(
            max_examples=8,
            stateful_step_count=5,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
