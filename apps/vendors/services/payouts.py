"""Asking for payouts. A request holds its amount in the ledger in the same transaction, so nobody asks for more than
there is; sending it is recon's work (`services.execution`, `apps.settlement`)."""

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Sum
from django.utils import timezone

from apps.core.enqueue import enqueue_after_commit
from apps.core.money import InvalidAmount, format_usdc, parse_usdc
from apps.ledger import chart
from apps.ledger.services import reserve, void
from apps.ledger.types import Hold
from apps.vendors.errors import PayoutLimit, PayoutUnderWay, ReferenceUsed
from apps.vendors.models import Payout
from apps.vendors.services.destinations import usable_destination

Status = Payout.Status
_DAY = timedelta(days=1)


def amount_of(*, amount: str | int | Decimal | None = None, amount_atomic: int | None = None) -> int:
    """Atomic units from what a request says: a USDC decimal or atomic units, one of them. Raises `InvalidAmount`."""
    if (amount is None) == (amount_atomic is None):
        raise InvalidAmount("give amount (USDC) or amount_atomic, one of them")
    if isinstance(amount, float):
        raise InvalidAmount("an amount is never a binary fraction; have JSON numbers parsed as Decimal")
    atomic = parse_usdc(amount) if amount is not None else amount_atomic
    if not isinstance(atomic, int) or isinstance(atomic, bool) or atomic <= 0:
        raise InvalidAmount("an amount is more than nothing")
    return atomic


def hold_key(payout_id: int) -> str:
    """The ledger's name for what a payout holds, and for the transfer that posts it."""
    return f"payout:{payout_id}"


def request_payout(*, user_id: int, wallet: str, amount_atomic: int, reference: str, mint: str) -> Payout:
    """Ask for a payout to one of the user's usable wallets. The same reference with the same content returns the payout
    that is stored, whatever became of it.

    Raises `ReferenceUsed`, `PayoutLimit`, `UnknownDestination`, `DestinationNotUsable`, `InsufficientFunds`.
    """
    with transaction.atomic():
        # One request of a user at a time: limits and references are looked at and used in one step.
        get_user_model().objects.select_for_update(no_key=True).get(pk=user_id)
        stored = Payout.objects.filter(user_id=user_id, reference=reference).first()
        if stored is not None:
            if (stored.wallet, stored.amount_atomic) != (wallet, amount_atomic):
                raise ReferenceUsed(f"reference {reference} stands for another payout")
            return stored
        _within_limits(user_id, amount_atomic)
        usable_destination(user_id, wallet)
        payout = Payout.objects.create(
            user_id=user_id, wallet=wallet, amount_atomic=amount_atomic, reference=reference
        )
        reserve([Hold(hold_key(payout.pk), chart.custodial(user_id, mint), amount_atomic)])
    return payout


def withdraw(
    *, user_id: int, vendors: Iterable[str], wallet: str, amount_atomic: int, reference: str, mint: str
) -> Payout:
    """ "Withdraw": have recon settle what the user's vendors earned on chain, which pays their payout accounts, and
    request a payout of the custodial balance. `vendors` are keys that the caller knows to be the user's. Raises as
    `request_payout`."""
    with transaction.atomic():
        for vendor in sorted(set(vendors)):
            enqueue_after_commit("settlement.settle_vendor", vendor)
        return request_payout(
            user_id=user_id, wallet=wallet, amount_atomic=amount_atomic, reference=reference, mint=mint
        )


def cancel_payout(payout_id: int, *, by_id: int) -> Payout:
    """End a payout that no transaction can pay any more and give the balance back: an operator's decision.

    Raises `PayoutUnderWay`."""
    with transaction.atomic():
        payout = Payout.objects.select_for_update(no_key=True).get(pk=payout_id)
        if payout.status != Status.PENDING:
            raise PayoutUnderWay(f"payout {payout_id} is {payout.status}; only a pending one is cancelled")
        payout.status, payout.ended_at = Status.FAILED, timezone.now()
        payout.cancelled_by_id, payout.error = by_id, "cancelled by an operator"
        payout.save(update_fields=["status", "ended_at", "cancelled_by", "error"])
        void([hold_key(payout_id)])
    return payout


def _within_limits(user_id: int, amount_atomic: int) -> None:
    if amount_atomic < settings.PAYOUT_MINIMUM_ATOMIC:
        raise PayoutLimit(f"a payout is at least {format_usdc(settings.PAYOUT_MINIMUM_ATOMIC)} USDC")
    today = Payout.objects.filter(user_id=user_id, created_at__gt=timezone.now() - _DAY).exclude(
        status=Status.FAILED
    )
    asked = int(today.aggregate(total=Sum("amount_atomic"))["total"] or 0)
    if asked + amount_atomic > settings.PAYOUT_DAILY_LIMIT_ATOMIC:
        left = max(0, settings.PAYOUT_DAILY_LIMIT_ATOMIC - asked)
        raise PayoutLimit(
            f"{format_usdc(left)} USDC may be paid out now; 24 hours pay at most the daily limit"
        )
