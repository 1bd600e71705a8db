"""The log's records and their bytes. Little endian; amounts are atomic units, times unix seconds.

    frame = length u32 (of kind and body) || crc32 u32 (of the length's bytes, kind and body) || kind u8 || body

Offsets of every body are in `docs/gateway-log.md`; a kind or field never changes its meaning, new ones get new numbers.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.keys import SIGNATURE_LENGTH
from machpay.protocol.receipts import Receipt, SignedReceipt

FILE_MAGIC: Final = b"MPGWLOG\x01"
FRAME_HEADER_BYTES: Final = 8
MAX_RECORD_BYTES: Final = 1024 * 1024
"""A longer length field is damage, not a record."""
FORMAT_VERSION: Final = 1
NONCES_PER_RECORD: Final = 8192
_FINAL: Final = 0x01
_HAS_VOUCHER: Final = 0x01
_HAS_RECEIPT: Final = 0x02


class Identity(msgspec.Struct, frozen=True):
    """Whose log it is: a log is never read by another key or for another network."""

    gateway: Pubkey
    program_id: Pubkey
    mint: Pubkey
    domain: bytes


class Header(msgspec.Struct, frozen=True):
    """The first record of a segment. The snapshot follows it: the channels, the live nonces, the open payments.

    `previous_end` is where the durable part of the segment before ends; what stands behind it there never counted.
    `completed` is how many payments were complete before this segment, `delivered` how many of them the relayer has.
    Nonces with a deadline up to `guard_floor` are no longer remembered and refused as expired.
    """

    identity: Identity
    segment: int
    previous_end: int
    next_number: int
    completed: int
    delivered: int
    guard_floor: int
    created_at: int


class ChannelTotals(msgspec.Struct, frozen=True):
    """A channel's totals are at least these. In a snapshot `served` leaves out payments that are still open; in the
    middle of a segment it is what relayer or chain know and the log did not."""

    agent: Pubkey
    highest: int
    context: bytes | None
    signature: bytes | None
    served: int
    receipt: SignedReceipt | None


class Nonces(msgspec.Struct, frozen=True):
    """Nonces of accepted payments that could still be replayed: (agent 32 || nonce 16) -> deadline."""

    deadlines: dict[bytes, int]


class Accept(msgspec.Struct, frozen=True):
    """An intent was accepted and `price` reserved. `number` counts accepted payments from 1."""

    number: int
    agent: Pubkey
    amount: int
    cumulative: int
    price: int
    deadline: int
    accepted_at: int
    nonce: UUID
    request_hash: bytes
    signature: bytes


class Identified(msgspec.Struct, frozen=True):
    """The accepted payment carried this `payment-identifier`. Follows its accept record."""

    number: int
    identifier: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of an accepted payment. The last one counts; once it is `final` and the answer sent, none follows."""

    number: int
    final: bool
    http_status: int
    charged: int
    served_total: int
    time: int
    receipt_signature: bytes


class Sent(msgspec.Struct, frozen=True):
    """The first byte of the answer went to the socket, or the exchange ended."""

    number: int


class Delivered(msgspec.Struct, frozen=True):
    """The relayer has the first `completed` completed payments."""

    completed: int


Record = Header | ChannelTotals | Nonces | Accept | Identified | Outcome | Sent | Delivered

_HEADER: Final = struct.Struct("<B B 32s32s32s32s QQQQQqq")
_CHANNEL: Final = struct.Struct("<B 32s B Q 16s64s Q 32sHQQq64s")
_NONCE: Final = struct.Struct("<48sq")
_ACCEPT: Final = struct.Struct("<B Q 32s QQQ qq 16s32s64s")
_OUTCOME: Final = struct.Struct("<B Q B H QQ q 64s")
_SENT: Final = struct.Struct("<B Q")
_DELIVERED: Final = struct.Struct("<B Q")
_IDENTIFIED: Final = struct.Struct("<B Q")
_LENGTH: Final = struct.Struct("<I")
_FRAME: Final = struct.Struct("<II")

_KIND_HEADER, _KIND_CHANNEL, _KIND_NONCES, _KIND_ACCEPT = 1, 2, 3, 4
_KIND_OUTCOME, _KIND_SENT, _KIND_DELIVERED, _KIND_IDENTIFIED = 5, 6, 7, 8
_NO_SIGNATURE: Final = bytes(SIGNATURE_LENGTH)


def frame(record: Record) -> bytes:
    """The bytes of one record as they stand in a segment."""
    payload = _encode(record)
    length = len(payload)
    return _FRAME.pack(length, zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length)))) + payload


def scan(data: bytes, start: int = 0) -> Iterator[tuple[Record, int]]:
    """Every whole record of `data` from `start` on, with the offset behind it, up to the first that does not check."""
    offset, size = start, len(data)
    while offset + FRAME_HEADER_BYTES <= size:
        length, crc = _FRAME.unpack_from(data, offset)
        begin, end = offset + FRAME_HEADER_BYTES, offset + FRAME_HEADER_BYTES + length
        if not 0 < length <= MAX_RECORD_BYTES or end > size:
            return
        payload = data[begin:end]
        if zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length))) != crc:
            return
        record = _decode(payload)
        if record is None:
            return
        offset = end
        yield record, offset


