"""Settlement items: round trips, the minimal form, and every malformed field."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machpay.protocol.encoding import U64_MAX, to_b64
from machpay.protocol.errors import MalformedError
from machpay.protocol.receipts import Receipt
from machpay.protocol.settlements import (
    MAX_LINE_BYTES,
    BadLine,
    Line,
    ResolvedPayment,
    decode_item,
    parse_item,
    read_items,
    to_item,
    verify_item,
)
from tests.protocol.values import AGENT, CHANNEL, GATEWAY, NOW, VENDOR, an_intent, intents


def a_payment(intent=None, *, charged=1_000, http_status=200, served_total=5_000) -> ResolvedPayment:
    intent = intent or an_intent()
    receipt = Receipt(intent.digest, http_status, charged, served_total, NOW)
    return ResolvedPayment(
        agent=AGENT.public,
        gateway=GATEWAY.public,
        vendor=VENDOR.public,
        intent=intent,
        signature=intent.sign(AGENT),
        charged=charged,
        http_status=http_status,
        served_total=served_total,
        served_at=NOW,
        receipt=receipt.sign(GATEWAY),
        seq=3,
    )


def wire(payment: ResolvedPayment) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(msgspec.json.encode(to_item(payment)))
    return document


def parse(document: dict[str, Any]) -> ResolvedPayment:
    return parse_item(decode_item(json.dumps(document).encode()), gateway=GATEWAY.public, channel=CHANNEL)


@given(intents.filter(lambda intent: intent.channel is not None), st.data())
def test_round_trip(intent, data):
    charged = data.draw(st.integers(0, intent.amount))
    payment = a_payment(intent, charged=charged, served_total=data.draw(st.integers(0, U64_MAX)))
    again = parse_item(
        decode_item(msgspec.json.encode(to_item(payment))), gateway=GATEWAY.public, channel=intent.channel
    )
    assert again == payment
    assert verify_item(again)
    assert again.status == ("charged" if charged else "void")


def test_the_signed_intent_alone_is_enough_and_means_charged_in_full():
    document = wire(a_payment())
    minimal = {
        name: document[name]
        for name in ("agent", "amount", "nonce", "deadline", "signature", "cumulative", "request_hash")
    }
    payment = parse(minimal)
    assert payment.charged == payment.intent.amount == 1_000
    assert payment.status == "charged"
    assert (payment.receipt, payment.served_total, payment.vendor) == (None, None, None)
    assert verify_item(payment)


def test_numbers_are_accepted_for_amounts():
    document = wire(a_payment())
    numbers = {name: int(document[name]) for name in ("amount", "cumulative", "charged", "served_total")}
    assert parse({**document, **numbers}) == parse(document)


def test_an_items_channel_is_part_of_what_the_agent_signed():
    document = wire(a_payment())
    moved = parse_item(
        decode_item(json.dumps(document).encode()), gateway=GATEWAY.public, channel=VENDOR.public
    )
    assert not verify_item(moved)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": "1001", "charged": "1000"},
        {"cumulative": "5001"},
        {"deadline": NOW + 61},
        {"request_hash": "09" * 32},
        {"nonce": "01a1fd8c-6900-7000-8000-000000000002"},
        {"agent": GATEWAY.pubkey},
        {"signature": to_b64(bytes(64))},
        {"charged": "999"},
        {"http_status": 201},
        {"served_total": "5001"},
        {"served_at": "2026-11-21T00:00:00Z"},
        {"receipt": to_b64(bytes(64))},
    ],
)
def test_a_changed_field_breaks_the_agents_or_the_gateways_signature(changes):
    assert not verify_item(parse({**wire(a_payment()), **changes}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("agent", ""),
        ("agent", 5),
        ("agent", "x" * 44),
        ("gateway", VENDOR.pubkey),
        ("vendor", "nobody"),
        ("amount", "-1"),
        ("amount", 1.5),
        ("amount", str(U64_MAX + 1)),
        ("amount", None),
        ("amount", True),
        ("charged", "1001"),
        ("charged", "x"),
        ("cumulative", U64_MAX + 1),
        ("cumulative", []),
        ("nonce", "01a1fd8c-6900-4000-8000-000000000001"),
        ("deadline", "soon"),
        ("deadline", -1),
        ("deadline", 2**63),
        ("deadline", 1.5),
        ("request_hash", "08" * 31),
        ("signature", "AA=="),
        ("status", "settled"),
        ("status", "void"),
        ("http_status", -1),
        ("http_status", 65_536),
        ("served_total", "-1"),
        ("served_total", None),
        ("served_at", "yesterday"),
        ("served_at", None),
        ("receipt", "AA=="),
        ("seq", -1),
        ("seq", 2**63),
    ],
)
def test_each_malformed_field_is_refused(field, value):
    with pytest.raises(MalformedError):
        parse({**wire(a_payment()), field: value})


@pytest.mark.parametrize(
    "field", ["agent", "amount", "nonce", "deadline", "signature", "cumulative", "request_hash"]
)
def test_each_of_the_required_fields_is_required(field):
    document = wire(a_payment())
    del document[field]
    with pytest.raises(MalformedError, match=field):
        parse(document)


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"agent":"\\ud800"}'])
def test_a_line_that_is_no_item_is_malformed(raw):
    with pytest.raises(MalformedError):
        decode_item(raw)


def test_an_item_nested_past_the_interpreters_depth_is_malformed():
    with pytest.raises(MalformedError):
        decode_item(b'{"x":' + b"[" * 9_000 + b"]" * 9_000 + b"}")


def test_a_void_item_charges_nothing():
    payment = parse(wire(a_payment(charged=0, http_status=503)))
    assert (payment.charged, payment.status) == (0, "void")
    assert verify_item(payment)


def test_a_recovery_file_is_read_line_by_line_and_past_what_is_wrong():
    good = json.dumps(wire(a_payment())).encode()
    dead_letter = json.dumps({**wire(a_payment(charged=0)), "rejected_code": "too_large"}).encode()
    too_long = b" " + b"x" * (MAX_LINE_BYTES + 1)

    read = list(
        read_items([good + b"\n", b"\r\n", b"{}\n", dead_letter + b"\r\n", too_long + b"\n", good[:-9]])
    )

    assert [type(line) for line in read] == [Line, BadLine, Line, BadLine, BadLine]
    assert [line.number for line in read] == [1, 3, 4, 5, 6]
    first, missing, dead, long, cut = read
    assert isinstance(first, Line)
    assert isinstance(dead, Line)
    assert (first.raw, first.item) == (good, decode_item(good))
    assert (dead.raw, dead.item.status) == (dead_letter, "void")
    assert isinstance(missing, BadLine)
    assert "missing required field" in missing.reason
    assert long == BadLine(5, f"longer than {MAX_LINE_BYTES} bytes")
    assert isinstance(cut, BadLine)


def test_a_recovery_file_may_be_empty():
    assert list(read_items([])) == []
