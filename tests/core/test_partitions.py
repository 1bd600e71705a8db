"""Partitions are created ahead, from the catalogue, once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from django.db import IntegrityError, connection, transaction

from apps.core import partitions
from apps.core.partitions import PartitionedTable, ensure, existing, partition_name, shift, start_of
from apps.core.tasks import ensure_partitions

EVENTS = PartitionedTable("test_events", "day", ahead=2, behind=1)
NOON = datetime(2026, 2, 28, 12, 30, tzinfo=UTC)


def utc(year: int, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


@pytest.fixture
def events(db):
    """An empty parent table with an index and a check, as a migration would leave it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE test_events (at timestamptz NOT NULL, id bigint NOT NULL CHECK (id > 0), body text,"
            " PRIMARY KEY (at, id)) PARTITION BY RANGE (at)"
        )
        cursor.execute("CREATE INDEX test_events_body ON test_events (body)")


def insert(moment: datetime, number: int = 1) -> str:
    """Store a row and return the partition it went to."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO test_events VALUES (%s, %s, 'x') RETURNING tableoid::regclass::text",
            [moment, number],
        )
        return str(cursor.fetchone()[0])


@pytest.mark.parametrize(
    ("period", "start", "after", "before"),
    [
        ("hour", utc(2026, 2, 28, 12), utc(2026, 2, 28, 13), utc(2026, 2, 28, 11)),
        ("day", utc(2026, 2, 28), utc(2026, 3, 1), utc(2026, 2, 27)),
        ("month", utc(2026, 2, 1), utc(2026, 3, 1), utc(2026, 1, 1)),
    ],
)
def test_periods_begin_and_follow_each_other(period, start, after, before):
    beginning = start_of(period, NOON)
    assert beginning == start
    assert shift(period, beginning, 1) == after
    assert shift(period, beginning, -1) == before


def test_months_cross_the_year():
    december = datetime(2026, 12, 1, tzinfo=UTC)
    assert shift("month", december, 1) == datetime(2027, 1, 1, tzinfo=UTC)
    assert shift("month", december, -12) == datetime(2025, 12, 1, tzinfo=UTC)
    assert shift("month", datetime(2026, 1, 1, tzinfo=UTC), -1) == datetime(2025, 12, 1, tzinfo=UTC)


def test_periods_are_utc_whatever_the_clock_shows():
    late = datetime(2026, 3, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert start_of("month", late) == datetime(2026, 2, 1, tzinfo=UTC)


def test_missing_partitions_around_now_are_created_once(events):
    created = ensure(EVENTS, now=NOON)

    assert created == [
        "test_events_p20260227",
        "test_events_p20260228",
        "test_events_p20260301",
        "test_events_p20260302",
    ]
    assert existing("test_events") == set(created)
    assert ensure(EVENTS, now=NOON) == []
    assert ensure(EVENTS, now=NOON + timedelta(days=1)) == ["test_events_p20260303"]


def test_a_gap_is_filled(events):
    ensure(EVENTS, now=NOON)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE test_events_p20260228")

    assert ensure(EVENTS, now=NOON) == ["test_events_p20260228"]


def test_rows_go_where_they_belong_up_to_the_edges(events):
    ensure(EVENTS, now=NOON)
    midnight = datetime(2026, 3, 1, tzinfo=UTC)

    assert insert(midnight - timedelta(microseconds=1)) == "test_events_p20260228"
    assert insert(midnight) == "test_events_p20260301"


def test_there_is_no_default_partition(events):
    ensure(EVENTS, now=NOON)
    with pytest.raises(IntegrityError, match="no partition"):
        insert(NOON + timedelta(days=3))


def test_partitions_have_the_parents_keys_checks_and_indexes(events):
    ensure(EVENTS, now=NOON)
    insert(NOON)

    with pytest.raises(IntegrityError):
        insert(NOON)
    with pytest.raises(IntegrityError):
        insert(NOON, number=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_indexes WHERE tablename = 'test_events_p20260228'")
        assert cursor.fetchone() == (2,)


@pytest.mark.django_db(transaction=True)
def test_processes_that_start_together_create_each_partition_once():
    table = PartitionedTable("test_shared", "month", ahead=2)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE test_shared (at timestamptz NOT NULL) PARTITION BY RANGE (at)")
    barrier = threading.Barrier(6)

    def work(_number: int) -> list[str]:
        try:
            barrier.wait()
            return ensure(table, now=NOON)
        finally:
            connection.close()

    try:
        with ThreadPoolExecutor(6) as pool:
            created = [name for names in pool.map(work, range(6)) for name in names]
        assert sorted(created) == [
            partition_name(table, datetime(2026, month, 1, tzinfo=UTC)) for month in (2, 3, 4)
        ]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE test_shared")


def around(table: PartitionedTable, moment: datetime) -> set[str]:
    """The partitions that `table` needs at `moment`."""
    current = start_of(table.period, moment)
    return {
        partition_name(table, shift(table.period, current, n)) for n in range(-table.behind, table.ahead + 1)
    }


@pytest.mark.django_db
def test_every_registered_table_is_ready_after_the_migrations():
    assert {table.table for table in partitions.registered()} >= {"payment_intents"}
    now = datetime.now(UTC)
    begun = now - timedelta(hours=2)  # the tests' database was migrated since; perhaps before midnight
    for table in partitions.registered():
        assert around(table, now) <= existing(table.table) or around(table, begun) <= existing(table.table)
    ensure_partitions()
    for table in partitions.registered():
        assert around(table, now) <= existing(table.table)
    assert ensure_partitions() == 0
