"""What recon records of payouts: claimed, signed, sent, paid, or certain not to be.

The order is what makes it impossible to pay twice: bytes are stored before they are first sent, only they are sent
again, and another transaction is signed only after the chain has decided that the last one never pays. Every step is
a conditional update in one transaction with the ledger's.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Final, NamedTuple

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from apps.ledger import chart
from apps.ledger.services import post, void
from apps.ledger.types import Transfer
from apps.vendors.models import Payout, PayoutAttempt
from apps.vendors.services.payouts import hold_key

Status = Payout.Status
Outcome = PayoutAttempt.Outcome
ATTEMPTS_MAX: Final = 5
_ERROR_MAX: Final = 200
_RETRY_AFTER: Final = timedelta(seconds=10)


class SignedPayout(NamedTuple):
    """A transaction that pays one payout."""

    raw_transaction: bytes
    signature: str
    last_valid_block_height: int


class OpenAttempt(NamedTuple):
    """An attempt that the chain has not decided yet."""

    id: int
    payout_id: int
    signature: str
    raw_transaction: bytes
    last_valid_block_height: int
    send_count: int


def claim_payouts(sign: Callable[[Payout], SignedPayout], *, limit: int) -> list[OpenAttempt]:
    """Sign and store the next pending payouts, oldest first; those that another worker has in hand are skipped.

    `sign` runs inside the transaction and does no I/O. What is returned has committed and was not sent yet.
    """
    with transaction.atomic():
        due = _due().select_for_update(no_key=True, skip_locked=True)
        attempts = []
        for payout in due.order_by("id")[:limit]:
            signed = sign(payout)
            attempts.append(
                PayoutAttempt.objects.create(
                    payout=payout,
                    number=payout.attempt_count + 1,
                    signature=signed.signature,
                    raw_transaction=signed.raw_transaction,
                    last_valid_block_height=signed.last_valid_block_height,
                )
            )
            payout.status, payout.sent_at = Status.SENT, timezone.now()
            payout.attempt_count += 1
            payout.save(update_fields=["status", "sent_at", "attempt_count"])
    return [_open(attempt) for attempt in attempts]


def payouts_are_due() -> bool:
    """Whether there is something to claim now; a look without locks."""
    return _due().exists()


def open_attempts(*, limit: int) -> list[OpenAttempt]:
    """Attempts to look up on the chain, the oldest first."""
    return [_open(row) for row in PayoutAttempt.objects.filter(outcome=Outcome.OPEN).order_by("id")[:limit]]


def begin_send(attempt: OpenAttempt) -> bool:
    """Record that a send begins; False if another worker was faster or the attempt is decided."""
    return bool(
        PayoutAttempt.objects.filter(
            pk=attempt.id, outcome=Outcome.OPEN, send_count=attempt.send_count
        ).update(send_count=F("send_count") + 1)
    )


def note_answer(attempt_id: int, error: str) -> None:
    """Keep what the RPC server said to a send. It decides nothing: only the chain's history does."""
    PayoutAttempt.objects.filter(pk=attempt_id, outcome=Outcome.OPEN).update(error=error[:_ERROR_MAX])


def mark_paid(attempt_id: int, *, slot: int, mint: str) -> bool:
    """The attempt is final on chain: post what was held. False if that was recorded already."""
    with transaction.atomic():
        payout = _of_open_attempt(attempt_id)
        if payout is None:
            return False
        attempt = PayoutAttempt.objects.get(pk=attempt_id)
        _decide(attempt, Outcome.LANDED, slot=slot)
        payout.status, payout.tx_hash, payout.ended_at = Status.CONFIRMED, attempt.signature, timezone.now()
        payout.error = ""
        payout.save(update_fields=["status", "tx_hash", "ended_at", "error"])
        post(
            [
                Transfer.move(
                    hold_key(payout.pk),
                    chart.TransferKind.PAYOUT,
                    debit=chart.custodial(payout.user_id, mint),
                    credit=chart.paid_out(payout.user_id, mint),
                    amount_atomic=payout.amount_atomic,
                    hold=hold_key(payout.pk),
                )
            ]
        )
    return True


def mark_not_paid(attempt_id: int, *, outcome: str, error: str, slot: int | None = None) -> Payout | None:
    """The attempt is certain not to pay (`FAILED` or `EXPIRED`): the payout is tried again later, or has failed after
    `ATTEMPTS_MAX` of them and its balance is given back. None if that was recorded already."""
    with transaction.atomic():
        payout = _of_open_attempt(attempt_id)
        if payout is None:
            return None
        attempt = PayoutAttempt.objects.get(pk=attempt_id)
        reason = attempt.error or error
        _decide(attempt, outcome, slot=slot, error=reason)
        payout.error = reason[:_ERROR_MAX]
        if payout.attempt_count < ATTEMPTS_MAX:
            payout.status = Status.PENDING
            payout.not_before = timezone.now() + _RETRY_AFTER * payout.attempt_count
        else:
            payout.status, payout.ended_at = Status.FAILED, timezone.now()
            void([hold_key(payout.pk)])
        payout.save(update_fields=["status", "not_before", "ended_at", "error"])
    return payout


def _due() -> QuerySet[Payout]:
    return Payout.objects.filter(
        Q(not_before__isnull=True) | Q(not_before__lte=timezone.now()), status=Status.PENDING
    )


def _of_open_attempt(attempt_id: int) -> Payout | None:
    """The attempt's payout, locked; None if the attempt is decided. Payouts are locked before ledger accounts."""
    payout = (
        Payout.objects.select_for_update(no_key=True, of=("self",)).filter(attempts__pk=attempt_id).first()
    )
    is_open = PayoutAttempt.objects.filter(pk=attempt_id, outcome=Outcome.OPEN).exists()
    return payout if is_open else None


def _decide(attempt: PayoutAttempt, outcome: str, *, slot: int | None, error: str = "") -> None:
    PayoutAttempt.objects.filter(pk=attempt.pk).update(
        outcome=outcome, slot=slot, error=error[:_ERROR_MAX], ended_at=timezone.now()
    )


def _open(row: PayoutAttempt) -> OpenAttempt:
    return OpenAttempt(
        row.pk,
        row.payout_id,
        row.signature,
        bytes(row.raw_transaction),
        row.last_valid_block_height,
        row.send_count,
    )
