"""What PostgreSQL refuses by itself, to SQL that goes around `post` and around the ORM."""

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from apps.ledger import chart
from apps.ledger.selectors import balance
from apps.ledger.services import post
from apps.ledger.types import Transfer

USDC = "usdc"
BOND, DEPOSITS = chart.bond("a", USDC), chart.deposits(USDC)
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def funded(db):
    """Two accounts with one transfer of 70 between them."""
    post([Transfer.move("d1", "deposit", debit=DEPOSITS, credit=BOND, amount_atomic=70)])


def account_id(kind: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM ledger_account WHERE kind = %s", [kind])
        return int(cursor.fetchone()[0])


def refused(sql: str, *parameters: int, message: str, error: type[Exception] = IntegrityError) -> None:
    """The database refuses `sql`, for the reason that `message` names, and nothing has moved."""
    with pytest.raises(error, match=message), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql, parameters)
    assert balance(BOND) == 70
    assert balance(DEPOSITS) == -70


# One statement that writes balances, a transfer and its entries, as `post` does. Each test breaks one part of it.
WRITE = """
WITH moved AS (
    UPDATE ledger_account a SET balance_atomic = n.balance, version = n.version
    FROM (VALUES (%(bond)s::bigint, %(bond_balance)s::numeric, %(bond_version)s::bigint),
                 (%(deposits)s, %(deposits_balance)s, 2)) AS n (id, balance, version)
    WHERE a.id = n.id
), written AS (
    INSERT INTO ledger_transfer (key, kind, input_hash, entry_count)
    VALUES ('d2', 'deposit', '\\x00', %(entry_count)s) RETURNING id
)
INSERT INTO ledger_entry (transfer_id, account_id, account_version, amount_atomic, previous_atomic, balance_atomic)
SELECT written.id, n.account, n.version, n.amount, n.previous, n.balance FROM written, (VALUES
    (%(bond)s::bigint, %(bond_entry_version)s::bigint, %(bond_amount)s::numeric, %(bond_previous)s::numeric,
     %(bond_previous)s::numeric + %(bond_amount)s::numeric),
    (%(deposits)s, 2, %(deposits_amount)s, -70, -70 + %(deposits_amount)s::numeric)
) AS n (account, version, amount, previous, balance)
"""


def write(**changes: int) -> None:
    values = {
        "bond": account_id("bond"),
        "deposits": account_id("deposits"),
        "bond_balance": 75,
        "bond_version": 2,
        "deposits_balance": -75,
        "entry_count": 2,
        "bond_entry_version": 2,
        "bond_amount": 5,
        "bond_previous": 70,
        "deposits_amount": -5,
        **changes,
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(WRITE, values)


def test_the_complete_statement_is_accepted():
    write()
    assert balance(BOND) == 75


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bond_amount": 6, "bond_balance": 76}, "does not balance|do not complete"),
        ({"entry_count": 3}, "does not balance|do not complete"),
        ({"bond_balance": 80}, "is not that of its last entry|do not follow"),
        ({"bond_previous": 71, "bond_balance": 76}, "do not follow"),
        ({"bond_version": 3, "bond_entry_version": 3}, "do not follow"),
        ({"bond_entry_version": 1}, "ledger_entry_position"),
        ({"bond_version": 1}, "is not that of its last entry|do not follow"),
        (
            {"bond_amount": -80, "bond_balance": -10, "deposits_amount": 80, "deposits_balance": 10},
            "not_negative",
        ),
        ({"bond_amount": 0, "bond_balance": 70}, "ledger_entry_moves"),
        ({"bond": 999_999}, "do not follow"),
    ],
    ids=[
        "unbalanced",
        "incomplete",
        "balance-without-entry",
        "wrong-previous",
        "gap-in-history",
        "position-taken",
        "version-left-behind",
        "negative-bond",
        "empty-entry",
        "unknown-account",
    ],
)
def test_a_statement_with_one_part_wrong_is_refused(changes, message):
    with pytest.raises(IntegrityError, match=message):
        write(**changes)
    assert balance(BOND) == 70
    assert balance(DEPOSITS) == -70


def test_a_transfer_without_entries_is_refused():
    refused(
        "INSERT INTO ledger_transfer (key, kind, input_hash, entry_count) VALUES ('x', 'deposit', '\\x00', 2)",
        message="does not balance",
    )


