"""Readers of text forms accept one spelling of each value and name the field they refuse."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machpay.protocol.encoding import (
    U64_MAX,
    decode_json,
    parse_b64,
    parse_hex,
    parse_pubkey,
    parse_rfc3339,
    parse_u64,
    to_b64,
    to_rfc3339,
)
from machpay.protocol.errors import MalformedError
from tests.protocol.values import pubkeys, u64


@given(u64)
def test_u64_from_text_and_from_a_number(number):
    assert parse_u64(str(number), "amount") == number
    assert parse_u64(number, "amount") == number


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "+1",
        "01",
        "00",
        "1.0",
        "1e3",
        " 1",
        "1 ",
        "1\n",
        "0x10",
        "1_000",
        "١٢",
        str(U64_MAX + 1),
        "9" * 40,
        U64_MAX + 1,
        -1,
        1.0,
        True,
        False,
        None,
        [],
        b"1",
    ],
)
def test_u64_refuses_every_other_form(value):
    with pytest.raises(MalformedError, match="amount"):
        parse_u64(value, "amount")


def test_u64_edges():
    assert parse_u64("0", "amount") == 0
    assert parse_u64("18446744073709551615", "amount") == U64_MAX


@given(pubkeys)
def test_pubkey_round_trip(key):
    assert parse_pubkey(str(key), "agent") == key


@pytest.mark.parametrize(
    "value", ["", "1" * 31, "1" * 33, "0" * 40, "O" * 40, "l" * 44, "é" * 40, "z" * 44, None, 1, b"1" * 32]
)
def test_pubkey_refuses_other_alphabets_and_lengths(value):
    with pytest.raises(MalformedError, match="agent"):
        parse_pubkey(value, "agent")


@given(st.binary(max_size=200))
def test_base64_round_trip(raw):
    assert parse_b64(to_b64(raw), "signature") == raw
    assert parse_b64(to_b64(raw), "signature", len(raw)) == raw


@pytest.mark.parametrize(
    "value",
    ["Q", "QQ", "QQ=", "QQ===", "QR==", "QQ==QQ==", "QQ==\n", " QQ==", "Q-==", "Q_==", "é", None, 1, b"QQ=="],
)
def test_base64_refuses_other_spellings(value):
    with pytest.raises(MalformedError, match="signature"):
        parse_b64(value, "signature")


def test_base64_of_another_size_is_refused():
    with pytest.raises(MalformedError, match="64 bytes, not 63"):
        parse_b64(to_b64(b"x" * 63), "signature", 64)


@given(st.binary(min_size=16, max_size=16))
def test_hex_round_trip(raw):
    assert parse_hex(raw.hex(), "context", 16) == raw


@pytest.mark.parametrize(
    "value", ["", "0a", "0A0B", "0a0b0c", "0a b", "0a  ", "0g0b", "0x0b", "٠a0b", "0a0b\n", None, 1, b"0a0b"]
)
def test_hex_refuses_other_forms(value):
    with pytest.raises(MalformedError, match="context"):
        parse_hex(value, "context", 2)


@given(st.integers(0, 253_402_300_799))
def test_times_round_trip(unix_seconds):
    assert parse_rfc3339(to_rfc3339(unix_seconds), "served_at") == unix_seconds


def test_times_with_an_offset():
    assert parse_rfc3339("2026-11-21T13:20:00+02:00", "served_at") == parse_rfc3339(
        "2026-11-21T11:20:00Z", "t"
    )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "2026-11-21",
        "2026-11-21T11:20:00",
        "2026-11-21 11:20:00Z",
        "2026-11-21T11:20:00.5Z",
        "2026-11-21T11:20:00.000000001Z",
        "20261121T112000Z",
        "2026-W47-6T11:20:00Z",
        "2026-02-30T00:00:00Z",
        "2026-11-21T25:00:00Z",
        "2026-11-21T11:20:00+99:00",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "２026-11-21T11:20:00Z",
        1_795_255_200,
        None,
    ],
)
def test_times_in_other_forms_are_refused(value):
    with pytest.raises(MalformedError, match="served_at"):
        parse_rfc3339(value, "served_at")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'"1"', b"1.5", b"\xff", b'"\xff"', b"[" * 100_000, b"[" * 50_000 + b"]" * 50_000]
)
def test_json_that_cannot_be_decoded_is_malformed(raw):
    with pytest.raises(MalformedError, match="thing"):
        decode_json(msgspec.json.Decoder(int), raw, "thing")


def test_json_with_broken_text_in_a_field_is_malformed():
    with pytest.raises(MalformedError, match="thing"):
        decode_json(msgspec.json.Decoder(dict), b'{"known":"\xff"}', "thing")


def test_json_nested_past_the_interpreters_depth_is_malformed():
    raw = b'{"known":1,"unknown":' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    with pytest.raises(MalformedError, match="thing"):
        decode_json(msgspec.json.Decoder(dict), raw, "thing")
