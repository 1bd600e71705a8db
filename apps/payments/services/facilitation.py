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

from apps.payments.locks import lock_agents, lock_channels, lock_rules
from apps.payments.models import AgentMirror, Channel, HostedReceipt, PaymentIntent
from apps.payments.services.intake import record_batch
from apps.payments.services.leases import bar_to_charge
from apps.payments.verification import Verified
from machpay.protocol.errors import RefusalCode
from machpay.protocol.intents import Voucher
from machpay.protocol.keys import SigningKey
from machpay.protocol.receipts import Receipt, SignedReceipt
from machpay.protocol.screening import Attempt
from machpay.protocol.settlements import ResolvedPayment
from machpay.protocol.x402 import Correction

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
    """Not charged. `code` is one of `RefusalCode` or of the reasons for which no lease is granted; `correction` and
    `receipt` are what a client needs to make a better payment, or the receipt of one that was charged before."""

    code: str
    detail: str
    correction: Correction | None = None
    receipt: SignedReceipt | None = None


@dataclass(frozen=True, slots=True)
class Free:
    """The payment would be charged now; `charged_total_atomic` is the channel's total without it."""

    charged_total_atomic: int


def preview(order: Order) -> SignedReceipt | Declined | Free:
    """What `charge` would answer now: the receipt if this very payment was charged before. A look only."""
    agent = AgentMirror.objects.filter(agent=str(order.attempt.agent)).first()
    channel = Channel.objects.filter(address=order.channel).first()
    return _look(order, agent, channel)


def charge(order: Order, *, mint: str) -> SignedReceipt | Declined:
    """Charge the payment and return its receipt, once it has committed; the same receipt for the same payment again."""
    with transaction.atomic():
        # A kill switch that was thrown before this is seen, and one thrown later waits.
        lock_rules()
        (agent,) = lock_agents([str(order.attempt.agent)]).values()
        found = _look(order, agent, lock_channels([order.channel]).get(order.channel))
        if not isinstance(found, Free):
            # Anybody can draw a key and sign with it: what is not charged leaves no rows behind.
            transaction.set_rollback(True)
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


def _look(
    order: Order, agent: AgentMirror | None, channel: Channel | None
) -> SignedReceipt | Declined | Free:
    stored = _stored(order)
    if stored is not None:
        return _as_stored(order, stored)
    if agent is None:
        return Declined(RefusalCode.INSUFFICIENT_BOND, "the agent has no bond")
    channel = channel or Channel(address=order.channel, agent_id=agent.agent, gateway_id=order.gateway.pubkey)
    total, needed = channel.charged_total_atomic, channel.charged_total_atomic + order.price_atomic
    if max(channel.highest_cumulative_atomic, order.attempt.intent.cumulative) < needed:
        return Declined(
            RefusalCode.CUMULATIVE_TOO_LOW,
            f"{total} is committed, so at least {needed} is needed",
            Correction(total, _voucher(channel)),
            _latest_receipt(order.channel),
        )
    code = bar_to_charge(agent, channel, price=order.price_atomic)
    return (
        Free(total)
        if code is None
        else Declined(code, _DETAILS.get(code, "the agent or the network is held back"))
    )


_DETAILS: Final = {
    "agent_slashed": "the agent's bond was slashed",
    "agent_suspended": "the agent is suspended",
    "budget_exceeded": "the agent's own limit per call or per day is used up",
    "insufficient_bond": "the bond does not cover the price",
    "halted": "the network is halted",
    "held": "money is about to leave the agent's bond",
    "gateway_blacklisted": "the vendor's gateway is barred",
    "gateway_revoked": "the vendor revoked its gateway",
}


def _voucher(channel: Channel) -> Voucher | None:
    """The highest voucher held of the agent."""
    if channel.highest_context is None or channel.highest_signature is None:
        return None
    return Voucher(
        channel=Pubkey.from_string(channel.address),
        cumulative=channel.highest_cumulative_atomic,
        context=bytes(channel.highest_context),
        signature=bytes(channel.highest_signature),
    )


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
