"""Receipts: round trips, and every malformed field."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machpay.protocol.encoding import I64_MAX, U64_MAX
from machpay.protocol.errors import MalformedError
from machpay.protocol.receipts import Receipt, SignedReceipt
from tests.protocol.values import AGENT, GATEWAY, NOW, bytes32, u64

RECEIPT = Receipt(b"\x09" * 32, 200, 1_000, 5_000, NOW)
receipts = st.builds(Receipt, bytes32, st.integers(0, 0xFFFF), u64, u64, st.integers(0, I64_MAX))


@given(receipts)
def test_json_round_trip(receipt):
    signed = receipt.sign(GATEWAY)
    again = SignedReceipt.from_json(signed.to_json())
    assert again == signed
    assert again.is_signed_by(GATEWAY.public)
    assert not again.is_signed_by(AGENT.public)


@given(receipts, receipts)
def test_a_signature_covers_every_field(first, second):
    forged = SignedReceipt(second, first.sign(GATEWAY).signature)
    assert forged.is_signed_by(GATEWAY.public) is (first == second)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digest", "AB" * 32),
        ("digest", "ab" * 31),
        ("digest", None),
        ("httpStatus", -1),
        ("httpStatus", 65_536),
        ("httpStatus", "200"),
        ("httpStatus", True),
        ("httpStatus", 200.0),
        ("charged", "-1"),
        ("charged", 1.5),
        ("charged", str(U64_MAX + 1)),
        ("charged", None),
        ("servedTotal", "x"),
        ("servedTotal", None),
        ("time", -1),
        ("time", I64_MAX + 1),
        ("time", "0"),
        ("time", False),
        ("signature", "AA=="),
        ("signature", "!" * 88),
        ("signature", None),
    ],
)
def test_each_malformed_field_is_refused(field, value):
    document = RECEIPT.sign(GATEWAY).to_json()
    with pytest.raises(MalformedError, match=field):
        SignedReceipt.from_json({**document, field: value})
    del document[field]
    with pytest.raises(MalformedError, match=field):
        SignedReceipt.from_json(document)


@pytest.mark.parametrize("value", [None, [], "receipt", 1])
def test_anything_but_an_object_is_refused(value):
    with pytest.raises(MalformedError, match="object"):
        SignedReceipt.from_json(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": bytes(31)},
        {"http_status": -1},
        {"http_status": 65_536},
        {"charged": -1},
        {"charged": U64_MAX + 1},
        {"served_total": U64_MAX + 1},
        {"time": -1},
        {"time": I64_MAX + 1},
    ],
)
def test_values_that_do_not_fit_their_bytes_are_malformed(changes):
    with pytest.raises(MalformedError):
        msgspec.structs.replace(RECEIPT, **changes)