def _encode(record: Record) -> bytes:
    return _ENCODERS[type(record)](record)


def _encode_accept(record: Accept) -> bytes:
    return _ACCEPT.pack(
        _KIND_ACCEPT,
        record.number,
        bytes(record.agent),
        record.amount,
        record.cumulative,
        record.price,
        record.deadline,
        record.accepted_at,
        record.nonce.bytes,
        record.request_hash,
        record.signature,
    )


def _encode_outcome(record: Outcome) -> bytes:
    return _OUTCOME.pack(
        _KIND_OUTCOME,
        record.number,
        _FINAL if record.final else 0,
        record.http_status,
        record.charged,
        record.served_total,
        record.time,
        record.receipt_signature,
    )


def _encode_nonces(record: Nonces) -> bytes:
    return bytes((_KIND_NONCES,)) + b"".join(_NONCE.pack(key, at) for key, at in record.deadlines.items())


def _encode_header(record: Header) -> bytes:
    owner = record.identity
    return _HEADER.pack(
        *(_KIND_HEADER, FORMAT_VERSION),
        *(bytes(owner.gateway), bytes(owner.program_id), bytes(owner.mint), owner.domain),
        *(record.segment, record.previous_end, record.next_number, record.completed, record.delivered),
        *(record.guard_floor, record.created_at),
    )


def _encode_channel(record: ChannelTotals) -> bytes:
    flags = 0
    context, signature = bytes(16), _NO_SIGNATURE
    if record.context is not None and record.signature is not None:
        flags |= _HAS_VOUCHER
        context, signature = record.context, record.signature
    receipt, receipt_signature = Receipt(bytes(32), 0, 0, 0, 0), _NO_SIGNATURE
    if record.receipt is not None:
        flags |= _HAS_RECEIPT
        receipt, receipt_signature = record.receipt.receipt, record.receipt.signature
    return _CHANNEL.pack(
        *(_KIND_CHANNEL, bytes(record.agent), flags, record.highest, context, signature, record.served),
        *(receipt.digest, receipt.http_status, receipt.charged, receipt.served_total, receipt.time),
        receipt_signature,
    )


def _decode(payload: bytes) -> Record | None:
    """The record in a checked payload, or None for a kind or size this version does not know."""
    decode = _DECODERS.get(payload[0])
    try:
        return None if decode is None else decode(payload)
    except struct.error:
        return None


def _decode_accept(payload: bytes) -> Accept:
    _, number, agent, amount, cumulative, price, deadline, accepted_at, nonce, *rest = _ACCEPT.unpack(payload)
    return Accept(
        number, Pubkey(agent), amount, cumulative, price, deadline, accepted_at, UUID(bytes=nonce), *rest
    )


def _decode_identified(payload: bytes) -> Identified | None:
    _, number = _IDENTIFIED.unpack_from(payload)
    identifier = payload[_IDENTIFIED.size :]
    return Identified(number, identifier.decode("ascii")) if identifier.isascii() and identifier else None


def _decode_outcome(payload: bytes) -> Outcome:
    _, number, flags, *fields = _OUTCOME.unpack(payload)
    return Outcome(number, bool(flags & _FINAL), *fields)


def _decode_channel(payload: bytes) -> ChannelTotals:
    _, agent, flags, highest, context, signature, served, *fields = _CHANNEL.unpack(payload)
    digest, http_status, charged, served_total, time, receipt_signature = fields
    has_voucher = flags & _HAS_VOUCHER
    receipt = SignedReceipt(Receipt(digest, http_status, charged, served_total, time), receipt_signature)
    return ChannelTotals(
        agent=Pubkey(agent),
        highest=highest,
        context=context if has_voucher else None,
        signature=signature if has_voucher else None,
        served=served,
        receipt=receipt if flags & _HAS_RECEIPT else None,
    )


def _decode_header(payload: bytes) -> Header | None:
    _, version, gateway, program_id, mint, domain, *fields = _HEADER.unpack(payload)
    if version != FORMAT_VERSION:
        return None
    return Header(Identity(Pubkey(gateway), Pubkey(program_id), Pubkey(mint), domain), *fields)


_DECODERS: Final[dict[int, Callable[[bytes], Record | None]]] = {
    _KIND_HEADER: _decode_header,
    _KIND_CHANNEL: _decode_channel,
    _KIND_NONCES: lambda payload: Nonces(dict(_NONCE.iter_unpack(payload[1:]))),
    _KIND_ACCEPT: _decode_accept,
    _KIND_IDENTIFIED: _decode_identified,
    _KIND_OUTCOME: _decode_outcome,
    _KIND_SENT: lambda payload: Sent(_SENT.unpack(payload)[1]),
    _KIND_DELIVERED: lambda payload: Delivered(_DELIVERED.unpack(payload)[1]),
}
_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    Header: _encode_header,
    ChannelTotals: _encode_channel,
    Nonces: _encode_nonces,
    Accept: _encode_accept,
    Identified: lambda record: (
        _IDENTIFIED.pack(_KIND_IDENTIFIED, record.number) + record.identifier.encode("ascii")
    ),
    Outcome: _encode_outcome,
    Sent: lambda record: _SENT.pack(_KIND_SENT, record.number),
    Delivered: lambda record: _DELIVERED.pack(_KIND_DELIVERED, record.completed),
}
