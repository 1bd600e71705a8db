"""A receiver process on the session's database, and a connection that sees what it committed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from apps.telemetry.tables import TABLES
from tests.support.servers import Server, session_database_url, uvicorn
from tests.telemetry.senders import Sender

RECEIVER = "apps.telemetry.receiver.asgi:app"
Rows = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(scope="session")
def database_url(django_db_setup: None) -> str:
    return session_database_url()


@pytest.fixture(scope="session")
def database(database_url: str) -> Iterator[psycopg.Connection]:
    """Sees only what others committed. Leaves the event tables empty."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection
        connection.execute(f"TRUNCATE {', '.join(table.table for table in TABLES)}".encode())


@pytest.fixture
def rows(database: psycopg.Connection) -> Rows:
    def query(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return database.execute(statement.encode(), parameters).fetchall()

    return query


@pytest.fixture(scope="session")
def receiver(database: psycopg.Connection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log_dir: Path = tmp_path_factory.mktemp("receiver")
    with uvicorn(RECEIVER, log_dir) as server:
        yield server


@pytest.fixture
def gateway(receiver: Server) -> Sender:
    return Sender(receiver.url)


@pytest.fixture
def agent(receiver: Server) -> Sender:
    return Sender(receiver.url, "agent")
