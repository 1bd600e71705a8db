"""Receipts: a gateway's signed word on what became of one payment.

    bytes = "MP" 0x01 'R' || digest 32 || http_status u16 LE || charged u64 LE || served_total u64 LE || time i64 LE

`served_total` is the sum of all charges of the channel, this one included; `time` is unix seconds.
"""

import struct
from dataclasses import dataclass
from typing import Final

from solders.pubkey import Pubkey

from machpay.protocol.encoding import parse_b64, parse_hex, parse_u64, to_b64
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SIGNATURE_LENGTH, SigningKey, verify

RECEIPT_PREFIX: Final = b"MP\x01R"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one payment came to."""

    digest: bytes
    http_status: int
    charged: int
    served_total: int
    time: int

    @property
    def message(self) -> bytes:
        return (
            RECEIPT_PREFIX
            + self.digest
            + struct.pack("<HQQq", self.http_status, self.charged, self.served_total, self.time)
        )

    def sign(self, gateway: SigningKey) -> "SignedReceipt":
        return SignedReceipt(self, gateway.sign(self.message))


@dataclass(frozen=True, slots=True)
class SignedReceipt:
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
        if not isinstance(http_status, int) or not 0 <= http_status <= 0xFFFF:
            raise MalformedError("receipt.httpStatus must be an HTTP status")
        if not isinstance(time, int) or not 0 <= time < 2**63:
            raise MalformedError("receipt.time must be unix seconds")
        receipt = Receipt(
            digest=parse_hex(value.get("digest"), "receipt.digest", 32),
            http_status=http_status,
            charged=parse_u64(value.get("charged"), "receipt.charged"),
            served_total=parse_u64(value.get("servedTotal"), "receipt.servedTotal"),
            time=time,
        )
        return cls(receipt, parse_b64(value.get("signature"), "receipt.signature", SIGNATURE_LENGTH))
