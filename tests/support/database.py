"""A database whose transactions really commit, emptied after each test.

pytest-django's `transactional_db` cannot empty it: the ledger's guards refuse TRUNCATE to everybody. Here they are off while
the tables are emptied, which only a superuser may do.
"""

from collections.abc import Iterator
from typing import Final

import pytest
from django.db import connection

# Written by migrations, not by tests.
_KEPT: Final = ("django_migrations", "django_content_type", "auth_permission")


@pytest.fixture
def committed_db(django_db_setup: None, django_db_blocker: pytest.FixtureRequest) -> Iterator[None]:
    """Access to the database for tests with threads, processes or crashes between commits."""
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        try:
            yield
        finally:
            _empty()
            connection.close()


def _empty() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL(%s)",
            [list(_KEPT)],
        )
        tables = ", ".join(name for (name,) in cursor.fetchall())
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(f"TRUNCATE {tables} RESTART IDENTITY")
        cursor.execute("RESET session_replication_role")
