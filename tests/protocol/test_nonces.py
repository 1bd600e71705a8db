"""Nonces: fresh, time-ordered, and judged in milliseconds."""

import os
import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machpay.protocol.errors import MalformedError
from machpay.protocol.nonces import (
    CLOCK_SKEW_S,
    MAX_LIFETIME_S,
    lifetime_is_allowed,
    new_nonce,
    nonce_unix_ms,
    parse_nonce,
)
from tests.protocol.values import NOW, nonces

LIMIT_MS = (MAX_LIFETIME_S + CLOCK_SKEW_S) * 1000


@given(st.integers(0, 2**48 - 1))
def test_a_nonce_is_a_uuid7_that_carries_its_time(unix_ms):
    nonce = new_nonce(unix_ms)
    assert nonce.version == 7
    assert nonce.variant == "specified in RFC 4122"
    assert nonce_unix_ms(nonce) == unix_ms
    assert parse_nonce(str(nonce)) == nonce


@given(nonces)
def test_any_uuid7_parses_from_its_canonical_text(nonce):
    assert parse_nonce(str(nonce)) == nonce


def test_nonces_of_one_millisecond_differ():
    assert len({new_nonce(1) for _ in range(5_000)}) == 5_000


def test_the_default_time_is_now():
    before = time.time_ns() // 1_000_000
    stamp = nonce_unix_ms(new_nonce())
    assert before <= stamp <= time.time_ns() // 1_000_000


def test_forked_processes_draw_different_nonces():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"".join(new_nonce(1).bytes for _ in range(100)))
        os._exit(0)
    os.close(writer)
    ours = {new_nonce(1).bytes for _ in range(100)}
    with os.fdopen(reader, "rb") as pipe:
        raw = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    theirs = {raw[start : start + 16] for start in range(0, len(raw), 16)}
    assert len(theirs) == 100
    assert not ours & theirs


@pytest.mark.parametrize(
    "value",
    [
        "",
        "01A1FD8C-6900-7000-8000-000000000001",
        "{01a1fd8c-6900-7000-8000-000000000001}",
        "urn:uuid:01a1fd8c-6900-7000-8000-000000000001",
        "01a1fd8c690070008000000000000001",
        "01a1fd8c-6900-4000-8000-000000000001",
        "01a1fd8c-6900-7000-0000-000000000001",
        "01a1fd8c-6900-7000-c000-000000000001",
        "01a1fd8c-6900-7000-8000-00000000000g",
        "01a1fd8c-6900-7000-8000-000000000001 ",
        None,
        7,
        UUID("01a1fd8c-6900-7000-8000-000000000001"),
    ],
)
def test_other_forms_are_malformed(value):
    with pytest.raises(MalformedError, match="nonce"):
        parse_nonce(value)


def test_deadline_at_the_nonces_own_millisecond_is_allowed():
    assert lifetime_is_allowed(new_nonce(NOW * 1000), NOW)


def test_deadline_one_millisecond_before_the_nonce_is_refused():
    assert not lifetime_is_allowed(new_nonce(NOW * 1000 + 1), NOW)


def test_longest_lifetime_is_allowed():
    assert lifetime_is_allowed(new_nonce(NOW * 1000 - LIMIT_MS), NOW)


def test_one_millisecond_above_the_longest_lifetime_is_refused():
    assert not lifetime_is_allowed(new_nonce(NOW * 1000 - LIMIT_MS - 1), NOW)


def test_a_shorter_maximum_of_the_network_is_kept():
    limit_ms = (60 + CLOCK_SKEW_S) * 1000
    assert lifetime_is_allowed(new_nonce(NOW * 1000 - limit_ms), NOW, 60)
    assert not lifetime_is_allowed(new_nonce(NOW * 1000 - limit_ms - 1), NOW, 60)


@given(nonces, st.integers(0, 2**63 - 1))
def test_the_rule_never_raises(nonce, deadline):
    remaining = deadline * 1000 - nonce_unix_ms(nonce)
    assert lifetime_is_allowed(nonce, deadline) is (0 <= remaining <= LIMIT_MS)
