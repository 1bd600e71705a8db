"""The bytes of the log: what is documented is what is written, and nothing else reads back."""

import struct
import zlib
from uuid import UUID

import pytest
from solders.pubkey import Pubkey

from machpay.protocol.receipts import Receipt, SignedReceipt
from machpay_gateway.log.records import (
    Accept,
    ChannelTotals,
    Delivered,
    Header,
    Identified,
    Nonces,
    Outcome,
    Record,
    Sent,
    frame,
    scan,
)
from tests.gateway.logs import identity

AGENT = Pubkey(bytes(range(32)))
ACCEPT = Accept(
    number=7,
    agent=AGENT,
    amount=1_000,
    cumulative=2**64 - 1,
    price=900,
    deadline=1_800_000_030,
    accepted_at=1_800_000_000,
    nonce=UUID(bytes=bytes(range(16))),
    request_hash=b"h" * 32,
    signature=b"s" * 64,
)
OUTCOME = Outcome(
    number=7,
    final=True,
    http_status=201,
    charged=900,
    served_total=4_900,
    time=1_800_000_001,
    receipt_signature=b"r" * 64,
)
RECEIPT = SignedReceipt(Receipt(b"d" * 32, 200, 1, 2, 3), b"t" * 64)
RECORDS: list[Record] = [
    Header(identity(), 3, 4_096, 8, 5, 4, 1_799_999_970, 1_800_000_000),
    ChannelTotals(AGENT, 100, b"c" * 16, b"v" * 64, 90, RECEIPT),
    ChannelTotals(AGENT, 100, None, None, 90, None),
    Nonces({bytes(range(48)): 1_800_000_030, bytes(48): 1}),
    Nonces({}),
    ACCEPT,
    Identified(7, "pay_0123456789abcdef"),
    OUTCOME,
    Sent(7),
    Delivered(5),
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_reads_back_as_written(record: Record) -> None:
    data = frame(record)
    assert list(scan(data)) == [(record, len(data))]


def test_the_frame_is_length_crc_and_payload() -> None:
    data = frame(Sent(7))
    payload = b"\x06" + struct.pack("<Q", 7)
    assert data == struct.pack("<II", 9, zlib.crc32(struct.pack("<I", 9) + payload)) + payload


def test_an_accept_record_has_the_documented_bytes() -> None:
    assert frame(ACCEPT)[8:] == (
        b"\x04"
        + struct.pack("<Q", 7)
        + bytes(AGENT)
        + struct.pack("<QQQqq", 1_000, 2**64 - 1, 900, 1_800_000_030, 1_800_000_000)
        + bytes(range(16))
        + b"h" * 32
        + b"s" * 64
    )


def test_an_outcome_record_has_the_documented_bytes() -> None:
    assert frame(OUTCOME)[8:] == (
        b"\x05" + struct.pack("<QBHQQq", 7, 1, 201, 900, 4_900, 1_800_000_001) + b"r" * 64
    )


def test_an_identified_record_has_the_documented_bytes() -> None:
    assert frame(Identified(7, "x" * 16))[8:] == b"\x08" + struct.pack("<Q", 7) + b"x" * 16


@pytest.mark.parametrize(
    ("kind", "size"),
    [(Header, 186), (ChannelTotals, 252), (Accept, 193), (Outcome, 100), (Sent, 9), (Delivered, 9)],
)
def test_payload_sizes_are_the_documented_ones(kind: type, size: int) -> None:
    assert {len(frame(record)) - 8 for record in RECORDS if isinstance(record, kind)} == {size}


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_cut_or_changed_anywhere_does_not_read_back(record: Record) -> None:
    data = frame(record)
    for length in range(len(data)):
        assert list(scan(data[:length])) == []
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x40
        assert list(scan(bytes(changed))) == []


@pytest.mark.parametrize(
    "payload", [b"\x08" + bytes(8), b"\x00", b"\x06" + bytes(7), b"\x01\x02" + bytes(184)]
)
def test_unknown_kinds_sizes_and_versions_are_not_guessed(payload: bytes) -> None:
    length = struct.pack("<I", len(payload))
    data = length + struct.pack("<I", zlib.crc32(payload, zlib.crc32(length))) + payload
    assert list(scan(data)) == []


def test_zeros_are_not_records() -> None:
    assert list(scan(bytes(4096))) == []
