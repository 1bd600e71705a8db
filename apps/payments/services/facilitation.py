"""Charging a payment that a stock x402 server forwarded, exactly once, and only what the agent can still spend.

The accept rule is the gateway's: max(highest, cumulative) >= charged + price. Nothing is reserved between `preview` and
`charge`, so the second decides; it holds the agent's row, under which leases are granted too.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import transaction
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.payments.locks import lock_agents, lock_channels
from apps.payments.models import HostedReceipt, PaymentIntent
from apps.payments.selectors.liability import liability_answer, no_bond
from apps.payments.services.intake import record_batch
from apps.payments.verification import Verified
from machpay.protocol.encoding import parse_u64
from machpay.protocol.errors import RefusalCode
from machpay.protocol.keys import SigningKey
from machpay.protocol.receipts import Receipt, SignedReceipt
from machpay.protocol.screening import Attempt
from machpay.protocol.settlements import ResolvedPayment
from machpay.protocol.snapshots import LiabilityAnswer
from machpay.protocol.x402 import Correction, parse_voucher

_SERVED: Final = 200


@dataclass(frozen=True, slots=True)
class Order:
    """One screened payment and what the vendor takes for it. `gateway` is the vendor's hosted gateway."""

    attempt: Attempt
    nonce_time: datetime
    vendor: Pubkey
    gateway: SigningKey
    price_atomic: int

    @property
    def channel(self) -> str:
        return str(self.attempt.intent.channel)


@dataclass(frozen=True, slots=True)
class Declined:
    """Not charged. `correction` and `receipt` are what a client needs to make a better payment."""

    code: RefusalCode
    detail: str
    correction: Correction | None = None
    receipt: SignedReceipt | None = None


@dataclass(frozen=True, slots=True)
class Free:
    """The payment would be charged now; `charged_total_atomic` is the channel's total without it."""

    charged_total_atomic: int


def preview(order: Order) -> SignedReceipt | Declined | Free:
    """What `charge` would answer now: the receipt if this very payment was charged before. A look only."""
    stored = _stored(order)
    if stored is not None:
        return _as_stored(order, stored)
    agent = str(order.attempt.agent)
    answer = liability_answer(agent=agent, asking_gateway=order.gateway.pubkey)
    return _admit(order, answer if answer is not None else no_bond(agent))


def charge(order: Order, *, mint: str) -> SignedReceipt | Declined:
    """Charge the payment and return its receipt, once it has committed; the same receipt for the same payment again."""
    with transaction.atomic():
        lock_agents([str(order.attempt.agent)])
        lock_channels([order.channel])
        found = preview(order)
        if not isinstance(found, Free):
            return found
        receipt = _sign(order, found.charged_total_atomic)
        (result,) = record_batch(
            mint=mint,
            gateway=order.gateway.pubkey,
            vendor=str(order.vendor),
            items=[Verified(_resolved(order, receipt), order.attempt.intent.digest, order.nonce_time)],
            vouchers=[],
        )
        if result.status != "accepted":
            raise RuntimeError(f"a payment that was not stored under this nonce came to {result.status}")
        _keep(order.channel, receipt)
    return receipt


def _stored(order: Order) -> PaymentIntent | None:
    """What this channel holds under the payment's nonce."""
    return PaymentIntent.objects.filter(
        nonce_time=order.nonce_time,
        agent=str(order.attempt.agent),
        nonce=order.attempt.intent.nonce,
        channel=order.channel,
    ).first()


def _as_stored(order: Order, stored: PaymentIntent) -> SignedReceipt | Declined:
    same = bytes(stored.digest) == order.attempt.intent.digest
    if not same or stored.receipt_signature is None or stored.served_at is None:
        return Declined(RefusalCode.NONCE_REPLAYED, "another payment was made with this nonce")
    receipt = Receipt(
        digest=bytes(stored.digest),
        http_status=stored.http_status,
        charged=int(stored.charged_atomic),
        served_total=int(stored.served_total_atomic or 0),
        time=int(stored.served_at.timestamp()),
    )
    return SignedReceipt(receipt, bytes(stored.receipt_signature))


def _admit(order: Order, answer: LiabilityAnswer) -> Declined | Free:
    """The agent's standing against the price; the same order of refusals as a gateway's."""
    snapshot, price = answer.snapshot, order.price_atomic
    if snapshot.status == "SLASHED":
        return Declined(RefusalCode.AGENT_SLASHED, "the agent's bond was slashed")
    if snapshot.status != "ACTIVE":
        return Declined(RefusalCode.AGENT_SUSPENDED, "the agent is suspended")
    limits = snapshot.limits
    if limits.per_call is not None and price > parse_u64(limits.per_call, "per_call"):
        return Declined(RefusalCode.BUDGET_EXCEEDED, f"the agent's limit per call is {limits.per_call}")
    if snapshot.remaining_today is not None and price > parse_u64(snapshot.remaining_today, "remaining"):
        return Declined(RefusalCode.BUDGET_EXCEEDED, "the agent's daily limit is used up")
    state = answer.channel
    total = 0 if state is None else parse_u64(state.charged_total, "charged_total")
    voucher = None if state is None or state.highest is None else parse_voucher(state.highest)
    highest = 0 if voucher is None else voucher.cumulative
    if max(highest, order.attempt.intent.cumulative) < total + price:
        return Declined(
            RefusalCode.CUMULATIVE_TOO_LOW,
            f"{total} is committed, so at least {total + price} is needed",
            Correction(total, voucher),
            _latest_receipt(order.channel),
        )
    if snapshot.available() < price:
        return Declined(
            RefusalCode.INSUFFICIENT_BOND,
            f"the bond covers {snapshot.available()} more, the price is {price}",
        )
    return Free(total)


def _latest_receipt(channel: str) -> SignedReceipt | None:
    latest = HostedReceipt.objects.filter(channel=channel).first()
    if latest is None:
        return None
    receipt = Receipt(
        digest=bytes(latest.digest),
        http_status=latest.http_status,
        charged=int(latest.charged_atomic),
        served_total=int(latest.served_total_atomic),
        time=latest.time,
    )
    return SignedReceipt(receipt, bytes(latest.signature))


def _keep(channel: str, signed: SignedReceipt) -> None:
    """Make it the channel's newest receipt."""
    receipt = signed.receipt
    HostedReceipt.objects.update_or_create(
        channel_id=channel,
        defaults={
            "digest": receipt.digest,
            "http_status": receipt.http_status,
            "charged_atomic": receipt.charged,
            "served_total_atomic": receipt.served_total,
            "time": receipt.time,
            "signature": signed.signature,
        },
    )


def _sign(order: Order, charged_total: int) -> SignedReceipt:
    receipt = Receipt(
        digest=order.attempt.intent.digest,
        http_status=_SERVED,
        charged=order.price_atomic,
        served_total=charged_total + order.price_atomic,
        time=int(timezone.now().timestamp()),
    )
    return receipt.sign(order.gateway)


def _resolved(order: Order, receipt: SignedReceipt) -> ResolvedPayment:
    attempt = order.attempt
    return ResolvedPayment(
        agent=attempt.agent,
        gateway=order.gateway.public,
        vendor=order.vendor,
        intent=attempt.intent,
        signature=attempt.signature,
        charged=order.price_atomic,
        http_status=_SERVED,
        served_total=receipt.receipt.served_total,
        served_at=receipt.receipt.time,
        receipt=receipt,
        seq=0,
    )
