"""`post` moves money once, in order, and refuses what does not add up."""

import pytest
from django.db import connection, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from apps.ledger import chart
from apps.ledger.errors import IdempotencyConflict, InsufficientFunds, InvalidTransfer
from apps.ledger.models import Account, Entry
from apps.ledger.selectors import balance, balances_by_owner, statement, total, trial_balance
from apps.ledger.services import post
from apps.ledger.types import Leg, Transfer

USDC = "usdc"
pytestmark = pytest.mark.django_db


def deposit(key: str, agent: str, amount: int) -> Transfer:
    return Transfer.move(
        key, "deposit", debit=chart.deposits(USDC), credit=chart.bond(agent, USDC), amount_atomic=amount
    )


def settle(key: str, agent: str, amount: int) -> Transfer:
    """Straight from a bond to a vendor: enough to move money out again."""
    return Transfer.move(
        key,
        "settle",
        debit=chart.bond(agent, USDC),
        credit=chart.settled("v", "g", USDC),
        amount_atomic=amount,
    )


def rows() -> tuple[int, int]:
    return Account.objects.filter(version__gt=0).count(), Entry.objects.count()


def test_a_transfer_moves_its_amount_and_creates_the_accounts():
    (posted,) = post([deposit("d1", "a", 70)])

    assert not posted.replayed
    assert balance(chart.bond("a", USDC)) == 70
    assert balance(chart.deposits(USDC)) == -70
    assert balance(chart.bond("nobody", USDC)) == 0


def test_entries_keep_previous_and_new_balance_and_the_version():
    post([deposit("d1", "a", 70), deposit("d2", "a", 5), settle("s1", "a", 30)])

    entries = Entry.objects.filter(account__kind="bond").order_by("account_version")
    assert [(e.account_version, e.previous_atomic, e.amount_atomic, e.balance_atomic) for e in entries] == [
        (1, 0, 70, 70),
        (2, 70, 5, 75),
        (3, 75, -30, 45),
    ]


def test_a_statement_reads_page_by_page():
    post([deposit(f"d{n}", "a", n) for n in range(1, 4)])

    first = statement(chart.bond("a", USDC), limit=2)
    rest = statement(chart.bond("a", USDC), after=first[-1].cursor)
    assert [(line.key, line.amount_atomic, line.balance_atomic) for line in first + rest] == [
        ("d1", 1, 1),
        ("d2", 2, 3),
        ("d3", 3, 6),
    ]


def test_the_trial_balance_sums_by_kind_and_currency():
    other = Transfer.move(
        "x", "deposit", debit=chart.deposits("eurc"), credit=chart.bond("a", "eurc"), amount_atomic=4
    )
    post([deposit("d1", "a", 70), deposit("d2", "b", 5), settle("s1", "a", 30), other])

    assert [(t.currency, t.by_kind, t.total_atomic) for t in trial_balance()] == [
        ("eurc", {"bond": 4, "deposits": -4}, 0),
        (USDC, {"bond": 45, "deposits": -75, "settled": 30}, 0),
    ]
    assert total(chart.AccountKind.BOND, USDC) == 45
    assert total(chart.AccountKind.SETTLED, USDC, owner="v") == 30
    assert balances_by_owner(chart.AccountKind.BOND, USDC) == {"a": 40, "b": 5}


def test_one_transfer_may_have_many_legs():
    post([deposit("d1", "a", 100)])
    legs = (
        Leg(chart.bond("a", USDC), -60),
        Leg(chart.spent_unsettled("a", USDC), 60),
        Leg(chart.unsettled("v", "g", USDC), 25),
        Leg(chart.settled("v", "g", USDC), -25),
    )

    with pytest.raises(InsufficientFunds), transaction.atomic():
        post([Transfer("s1", "settle", legs)])
    assert balance(chart.bond("a", USDC)) == 100
    post([Transfer("s1", "settle", (*legs[:2], Leg(legs[2].account, 25), Leg(chart.deposits(USDC), -25)))])
    assert balance(chart.bond("a", USDC)) == 40
    assert balance(chart.unsettled("v", "g", USDC)) == 25


def test_the_same_key_and_content_is_stored_once():
    first = post([deposit("d1", "a", 70)])
    again = post([deposit("d1", "a", 70), deposit("d2", "a", 1)])

    assert [(p.id, p.replayed) for p in again] == [(first[0].id, True), (again[1].id, False)]
    assert balance(chart.bond("a", USDC)) == 71


def test_a_key_given_twice_in_one_call_is_stored_once():
    first, second = post([deposit("d1", "a", 70), deposit("d1", "a", 70)])

    assert first.id == second.id
    assert balance(chart.bond("a", USDC)) == 70


@pytest.mark.parametrize(
    "other",
    [deposit("d1", "a", 71), deposit("d1", "b", 70), Transfer("d1", "charge", deposit("d1", "a", 70).legs)],
)
def test_the_same_key_with_other_content_is_refused(other):
    post([deposit("d1", "a", 70)])

    with pytest.raises(IdempotencyConflict), transaction.atomic():
        post([deposit("d2", "a", 1), other])
    with pytest.raises(IdempotencyConflict), transaction.atomic():
        post([deposit("d3", "a", 1), deposit("d3", "a", 2)])

    assert balance(chart.bond("a", USDC)) == 70
    assert rows() == (2, 2)


def test_spending_more_than_the_balance_moves_nothing_of_the_batch():
    post([deposit("d1", "a", 70)])

    with pytest.raises(InsufficientFunds), transaction.atomic():
        post([settle("s1", "a", 70), settle("s2", "a", 1)])

    assert balance(chart.bond("a", USDC)) == 70
    assert rows() == (2, 2)


def test_the_order_within_a_batch_counts():
    post([deposit("d1", "a", 70), settle("s1", "a", 70)])

    assert balance(chart.bond("a", USDC)) == 0


@pytest.mark.parametrize(
    "legs",
    [
        (),
        (Leg(chart.deposits(USDC), -1),),
        (Leg(chart.deposits(USDC), -1), Leg(chart.bond("a", USDC), 2)),
        (Leg(chart.deposits(USDC), 0), Leg(chart.bond("a", USDC), 0)),
        (Leg(chart.deposits(USDC), -1), Leg(chart.bond("a", "eurc"), 1)),
        (Leg(chart.deposits(USDC), -1), Leg(chart.deposits(USDC), 1)),
    ],
    ids=["empty", "one-sided", "unbalanced", "zero", "two-currencies", "one-account-twice"],
)
def test_a_transfer_that_is_not_one_is_refused(legs):
    with pytest.raises(InvalidTransfer):
        post([Transfer("x", "deposit", legs)])
    assert rows() == (0, 0)


def test_amounts_may_pass_64_bits():
    post([deposit("d1", "a", 2**64 - 1), deposit("d2", "a", 2**64 - 1)])

    assert balance(chart.bond("a", USDC)) == 2**65 - 2


@pytest.mark.django_db(transaction=True)
def test_posting_outside_a_transaction_is_refused():
    with pytest.raises(TransactionManagementError):
        post([deposit("d1", "a", 70)])
    assert rows() == (0, 0)


def test_the_number_of_statements_does_not_grow_with_the_batch():
    def statements(count: int) -> int:
        batch = [deposit(f"{count}-{n}", f"agent-{n}", 1) for n in range(count)]
        with CaptureQueriesContext(
            connection,
        ) as queries:
            post(batch)
        return len(queries)

    assert statements(1) == statements(300) == 4
