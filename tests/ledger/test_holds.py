"""Holds: reserve, post whole or in part, void, expire. Each resolves once, and nobody spends what is held."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from apps.ledger import chart
from apps.ledger.errors import (
    HoldNotFound,
    HoldResolved,
    IdempotencyConflict,
    InsufficientFunds,
    InvalidTransfer,
)
from apps.ledger.models import Hold as HoldRow
from apps.ledger.models import Transfer as TransferRow
from apps.ledger.selectors import balance, funds, hold_state, total_held
from apps.ledger.services import expire, post, reserve, void
from apps.ledger.types import AccountRef, Hold, Transfer

USDC = "usdc"
ANN, OUT = chart.custodial(1, USDC), chart.paid_out(1, USDC)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def funded(db):
    """Ann has 100."""
    pay_in("in", ANN, 100)


def pay_in(key: str, account: AccountRef, amount: int) -> None:
    post(
        [
            Transfer.move(
                key,
                "custody_deposit",
                debit=chart.custody_deposits(USDC),
                credit=account,
                amount_atomic=amount,
            )
        ]
    )


def payout(key: str, amount: int, *, hold: str = "") -> Transfer:
    return Transfer.move(key, "payout", debit=ANN, credit=OUT, amount_atomic=amount, hold=hold)


def refused(error: type[Exception], work) -> None:
    """`work` raises `error`, and neither balances nor holds have moved."""
    before = funds(ANN), funds(OUT), list(HoldRow.objects.order_by("id").values_list("key", "state"))
    with pytest.raises(error), transaction.atomic():
        work()
    assert (
        funds(ANN),
        funds(OUT),
        list(HoldRow.objects.order_by("id").values_list("key", "state")),
    ) == before


def test_what_is_held_is_kept_and_cannot_be_spent():
    reserve([Hold("h", ANN, 60)])

    assert funds(ANN) == (100, 60)
    assert funds(ANN).spendable_atomic == 40
    assert total_held(chart.AccountKind.CUSTODIAL, USDC) == 60
    refused(InsufficientFunds, lambda: post([payout("p", 41)]))
    refused(InsufficientFunds, lambda: reserve([Hold("h2", ANN, 41)]))
    post([payout("p", 40)])
    assert funds(ANN) == (60, 60)


def test_the_whole_of_a_hold_is_posted():
    reserve([Hold("h", ANN, 100)])
    post([payout("p", 100, hold="h")])

    assert funds(ANN) == (0, 0)
    assert balance(OUT) == 100
    row = HoldRow.objects.get(key="h")
    assert (row.state, row.posted_atomic, row.transfer.key) == ("POSTED", 100, "p")


def test_the_rest_of_a_hold_is_released_when_a_part_is_posted():
    reserve([Hold("h", ANN, 100)])
    post([payout("p", 30, hold="h")])

    assert funds(ANN) == (70, 0)
    assert balance(OUT) == 30
    refused(HoldResolved, lambda: post([payout("p2", 30, hold="h")]))


def test_a_hold_is_not_posted_beyond_its_amount_or_from_another_account():
    reserve([Hold("h", ANN, 60)])
    bob = chart.custodial(2, USDC)
    pay_in("in2", bob, 10)

    refused(InvalidTransfer, lambda: post([payout("p", 61, hold="h")]))
    other = Transfer.move("p", "payout", debit=bob, credit=OUT, amount_atomic=5, hold="h")
    refused(InvalidTransfer, lambda: post([other]))
    refused(HoldNotFound, lambda: post([payout("p", 1, hold="nothing")]))
    assert hold_state("h") == "OPEN"


def test_posting_a_hold_again_with_the_same_key_moves_nothing():
    reserve([Hold("h", ANN, 60)])
    first = post([payout("p", 60, hold="h")])
    again = post([payout("p", 60, hold="h")])

    assert [each.id for each in again] == [each.id for each in first]
    assert again[0].replayed
    assert balance(OUT) == 60


def test_a_voided_hold_gives_everything_back_and_voiding_again_changes_nothing():
    reserve([Hold("h", ANN, 60)])
    void(["h"])
    void(["h"])

    assert funds(ANN) == (100, 0)
    refused(HoldResolved, lambda: post([payout("p", 1, hold="h")]))
    refused(HoldNotFound, lambda: void(["nothing"]))


def test_a_posted_hold_cannot_be_voided():
    reserve([Hold("h", ANN, 60)])
    post([payout("p", 10, hold="h")])

    refused(HoldResolved, lambda: void(["h"]))


def test_holds_end_when_their_time_is_over():
    reserve([Hold("h", ANN, 60, expires_at=LATER), Hold("forever", ANN, 10)])

    assert expire(now=LATER - timedelta(seconds=1)) == 0
    assert expire(now=LATER) == 1
    assert expire(now=LATER) == 0
    assert funds(ANN) == (100, 10)
    assert (hold_state("h"), hold_state("forever")) == ("EXPIRED", "OPEN")
    refused(HoldResolved, lambda: post([payout("p", 1, hold="h")]))


def test_a_hold_whose_time_is_over_is_not_posted_before_its_row_says_so():
    reserve([Hold("h", ANN, 60, expires_at=datetime(2020, 1, 1, tzinfo=UTC))])

    refused(HoldResolved, lambda: post([payout("p", 1, hold="h")]))
    assert hold_state("h") == "OPEN"


def test_the_same_hold_is_stored_once_and_other_content_is_refused():
    first = reserve([Hold("h", ANN, 60)])
    again = reserve([Hold("h", ANN, 60), Hold("h", ANN, 60)])

    assert [each.id for each in again] == [first[0].id] * 2
    assert again[0].replayed
    assert funds(ANN) == (100, 60)
    refused(IdempotencyConflict, lambda: reserve([Hold("h", ANN, 61)]))
    refused(IdempotencyConflict, lambda: reserve([Hold("h", ANN, 60, expires_at=LATER)]))
    refused(IdempotencyConflict, lambda: reserve([Hold("n", ANN, 1), Hold("n", ANN, 2)]))
    refused(InvalidTransfer, lambda: reserve([Hold("zero", ANN, 0)]))


def test_holds_of_one_call_are_all_or_none():
    refused(InsufficientFunds, lambda: reserve([Hold("a", ANN, 60), Hold("b", ANN, 41)]))
    assert HoldRow.objects.count() == 0


def test_nothing_can_be_held_of_an_account_without_a_lower_bound():
    refused(InsufficientFunds, lambda: reserve([Hold("h", chart.custody_deposits(USDC), 1)]))


# ---- what PostgreSQL refuses by itself


def sql_refused(sql: str, message: str, error: type[Exception] = IntegrityError) -> None:
    before = funds(ANN), list(HoldRow.objects.order_by("id").values_list("key", "state", "amount_atomic"))
    with pytest.raises(error, match=message), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)
    assert (
        funds(ANN),
        list(HoldRow.objects.order_by("id").values_list("key", "state", "amount_atomic")),
    ) == before


NEW_HOLD = (
    "INSERT INTO ledger_hold (key, input_hash, account_id, amount_atomic, state, resolved_at)"
    " SELECT 'x', '\\x00', id, {amount}, '{state}', {resolved} FROM ledger_account WHERE kind = 'custodial'"
)


def test_a_hold_without_the_balance_that_is_held_is_refused():
    sql_refused(
        NEW_HOLD.format(amount=5, state="OPEN", resolved="NULL"), message="not the sum of its open holds"
    )
    sql_refused("UPDATE ledger_account SET held_atomic = 5 WHERE kind = 'custodial'", message="open holds")


def test_a_hold_does_not_begin_resolved():
    sql_refused(NEW_HOLD.format(amount=5, state="VOIDED", resolved="now()"), message="begins open")


def test_more_than_the_balance_is_never_held():
    sql_refused(
        "WITH held AS (UPDATE ledger_account SET held_atomic = 101 WHERE kind = 'custodial') "
        + NEW_HOLD.format(amount=101, state="OPEN", resolved="NULL"),
        message="ledger_account_not_negative",
    )


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE ledger_hold SET state = 'VOIDED', resolved_at = now()", "open holds"),
        ("UPDATE ledger_hold SET amount_atomic = 1", "resolves once"),
        ("UPDATE ledger_hold SET expires_at = now()", "resolves once"),
        ("UPDATE ledger_hold SET state = 'POSTED', resolved_at = now()", "ledger_hold_resolution"),
        (
            "WITH given AS (UPDATE ledger_account SET held_atomic = 0 WHERE kind = 'custodial')"
            " UPDATE ledger_hold SET state = 'POSTED', resolved_at = now(), posted_atomic = 60,"
            " transfer_id = (SELECT min(id) FROM ledger_transfer)",
            "not posted by that transfer",
        ),
        ("DELETE FROM ledger_hold", "append-only"),
    ],
    ids=["voided-but-held", "amount", "time", "posted-by-nothing", "posted-by-another", "deleted"],
)
def test_an_open_hold_only_resolves(sql, message):
    reserve([Hold("h", ANN, 60)])
    sql_refused(sql, message, DatabaseError)


def test_a_resolved_hold_does_not_change_again():
    reserve([Hold("h", ANN, 60)])
    void(["h"])
    sql_refused("UPDATE ledger_hold SET state = 'EXPIRED'", "resolves once")
    sql_refused(
        "WITH taken AS (UPDATE ledger_account SET held_atomic = 60 WHERE kind = 'custodial' AND shard = 0)"
        " UPDATE ledger_hold SET state = 'OPEN', resolved_at = NULL",
        "resolves once",
    )


def test_the_transfer_of_a_hold_stays_with_it():
    reserve([Hold("h", ANN, 60)])
    post([payout("p", 60, hold="h")])
    assert TransferRow.objects.get(hold__key="h").key == "p"
