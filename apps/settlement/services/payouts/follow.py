"""Finds out what became of payout transactions, and records it when it is final."""

from typing import Final

import structlog

from apps.core import live
from apps.settlement.chain import ChainSession
from apps.settlement.services.outcome import Verdict, judge
from apps.settlement.services.payouts.send import send_attempts
from apps.vendors.models import Payout
from apps.vendors.services.execution import OpenAttempt, mark_not_paid, mark_paid, open_attempts
from machpay.chain.transactions import TxStatus

log = structlog.get_logger(__name__)

# `getSignatureStatuses` takes 256 signatures.
FOLLOWED_PER_RUN: Final = 200


def follow_payouts(chain: ChainSession) -> dict[Verdict, int]:
    """Look up every undecided attempt; returns how many got which verdict.

    The same bytes are sent again while they can land. Another transaction is signed only after this has recorded that
    they never will: their last height is final by a margin and history does not know them, or they landed without
    effect. Safe to run concurrently. Raises `RpcUnavailable`.
    """
    attempts = open_attempts(limit=FOLLOWED_PER_RUN)
    verdicts: dict[Verdict, int] = {}
    if not attempts:
        return verdicts
    # The tip first: see `judge`.
    tip = chain.run(chain.client.tip())
    statuses = chain.run(
        chain.client.status([attempt.signature for attempt in attempts], least_slot=tip.slot)
    )
    again = []
    for attempt, status in zip(attempts, statuses, strict=True):
        verdict = judge(
            status, last_valid_block_height=attempt.last_valid_block_height, finalized_height=tip.block_height
        )
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        if verdict is Verdict.RESEND:
            again.append(attempt)
        else:
            _record(chain, attempt, status, verdict)
    send_attempts(chain, again)
    return verdicts


def _record(chain: ChainSession, attempt: OpenAttempt, status: TxStatus | None, verdict: Verdict) -> None:
    if verdict is Verdict.FINAL and status is not None:
        if mark_paid(attempt.id, slot=status.slot, mint=str(chain.network.mint)):
            log.info("payout_paid", payout=attempt.payout_id, signature=attempt.signature)
            _tell(attempt.payout_id)
    elif verdict is Verdict.FAILED and status is not None:
        _not_paid(attempt, "FAILED", str(status.err), status.slot)
    elif verdict is Verdict.EXPIRED:
        error = f"not found in history after block height {attempt.last_valid_block_height} was final"
        _not_paid(attempt, "EXPIRED", error, None)


def _not_paid(attempt: OpenAttempt, outcome: str, error: str, slot: int | None) -> None:
    payout = mark_not_paid(attempt.id, outcome=outcome, error=error, slot=slot)
    if payout is None:
        return
    log.warning("payout_not_paid", payout=payout.pk, outcome=outcome, status=payout.status, error=error)
    if payout.status == Payout.Status.FAILED:
        _tell(payout.pk)


def _tell(payout_id: int) -> None:
    payout = Payout.objects.get(pk=payout_id)
    live.publish(
        f"user:{payout.user_id}",
        "payout",
        {
            "reference": payout.reference,
            "status": payout.status,
            "amount_atomic": str(payout.amount_atomic),
            "transaction": payout.tx_hash or None,
        },
    )
