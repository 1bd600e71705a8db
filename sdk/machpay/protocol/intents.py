"""The payment intent: what an agent signs per paid request, and the voucher inside it that the chain checks.

    terms     = nonce 16 || amount u64 LE || deadline i64 LE || request_hash 32
    context   = sha256("machpay:context:v1" || terms)[:16]
    message   = "MP" 0x01 0x49 || channel 32 || cumulative u64 LE || context 16       = 60 bytes
    digest    = sha256("machpay:intent:v1" || message || terms)

The channel's address is derived from program, genesis, mint, agent and gateway, so the 60 bytes bind all of
them. Amounts are atomic units of the token, deadlines unix seconds.
"""

import hashlib
import struct
from typing import Final
from uuid import UUID

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.encoding import I64_MAX, U64_MAX
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey, verify

MESSAGE_PREFIX: Final = b"MP\x01I"
CONTEXT_LENGTH: Final = 16
_CONTEXT_TAG: Final = b"machpay:context:v1"
_DIGEST_TAG: Final = b"machpay:intent:v1"
_TERMS: Final = struct.Struct("<16sQq")
_TOTAL: Final = struct.Struct("<Q")


class Voucher(msgspec.Struct, frozen=True, gc=False):
    """The part of an intent that the chain needs: everything the agent has authorised on one channel so
    far."""

    channel: Pubkey
    cumulative: int
    context: bytes
    signature: bytes

    @property
    def message(self) -> bytes:
        return voucher_message(self.channel, self.cumulative, self.context)

    def is_signed_by(self, agent: Pubkey) -> bool:
        return verify(agent, self.message, self.signature)


class PaymentIntent(msgspec.Struct, frozen=True, dict=True):
    """An unsigned payment: at most `amount` for one request, raising the channel's total to `cumulative`.

    Its hashes are computed once: a gateway needs the context for the signature, the voucher and the digest.
    """

    channel: Pubkey
    cumulative: int
    nonce: UUID
    amount: int
    deadline: int
    request_hash: bytes

    def __post_init__(self) -> None:
        if not (0 <= self.cumulative <= U64_MAX and 0 <= self.amount <= U64_MAX):
            raise MalformedError("amount and cumulative must be unsigned 64-bit integers")
        if not 0 <= self.deadline <= I64_MAX:
            raise MalformedError("deadline must be a positive unix time")
        if len(self.request_hash) != 32:
            raise MalformedError("request_hash must have 32 bytes")

    @property
    def context(self) -> bytes:
        return self._hashed()[0]

    @property
    def message(self) -> bytes:
        """The 60 bytes that are signed."""
        return self._hashed()[1]

    @property
    def digest(self) -> bytes:
        """The payment's id, 32 bytes."""
        return self._hashed()[2]

    def _hashed(self) -> tuple[bytes, bytes, bytes]:
        """Context, message and digest."""
        hashed: tuple[bytes, bytes, bytes] | None = self.__dict__.get("hashed")
        if hashed is None:
            terms = _TERMS.pack(self.nonce.bytes, self.amount, self.deadline) + self.request_hash
            context = hashlib.sha256(_CONTEXT_TAG + terms).digest()[:CONTEXT_LENGTH]
            message = voucher_message(self.channel, self.cumulative, context)
            digest = hashlib.sha256(_DIGEST_TAG + message + terms).digest()
            hashed = self.__dict__["hashed"] = (context, message, digest)
        return hashed

    def sign(self, key: SigningKey) -> bytes:
        return key.sign(self.message)

    def is_signed_by(self, agent: Pubkey, signature: bytes) -> bool:
        return verify(agent, self.message, signature)

    def voucher(self, signature: bytes) -> Voucher:
        return Voucher(self.channel, self.cumulative, self.context, signature)


def voucher_message(channel: Pubkey, cumulative: int, context: bytes) -> bytes:
    """The 60 bytes `"MP" 0x01 0x49 || channel || cumulative u64 LE || context`."""
    if len(context) != CONTEXT_LENGTH:
        raise MalformedError(f"context must have {CONTEXT_LENGTH} bytes")
    if not 0 <= cumulative <= U64_MAX:
        raise MalformedError("cumulative must be an unsigned 64-bit integer")
    return MESSAGE_PREFIX + bytes(channel) + _TOTAL.pack(cumulative) + context
