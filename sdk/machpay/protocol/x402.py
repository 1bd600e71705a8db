"""The HTTP handshake: x402 version 2 with the scheme `machpay-bond`.

Three headers hold base64 of JSON: `PAYMENT-REQUIRED` on a 402, `PAYMENT-SIGNATURE` on the paid request and
`PAYMENT-RESPONSE` on its answer. This module builds and parses all of them; no other code touches their JSON.
Unknown fields are ignored on the way in, so that peers may extend them.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.encoding import decode_json, parse_b64, parse_hex, parse_pubkey, parse_u64, to_b64
from machpay.protocol.errors import MalformedError
from machpay.protocol.intents import CONTEXT_LENGTH, PaymentIntent, Voucher
from machpay.protocol.keys import SIGNATURE_LENGTH, SigningKey
from machpay.protocol.nonces import parse_nonce
from machpay.protocol.receipts import SignedReceipt

VERSION: Final = 2
SCHEME: Final = "machpay-bond"
INTENT_VERSION: Final = 1
REQUIRED_HEADER: Final = "PAYMENT-REQUIRED"
SIGNATURE_HEADER: Final = "PAYMENT-SIGNATURE"
RESPONSE_HEADER: Final = "PAYMENT-RESPONSE"
GATEWAY_HEADER: Final = "MachPay-Gateway"
"""Names the gateway that a client knows at an address, on a request that is not paid yet: where several processes
share the address, that one makes the offer."""
MAX_HEADER_BYTES: Final = 8 * 1024
"""Servers in the field refuse longer header lines; a 402 stays below this."""


class Resource(msgspec.Struct, rename="camel", omit_defaults=True):
    """What is being paid for. `url` never holds the query, which may be private."""

    url: str
    description: str = ""
    mime_type: str = ""


class Requirements(msgspec.Struct, rename="camel"):
    """One way to pay. `amount` is a decimal string of atomic units, `extra` is the scheme's own."""

    scheme: str
    network: str
    amount: str
    asset: str
    pay_to: str
    max_timeout_seconds: int
    extra: dict[str, Any] = {}


class PaymentRequired(msgspec.Struct, rename="camel", omit_defaults=True):
    """The body and `PAYMENT-REQUIRED` header of a 402."""

    x402_version: int = msgspec.field(name="x402Version")
    error: str
    resource: Resource
    accepts: list[Requirements]
    extensions: dict[str, Any] = {}


class InnerPayload(msgspec.Struct, rename="camel"):
    """The scheme's own payload: a signed intent in text form."""

    agent: str
    gateway: str
    amount: str
    cumulative: str
    nonce: str
    deadline: int
    request_hash: str
    signature: str


class PaymentPayload(msgspec.Struct, rename="camel", omit_defaults=True):
    """The `PAYMENT-SIGNATURE` header: what was accepted, and the payment for it."""

    x402_version: int = msgspec.field(name="x402Version")
    accepted: Requirements
    payload: InnerPayload
    resource: Resource | None = None
    extensions: dict[str, Any] = {}


class PaymentResponse(msgspec.Struct, rename="camel"):
    """The `PAYMENT-RESPONSE` header. `transaction` is empty because acceptance is off-chain;
    `extra.commitmentId` is the intent's digest."""

    success: bool
    payer: str
    network: str
    amount: str
    transaction: str = ""
    error_reason: str | msgspec.UnsetType = msgspec.UNSET
    extra: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Correction:
    """What a gateway tells a client whose cumulative was too low: the total it is committed to and the
    highest voucher that proves it (none when the chain's watermark is the proof)."""

    committed_total: int
    voucher: Voucher | None


def encode_header(value: msgspec.Struct) -> str:
    """Base64 of compact JSON."""
    return base64.b64encode(msgspec.json.encode(value)).decode("ascii")


_required_decoder = msgspec.json.Decoder(PaymentRequired)
_payload_decoder = msgspec.json.Decoder(PaymentPayload)
_response_decoder = msgspec.json.Decoder(PaymentResponse)


def _decode(header: str | bytes, name: str, decoder: msgspec.json.Decoder[Any]) -> Any:
    if len(header) > 4 * MAX_HEADER_BYTES:
        raise MalformedError(f"{name} is too long")
    try:
        raw = binascii.a2b_base64(header, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"{name} must be base64: {error}") from error
    return decode_json(decoder, raw, f"{name} must be base64 of an x402 version {VERSION} object")


def decode_required(header: str | bytes) -> PaymentRequired:
    value: PaymentRequired = _decode(header, REQUIRED_HEADER, _required_decoder)
    _check_version(value.x402_version, REQUIRED_HEADER)
    return value


