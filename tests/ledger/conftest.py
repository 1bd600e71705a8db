"""After every ledger test the books balance, whatever the test did."""

import pytest
from django.db import connection

from apps.ledger.selectors import trial_balance


@pytest.fixture(autouse=True)
def books_balance(request):
    yield
    if request.node.get_closest_marker("django_db"):
        assert_books_balance()


def assert_books_balance() -> None:
    """The sum of all balances is zero, and every balance is what its history folds to."""
    assert [balance.total_atomic for balance in trial_balance() if balance.total_atomic] == []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT a.id, a.balance_atomic, a.version, coalesce(sum(e.amount_atomic), 0), count(e.id)"
            " FROM ledger_account a LEFT JOIN ledger_entry e ON e.account_id = a.id GROUP BY a.id"
            " HAVING a.balance_atomic <> coalesce(sum(e.amount_atomic), 0) OR a.version <> count(e.id)"
        )
        assert cursor.fetchall() == []
