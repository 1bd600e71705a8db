"""Intents and vouchers: what the sixty bytes bind, and which values they refuse."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from machpay.protocol.encoding import I64_MAX, U64_MAX
from machpay.protocol.errors import MalformedError
from machpay.protocol.intents import voucher_message
from tests.protocol.values import AGENT, CHANNEL, GATEWAY, an_intent, bytes32, intents, nonces, pubkeys, u64


@given(intents)
def test_a_signed_intent_verifies_and_its_voucher_too(intent):
    signature = intent.sign(AGENT)
    voucher = intent.voucher(signature)
    assert len(intent.message) == 60
    assert voucher.message == intent.message
    assert intent.is_signed_by(AGENT.public, signature)
    assert voucher.is_signed_by(AGENT.public)
    assert not intent.is_signed_by(GATEWAY.public, signature)


@given(intents, st.data())
def test_no_field_can_change_under_a_signature(intent, data):
    field, strategy = data.draw(
        st.sampled_from(
            [
                ("channel", pubkeys),
                ("cumulative", u64),
                ("nonce", nonces),
                ("amount", u64),
                ("deadline", st.integers(0, I64_MAX)),
                ("request_hash", bytes32),
            ]
        )
    )
    value = data.draw(strategy.filter(lambda drawn: drawn != getattr(intent, field)))
    changed = msgspec.structs.replace(intent, **{field: value})
    assert changed.message != intent.message
    assert changed.digest != intent.digest
    assert not changed.is_signed_by(AGENT.public, intent.sign(AGENT))


@pytest.mark.parametrize(
    "changes",
    [
        {"cumulative": -1},
        {"cumulative": U64_MAX + 1},
        {"amount": -1},
        {"amount": U64_MAX + 1},
        {"deadline": -1},
        {"deadline": I64_MAX + 1},
        {"request_hash": b""},
        {"request_hash": bytes(31)},
        {"request_hash": bytes(33)},
    ],
)
def test_values_that_do_not_fit_their_bytes_are_malformed(changes):
    with pytest.raises(MalformedError):
        msgspec.structs.replace(an_intent(), **changes)


def test_largest_values_fit():
    intent = msgspec.structs.replace(an_intent(), cumulative=U64_MAX, amount=U64_MAX, deadline=I64_MAX)
    assert intent.message[36:44] == b"\xff" * 8


def test_message_layout_by_offset():
    intent = an_intent(cumulative=0x0102030405060708)
    message = intent.message
    assert message[:4] == b"\x4d\x50\x01\x49"
    assert message[4:36] == bytes(CHANNEL)
    assert message[36:44] == bytes([8, 7, 6, 5, 4, 3, 2, 1])
    assert struct.unpack_from("<Q", message, 36) == (0x0102030405060708,)
    assert message[44:] == intent.context


@pytest.mark.parametrize("context", [b"", bytes(15), bytes(17), bytes(32)])
def test_a_voucher_needs_sixteen_bytes_of_context(context):
    with pytest.raises(MalformedError, match="context"):
        voucher_message(Pubkey.default(), 1, context)


@pytest.mark.parametrize("cumulative", [-1, U64_MAX + 1])
def test_a_voucher_needs_a_u64(cumulative):
    with pytest.raises(MalformedError, match="cumulative"):
        voucher_message(Pubkey.default(), cumulative, bytes(16))
