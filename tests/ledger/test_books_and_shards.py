"""Books never mix; an account of several rows reads and pays as one."""

import pytest
from django.db import IntegrityError, connection, transaction

from apps.ledger import chart
from apps.ledger.errors import InsufficientFunds, InvalidTransfer
from apps.ledger.models import Account, Entry
from apps.ledger.models import Transfer as TransferRow
from apps.ledger.selectors import InvalidCursor, balance, balances, funds, statement, total, trial_balance
from apps.ledger.services import post, reserve
from apps.ledger.types import AccountRef, Book, Hold, Leg, Transfer

USDC = "usdc"
ANN, BOB = chart.custodial(1, USDC), chart.custodial(2, USDC)
pytestmark = pytest.mark.django_db


def pay_in(key: str, account: AccountRef, amount: int) -> None:
    edge = chart.custody_deposits(USDC)._replace(book=account.book)
    post([Transfer.move(key, "custody_deposit", debit=edge, credit=account, amount_atomic=amount)])


@pytest.fixture
def on_shard(monkeypatch):
    """`on_shard(3)`: from now on this connection pays into shard 3, as another process would."""
    from apps.ledger.services import accounts

    arranged = accounts._own_shard
    chosen = {"shard": None}
    monkeypatch.setattr(
        accounts,
        "_own_shard",
        lambda cursor: arranged(cursor) if chosen["shard"] is None else chosen["shard"],
    )
    return lambda shard: chosen.update(shard=shard)


@pytest.fixture
def spread(on_shard):
    """Ann has 10, 20 and 30 on three of her rows."""
    for shard, amount in ((0, 10), (3, 20), (7, 30)):
        on_shard(shard)
        pay_in(f"in{shard}", ANN, amount)
    return on_shard


def rows() -> dict[int, int]:
    return dict(
        Account.objects.filter(kind="custodial", owner="user:1").values_list("shard", "balance_atomic")
    )


def test_several_rows_read_as_one_account(spread):
    assert rows() == {0: 10, 3: 20, 7: 30}
    assert balance(ANN) == 60
    assert balances(chart.AccountKind.CUSTODIAL, USDC) == {("user:1", ""): 60}
    assert total(chart.AccountKind.CUSTODIAL, USDC) == 60


def test_a_debit_takes_from_the_first_row_and_folds_the_others_into_it_when_it_lacks(spread):
    pay = Transfer.move("p1", "pay", debit=ANN, credit=BOB, amount_atomic=10)
    post([pay])
    assert rows() == {0: 0, 3: 20, 7: 30}
    assert not TransferRow.objects.filter(kind="fold").exists()

    post([Transfer.move("p2", "pay", debit=ANN, credit=BOB, amount_atomic=45)])
    assert rows() == {0: 5, 3: 0, 7: 0}
    assert balance(BOB) == 55
    assert TransferRow.objects.filter(kind="fold").count() == 1


def test_more_than_all_rows_together_is_refused_and_nothing_is_folded(spread):
    with pytest.raises(InsufficientFunds), transaction.atomic():
        post([Transfer.move("p", "pay", debit=ANN, credit=BOB, amount_atomic=61)])
    assert rows() == {0: 10, 3: 20, 7: 30}
    assert balance(BOB) == 0


def test_a_hold_folds_the_rows_that_it_needs(spread):
    reserve([Hold("h", ANN, 55)])

    assert rows() == {0: 60, 3: 0, 7: 0}
    assert funds(ANN) == (60, 55)
    with pytest.raises(InsufficientFunds), transaction.atomic():
        post([Transfer.move("p", "pay", debit=ANN, credit=BOB, amount_atomic=6)])


def test_one_batch_may_credit_and_debit_one_account(spread):
    post(
        [
            Transfer.move("p1", "pay", debit=ANN, credit=BOB, amount_atomic=60),
            Transfer.move("p2", "pay", debit=BOB, credit=ANN, amount_atomic=25),
            Transfer.move("p3", "pay", debit=ANN, credit=BOB, amount_atomic=25),
        ]
    )
    assert (balance(ANN), balance(BOB)) == (0, 60)


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest-first", "newest-first"])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_a_statement_of_several_rows_is_one_history_page_by_page(spread, limit, newest_first):
    post([Transfer.move("p1", "pay", debit=ANN, credit=BOB, amount_atomic=45)])
    spread(3)
    pay_in("in-again", ANN, 7)
    post([Transfer.move("p2", "pay", debit=ANN, credit=BOB, amount_atomic=20)])
    expected = [
        ("in0", 10, 10),
        ("in3", 20, 30),
        ("in7", 30, 60),
        ("p1", -45, 15),
        ("in-again", 7, 22),
        ("p2", -20, 2),
    ]

    lines, cursor = [], ""
    while page := statement(ANN, after=cursor, limit=limit, newest_first=newest_first):
        assert len(page) <= limit
        lines += page
        cursor = page[-1].cursor
    told = [(line.key, line.amount_atomic, line.balance_atomic) for line in lines]
    assert told == (expected[::-1] if newest_first else expected)