def test_entries_cannot_be_added_to_a_stored_transfer():
    refused(
        "INSERT INTO ledger_entry (transfer_id, account_id, account_version, amount_atomic, previous_atomic,"
        " balance_atomic) SELECT transfer_id, account_id, 2, 5, 70, 75 FROM ledger_entry WHERE account_id = %s",
        account_id("bond"),
        message="do not complete",
    )


def test_as_many_balanced_entries_again_cannot_be_added_to_a_stored_transfer():
    refused(
        "WITH moved AS (UPDATE ledger_account SET balance_atomic = balance_atomic + sign(balance_atomic) * 5,"
        " version = 2 WHERE version = 1 RETURNING id, balance_atomic)"
        " INSERT INTO ledger_entry (transfer_id, account_id, account_version, amount_atomic, previous_atomic,"
        " balance_atomic) SELECT e.transfer_id, m.id, 2, m.balance_atomic - e.balance_atomic, e.balance_atomic,"
        " m.balance_atomic FROM moved m JOIN ledger_entry e ON e.account_id = m.id",
        message="added to stored transfer",
    )


def test_entries_need_a_transfer():
    refused(
        "INSERT INTO ledger_entry (transfer_id, account_id, account_version, amount_atomic, previous_atomic,"
        " balance_atomic) VALUES (0, %s, 2, 5, 70, 75), (0, %s, 2, -5, -70, -75)",
        account_id("bond"),
        account_id("deposits"),
        message="do not complete",
    )


def test_a_balance_does_not_change_without_an_entry():
    refused("UPDATE ledger_account SET balance_atomic = 80", message="is not that of its last entry")
    refused(
        "UPDATE ledger_account SET balance_atomic = 80, version = 2 WHERE kind = 'bond'",
        message="is not that of its last entry",
    )
    refused(
        "UPDATE ledger_account SET balance_atomic = 0, version = 0", message="is not that of its last entry"
    )


def test_an_account_keeps_its_name():
    refused(
        "UPDATE ledger_account SET owner = 'b' WHERE kind = 'bond'", message="is not that of its last entry"
    )
    refused("UPDATE ledger_account SET id = id + 1000", message="is not that of its last entry")


def test_an_account_begins_empty():
    refused(
        "INSERT INTO ledger_account (kind, owner, sub, currency, balance_atomic, version)"
        " VALUES ('bond', 'b', '', 'usdc', 5, 1)",
        message="begins empty",
    )


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE ledger_entry SET amount_atomic = amount_atomic",
        "DELETE FROM ledger_entry",
        "UPDATE ledger_transfer SET kind = 'charge'",
        "DELETE FROM ledger_transfer",
        "DELETE FROM ledger_account",
    ],
)
def test_history_is_append_only(sql):
    refused(sql, message="append-only")


@pytest.mark.parametrize("table", ["ledger_entry", "ledger_transfer", "ledger_account", "ledger_hold"])
def test_history_cannot_be_truncated(table):
    """The tests' own database allows it, to be emptied between tests: the guard is put back for this one."""
    refused(
        f"ALTER TABLE {table} ENABLE TRIGGER {table}_no_truncate; TRUNCATE {table} CASCADE",
        message="append-only",
        error=DatabaseError,
    )


def test_unknown_kinds_are_refused():
    refused(
        "INSERT INTO ledger_account (kind, owner, sub, currency, balance_atomic, version)"
        " VALUES ('gift', 'b', '', 'usdc', 0, 0)",
        message="kind_known",
    )
    refused(
        "INSERT INTO ledger_transfer (key, kind, input_hash, entry_count) VALUES ('x', 'gift', '\\x00', 2)",
        message="kind_known",
    )


@pytest.mark.parametrize(
    "account",
    [
        chart.withdrawn("a", USDC),
        chart.forfeited("a", USDC),
        chart.swept("a", USDC),
        chart.owed("v", "g", USDC),
    ],
    ids=lambda account: account.kind,
)
def test_no_way_out_of_a_bond_goes_below_zero(account):
    post(
        [Transfer.move("x", "sweep", debit=chart.spent_unsettled("a", USDC), credit=account, amount_atomic=5)]
    )
    refused(
        "UPDATE ledger_account SET balance_atomic = -1, version = 2 WHERE id = %s",
        account_id(account.kind),
        message="not_negative",
    )
    assert balance(account) == 5