def decode_payload(header: str | bytes) -> PaymentPayload:
    value: PaymentPayload = _decode(header, SIGNATURE_HEADER, _payload_decoder)
    _check_version(value.x402_version, SIGNATURE_HEADER)
    return value


def decode_response(header: str | bytes) -> PaymentResponse:
    value: PaymentResponse = _decode(header, RESPONSE_HEADER, _response_decoder)
    return value


def _check_version(version: int, name: str) -> None:
    if version != VERSION:
        raise MalformedError(f"{name} is x402 version {version}; this service speaks version {VERSION}")


def inner_payload(agent: Pubkey, gateway: Pubkey, intent: PaymentIntent, signature: bytes) -> InnerPayload:
    """The text form of a signed intent."""
    return InnerPayload(
        agent=str(agent),
        gateway=str(gateway),
        amount=str(intent.amount),
        cumulative=str(intent.cumulative),
        nonce=str(intent.nonce),
        deadline=intent.deadline,
        request_hash=intent.request_hash.hex(),
        signature=to_b64(signature),
    )


def build_payload(
    accepted: Requirements,
    agent: SigningKey,
    gateway: Pubkey,
    intent: PaymentIntent,
    extensions: Mapping[str, Any] | None = None,
) -> PaymentPayload:
    """Sign `intent` and wrap it as the answer to `accepted`."""
    payload = inner_payload(agent.public, gateway, intent, intent.sign(agent))
    return PaymentPayload(
        x402_version=VERSION, accepted=accepted, payload=payload, extensions=dict(extensions or {})
    )


class PaymentTerms(msgspec.Struct, frozen=True, gc=False):
    """The typed fields of an inner payload, before the channel they belong to is derived."""

    agent: Pubkey
    gateway: Pubkey
    amount: int
    cumulative: int
    nonce: UUID
    deadline: int
    request_hash: bytes
    signature: bytes

    def intent(self, channel: Pubkey) -> PaymentIntent:
        return PaymentIntent(
            channel, self.cumulative, self.nonce, self.amount, self.deadline, self.request_hash
        )


def parse_terms(payload: InnerPayload) -> PaymentTerms:
    """Type every field of an inner payload. Raises `MalformedError` naming the first that is wrong."""
    if not 0 <= payload.deadline < 2**63:
        raise MalformedError("deadline must be unix seconds")
    return PaymentTerms(
        agent=parse_pubkey(payload.agent, "agent"),
        gateway=parse_pubkey(payload.gateway, "gateway"),
        amount=parse_u64(payload.amount, "amount"),
        cumulative=parse_u64(payload.cumulative, "cumulative"),
        nonce=parse_nonce(payload.nonce),
        deadline=payload.deadline,
        request_hash=parse_hex(payload.request_hash, "requestHash", 32),
        signature=parse_b64(payload.signature, "signature", SIGNATURE_LENGTH),
    )


def voucher_json(voucher: Voucher) -> dict[str, str]:
    """`{channel, cumulative, context, signature}` as on `/settlements` and in corrective answers."""
    return {
        "channel": str(voucher.channel),
        "cumulative": str(voucher.cumulative),
        "context": voucher.context.hex(),
        "signature": to_b64(voucher.signature),
    }


def parse_voucher(value: object) -> Voucher:
    if not isinstance(value, Mapping):
        raise MalformedError("voucher must be an object")
    return Voucher(
        channel=parse_pubkey(value.get("channel"), "voucher.channel"),
        cumulative=parse_u64(value.get("cumulative"), "voucher.cumulative"),
        context=parse_hex(value.get("context"), "voucher.context", CONTEXT_LENGTH),
        signature=parse_b64(value.get("signature"), "voucher.signature", SIGNATURE_LENGTH),
    )


def correction_json(correction: Correction, receipt: SignedReceipt | None = None) -> dict[str, object]:
    """What a corrective answer adds to `extra`, both in `accepts[]` and in `PAYMENT-RESPONSE`; with the channel's
    newest receipt if there is one."""
    fields: dict[str, object] = {"committedTotal": str(correction.committed_total)}
    if correction.voucher is not None:
        fields["voucher"] = voucher_json(correction.voucher)
    if receipt is not None:
        fields["receipt"] = receipt.to_json()
    return fields


def parse_correction(extra: Mapping[str, object]) -> Correction | None:
    """The correction in an `extra` object, or None if it holds none."""
    if "committedTotal" not in extra:
        return None
    raw_voucher = extra.get("voucher")
    return Correction(
        committed_total=parse_u64(extra["committedTotal"], "committedTotal"),
        voucher=None if raw_voucher is None else parse_voucher(raw_voucher),
    )
