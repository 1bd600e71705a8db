"""What a gateway hands to the relayer: `POST /settlements`, and the same items one per line in recovery
files.

An item is one resolved payment: the signed intent, what was charged, and the gateway's receipt. The relayer
answers each item after it is stored. Amounts are decimal strings on the way out; numbers are accepted on the
way in.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.encoding import (
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
from machpay.protocol.intents import PaymentIntent, Voucher
from machpay.protocol.keys import SIGNATURE_LENGTH, verify
from machpay.protocol.nonces import parse_nonce
from machpay.protocol.receipts import Receipt, SignedReceipt

ItemStatus = Literal["charged", "void"]
MAX_BATCH_ITEMS: Final = 1000
Verifier = Callable[[Pubkey, bytes, bytes], bool]


class SettlementItem(msgspec.Struct):
    """The wire form of one resolved payment.

    The signed intent is the minimum: agent, amount, cumulative, nonce, deadline, request_hash and signature,
    from which nothing can be left out. What is missing besides is derived: `status` is charged, `charged` the
    amount.
    """

    agent: str
    amount: str | int
    nonce: str
    deadline: int
    signature: str
    cumulative: str | int
    request_hash: str
    gateway: str = ""
    vendor: str = ""
    charged: str | int | None = None
    status: str = "charged"
    http_status: int = 200
    served_total: str | int | None = None
    served_at: str | None = None
    receipt: str | None = None
    seq: int = 0


class SettlementBatch(msgspec.Struct):
    """The body of `POST /settlements`. Items stay raw here so that one malformed item cannot fail its
    batch."""

    gateway_id: str
    batch: list[msgspec.Raw]
    vouchers: list[dict[str, Any]] = []
    seq_from: int = 0
    seq_to: int = 0


class ItemResult(msgspec.Struct, omit_defaults=True):
    """What became of one item. `retry` says whether sending it again can change the answer."""

    digest: str
    status: Literal["accepted", "duplicate", "rejected"]
    retry: bool
    code: str | None = None


class SettlementAnswer(msgspec.Struct):
    """The answer of `POST /settlements`; `results` are in the order of the batch."""

    accepted: int
    rejected: int
    duplicates: int
    results: list[ItemResult]


class ResolvedPayment(msgspec.Struct, frozen=True):
    """One item, typed. `receipt` is None only in the minimal form."""

    agent: Pubkey
    gateway: Pubkey
    vendor: Pubkey | None
    intent: PaymentIntent
    signature: bytes
    charged: int
    http_status: int
    served_total: int | None
    served_at: int | None
    receipt: SignedReceipt | None
    seq: int

    @property
    def status(self) -> ItemStatus:
        return "charged" if self.charged else "void"

    @property
    def voucher(self) -> Voucher:
        return self.intent.voucher(self.signature)


def intent_item(agent: Pubkey, gateway: Pubkey, intent: PaymentIntent, signature: bytes) -> SettlementItem:
    """A signed intent in the form of an item, without an outcome: what a gateway shows when it asks for a lease."""
    return SettlementItem(
        agent=str(agent),
        gateway=str(gateway),
        amount=str(intent.amount),
        cumulative=str(intent.cumulative),
        nonce=str(intent.nonce),
        deadline=intent.deadline,
        request_hash=intent.request_hash.hex(),
        signature=to_b64(signature),
    )


def to_item(payment: ResolvedPayment) -> SettlementItem:
    """The wire form of a resolved payment."""
    intent = payment.intent
    return wire_item(
        agent=payment.agent,
        gateway=payment.gateway,
        vendor=payment.vendor,
        amount=intent.amount,
        charged=payment.charged,
        cumulative=intent.cumulative,
        nonce=intent.nonce,
        deadline=intent.deadline,
        request_hash=intent.request_hash,
        signature=payment.signature,
        http_status=payment.http_status,
        served_total=payment.served_total,
        served_at=payment.served_at,
        receipt_signature=None if payment.receipt is None else payment.receipt.signature,
        seq=payment.seq,
    )


def wire_item(
    *,
    agent: Pubkey,
    gateway: Pubkey,
    vendor: Pubkey | None,
    amount: int,
    charged: int,
    cumulative: int,
    nonce: UUID,
    deadline: int,
    request_hash: bytes,
    signature: bytes,
    http_status: int,
    served_total: int | None,
    served_at: int | None,
    receipt_signature: bytes | None,
    seq: int,
) -> SettlementItem:
    """The wire form from the fields alone, for who has them without the objects around them. Times in unix seconds."""
    return SettlementItem(
        agent=str(agent),
        gateway=str(gateway),
        vendor="" if vendor is None else str(vendor),
        amount=str(amount),
        charged=str(charged),
        cumulative=str(cumulative),
        nonce=str(nonce),
        deadline=deadline,
        request_hash=request_hash.hex(),
        signature=to_b64(signature),
        status="charged" if charged else "void",
        http_status=http_status,
        served_total=None if served_total is None else str(served_total),
        served_at=None if served_at is None else to_rfc3339(served_at),
        receipt=None if receipt_signature is None else to_b64(receipt_signature),
        seq=seq,
    )


_item_decoder = msgspec.json.Decoder(SettlementItem)


def decode_item(raw: bytes | msgspec.Raw) -> SettlementItem:
    """Decode one item or one line of a recovery file."""
    item: SettlementItem = decode_json(_item_decoder, raw, "settlement item")
    return item


MAX_LINE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a recovery file that is an item. `number` counts from 1, blank lines included; `raw` is the
    line without its end, fields beside the item's own (a dead letter's `rejected_code`) left in."""

    number: int
    raw: bytes
    item: SettlementItem


