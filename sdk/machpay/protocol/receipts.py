"""Receipts: a gateway's signed word on what became of one payment.

    bytes = "MP" 0x01 'R' || digest 32 || http_status u16 LE || charged u64 LE
            || served_total u64 LE || time i64 LE                                     = 62 bytes

`served_total` is the sum of all charges of the channel, this one included; `time` is unix seconds.
"""

import struct
from typing import Final

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.encoding import I64_MAX, U64_MAX, parse_b64, parse_hex, parse_u64, to_b64
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SIGNATURE_LENGTH, SigningKey, verify

RECEIPT_PREFIX: Final = b"MP\x01R"
U16_MAX: Final = 2**16 - 1
_FIELDS: Final = struct.Struct("<HQQq")


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What one payment came to."""

    digest: bytes
    http_status: int
    charged: int
    served_total: int
    time: int

    def __post_init__(self) -> None:
        if len(self.digest) != 32:
            raise MalformedError("a receipt names a digest of 32 bytes")
        if not 0 <= self.http_status <= U16_MAX:
            raise MalformedError("receipt.httpStatus must be an HTTP status")
        if not (0 <= self.charged <= U64_MAX and 0 <= self.served_total <= U64_MAX):
            raise MalformedError("receipt.charged and receipt.servedTotal must be unsigned 64-bit integers")
        if not 0 <= self.time <= I64_MAX:
            raise MalformedError("receipt.time must be unix seconds")

    @property
    def message(self) -> bytes:
        return (
            RECEIPT_PREFIX
            + self.digest
            + _FIELDS.pack(self.http_status, self.charged, self.served_total, self.time)
        )

    def sign(self, gateway: SigningKey) -> "SignedReceipt":
        return SignedReceipt(self, gateway.sign(self.message))


class SignedReceipt(msgspec.Struct, frozen=True, gc=False):
    """A receipt and the gateway's signature over its bytes."""

    receipt: Receipt
    signature: bytes

    def is_signed_by(self, gateway: Pubkey) -> bool:
        return verify(gateway, self.receipt.message, self.signature)

    def to_json(self) -> dict[str, object]:
        """The object under `extra.receipt` of a `PAYMENT-RESPONSE`."""
        receipt = self.receipt
        return {
            "digest": receipt.digest.hex(),
            "httpStatus": receipt.http_status,
            "charged": str(receipt.charged),
            "servedTotal": str(receipt.served_total),
            "time": receipt.time,
            "signature": to_b64(self.signature),
        }

    @classmethod
    def from_json(cls, value: object) -> "SignedReceipt":
        if not isinstance(value, dict):
            raise MalformedError("receipt must be an object")
        http_status, time = value.get("httpStatus"), value.get("time")
        # A bool is an int to Python, not to JSON.
        if type(http_status) is not int or type(time) is not int:
            raise MalformedError("receipt.httpStatus and receipt.time must be integers")
        receipt = Receipt(
            digest=parse_hex(value.get("digest"), "receipt.digest", 32),
            http_status=http_status,
            charged=parse_u64(value.get("charged"), "receipt.charged"),
            served_total=parse_u64(value.get("servedTotal"), "receipt.servedTotal"),
            time=time,
        )
        return cls(receipt, parse_b64(value.get("signature"), "receipt.signature", SIGNATURE_LENGTH))
