"""What every test of the network side shares."""

import pytest
from django.db import connection

LEDGER_TABLES = ("ledger_hold", "ledger_entry", "ledger_transfer", "ledger_account")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """The session's database, in which the ledger may be emptied: transactional tests end with TRUNCATE."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        for table in LEDGER_TABLES:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_no_truncate")