@dataclass(frozen=True, slots=True)
class BadLine:
    """One line that is no item, and why."""

    number: int
    reason: str


def read_items(lines: Iterable[bytes]) -> Iterator[Line | BadLine]:
    """Read a recovery file, one item per line: a gateway's export, or its dead letters. Pass a file opened in
    binary mode; it is never held in memory whole.

    Blank lines are skipped. A line that is cut off, too long or not an item is a `BadLine`, and reading goes on.
    """
    for number, line in enumerate(lines, start=1):
        raw = line.strip()
        if not raw:
            continue
        if len(raw) > MAX_LINE_BYTES:
            yield BadLine(number, f"longer than {MAX_LINE_BYTES} bytes")
            continue
        try:
            yield Line(number, raw, decode_item(raw))
        except MalformedError as error:
            yield BadLine(number, error.detail)


def parse_item(item: SettlementItem, *, gateway: Pubkey, channel: Pubkey) -> ResolvedPayment:
    """Type one item sent by `gateway`, whose channel with the item's agent is `channel`.

    Raises `MalformedError`; says nothing about signatures (see `verify_item`).
    """
    if item.gateway and item.gateway != str(gateway):
        raise MalformedError("the item names another gateway than the sender")
    if item.status not in ("charged", "void"):
        raise MalformedError('status must be "charged" or "void"')
    if not 0 <= item.http_status <= 0xFFFF or not 0 <= item.deadline < 2**63 or not 0 <= item.seq < 2**63:
        raise MalformedError("http_status, deadline or seq is out of range")
    intent = PaymentIntent(
        channel=channel,
        cumulative=parse_u64(item.cumulative, "cumulative"),
        nonce=parse_nonce(item.nonce),
        amount=parse_u64(item.amount, "amount"),
        deadline=item.deadline,
        request_hash=parse_hex(item.request_hash, "request_hash", 32),
    )
    if item.status == "void":
        charged = 0
    else:
        charged = intent.amount if item.charged is None else parse_u64(item.charged, "charged")
    if charged > intent.amount:
        raise MalformedError("charged is above the signed amount")
    if item.charged is not None and parse_u64(item.charged, "charged") != charged:
        raise MalformedError("a void item charges nothing")
    served_total = None if item.served_total is None else parse_u64(item.served_total, "served_total")
    served_at = None if item.served_at is None else parse_rfc3339(item.served_at, "served_at")
    receipt = None
    if item.receipt is not None:
        if served_total is None or served_at is None:
            raise MalformedError("a receipt needs served_total and served_at")
        receipt = SignedReceipt(
            Receipt(intent.digest, item.http_status, charged, served_total, served_at),
            parse_b64(item.receipt, "receipt", SIGNATURE_LENGTH),
        )
    return ResolvedPayment(
        agent=parse_pubkey(item.agent, "agent"),
        gateway=gateway,
        vendor=parse_pubkey(item.vendor, "vendor") if item.vendor else None,
        intent=intent,
        signature=parse_b64(item.signature, "signature", SIGNATURE_LENGTH),
        charged=charged,
        http_status=item.http_status,
        served_total=served_total,
        served_at=served_at,
        receipt=receipt,
        seq=item.seq,
    )


def verify_item(payment: ResolvedPayment, check: Verifier = verify) -> bool:
    """True if the agent signed the intent and, where there is one, the gateway signed the receipt. `check` is `verify`
    or `verify_beside`."""
    if not check(payment.agent, payment.intent.message, payment.signature):
        return False
    signed = payment.receipt
    return signed is None or check(payment.gateway, signed.receipt.message, signed.signature)
