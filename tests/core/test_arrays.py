"""Array literals mean to PostgreSQL what the values were, whatever characters they hold."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.core.arrays import binaries, integers, texts

pytestmark = pytest.mark.django_db
storable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
on_one_database = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(literal: str, kind: str) -> list:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM unnest(%s::{kind}[])", [literal])
        return [value for (value,) in cursor.fetchall()]


@on_one_database
@given(
    st.lists(st.none() | storable | st.sampled_from(['"', "\\", "NULL", "null", "", "{}", ",", " ", "%s"]))
)
def test_texts(values):
    assert read(texts(values), "text") == values


@on_one_database
@given(st.lists(st.none() | st.binary(max_size=40)))
def test_binaries(values):
    assert [None if each is None else bytes(each) for each in read(binaries(values), "bytea")] == values


@on_one_database
@given(st.lists(st.integers(-(10**37), 10**37)))
def test_integers(values):
    assert [int(each) for each in read(integers(values), "numeric")] == values


def test_what_is_written_as_text():
    now, nonce = datetime(2026, 11, 21, 12, 0, 0, 250_000, UTC), UUID(int=7)
    assert read(texts([now.isoformat(), None]), "timestamptz") == [now, None]
    assert read(texts([str(nonce)]), "uuid") == [nonce]