def test_what_is_posted_between_two_pages_is_told_once(spread):
    first = statement(ANN, limit=2)
    spread(5)
    pay_in("between", ANN, 4)
    rest = statement(ANN, after=first[-1].cursor)

    assert [(line.key, line.balance_atomic) for line in first + rest] == [
        ("in0", 10),
        ("in3", 30),
        ("in7", 60),
        ("between", 64),
    ]
    newest = statement(ANN, limit=1, newest_first=True)
    spread(6)
    pay_in("meanwhile", ANN, 1)
    older = statement(ANN, after=newest[-1].cursor, newest_first=True)
    assert [line.key for line in newest + older] == ["between", "in7", "in3", "in0"]


@pytest.mark.parametrize("cursor", ["x", "0", "0:1,3:1", "99:", "0:999"])
def test_a_cursor_that_is_none_is_refused(spread, cursor):
    with pytest.raises(InvalidCursor):
        statement(ANN, after=cursor)


def test_only_custodial_accounts_are_several_rows():
    pay_in("in", ANN, 1)
    with (
        pytest.raises(IntegrityError, match="ledger_account_shard"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "INSERT INTO ledger_account (kind, owner, sub, currency, shard, balance_atomic, version)"
            " VALUES ('bond', 'a', '', 'usdc', 1, 0, 0)"
        )


# ---- books


def test_simulated_money_stays_in_its_book():
    pay_in("in", ANN, 5)
    play = ANN.in_book(Book.SIMULATION)
    pay_in("play", play, 70)

    assert (balance(ANN), balance(play)) == (5, 70)
    assert total(chart.AccountKind.CUSTODIAL, USDC) == 5
    assert [(each.book, each.by_kind) for each in trial_balance()] == [
        ("main", {"custodial": 5, "custody_deposits": -5}),
        ("simulation", {"custodial": 70, "custody_deposits": -70}),
    ]


def test_a_transfer_between_books_is_refused():
    pay_in("play", ANN.in_book(Book.SIMULATION), 70)
    with pytest.raises(InvalidTransfer):
        post([Transfer.move("x", "pay", debit=ANN.in_book(Book.SIMULATION), credit=BOB, amount_atomic=5)])
    assert Entry.objects.count() == 2


def test_the_database_refuses_a_transfer_between_books():
    """Two transfers that balance each by itself, their credits exchanged by SQL that goes around `post`."""
    pay_in("in", ANN, 5)
    pay_in("play", ANN.in_book(Book.SIMULATION), 5)
    sql = """
    WITH row AS (
        SELECT DISTINCT ON (book) id, balance_atomic AS balance, version,
               CASE book WHEN 'main' THEN 5 ELSE -5 END AS amount
        FROM ledger_account WHERE kind = 'custodial' ORDER BY book
    ), moved AS (
        UPDATE ledger_account a SET balance_atomic = row.balance + row.amount, version = row.version + 1
        FROM row WHERE row.id = a.id
    ), written AS (
        INSERT INTO ledger_transfer (key, kind, input_hash, entry_count) VALUES ('x', 'pay', '\\x00', 2) RETURNING id
    )
    INSERT INTO ledger_entry
        (transfer_id, account_id, account_version, amount_atomic, previous_atomic, balance_atomic)
    SELECT written.id, row.id, row.version + 1, row.amount, row.balance, row.balance + row.amount FROM row, written
    """
    with (
        pytest.raises(IntegrityError, match="do not complete transfer"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
    assert (balance(ANN), balance(ANN.in_book(Book.SIMULATION))) == (5, 5)


def test_the_same_movement_in_another_book_is_another_content():
    legs = (Leg(ANN, 5), Leg(BOB, -5))
    played = tuple(Leg(leg.account.in_book(Book.SIMULATION), leg.amount_atomic) for leg in legs)
    assert Transfer("k", "pay", legs).input_hash != Transfer("k", "pay", played).input_hash
