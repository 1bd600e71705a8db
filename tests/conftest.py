"""What every test of the network side shares."""

import pytest
from django.db import connection

KEPT_TABLES = (
    *("ledger_hold", "ledger_entry", "ledger_transfer", "ledger_account"),
    *("payment_intents", "payments_enforcement", "payments_case_entry"),
)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """The session's database, in which everything may be emptied: transactional tests end with TRUNCATE."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        for table in KEPT_TABLES:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_no_truncate")
