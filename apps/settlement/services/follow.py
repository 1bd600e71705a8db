"""Finds out what became of transactions: pending, sent, unknown -> confirmed -> finalized | failed."""

from typing import Final

import structlog

from apps.payments.services.aggregations import end_aggregations
from apps.payments.services.settlements import (
    OpenSettlement,
    mark_confirmed,
    mark_failed,
    mark_finalized,
    open_settlements,
)
from apps.settlement.chain import ChainSession
from apps.settlement.services.outcome import Verdict, judge
from apps.settlement.services.send import Outgoing, send_all
from machpay.chain.transactions import TxStatus

log = structlog.get_logger(__name__)

# `getSignatureStatuses` takes 256 signatures a call.
FOLLOWED_PER_RUN: Final = 1_024


def follow(chain: ChainSession) -> dict[Verdict, int]:
    """Look up every open settlement and take it one step on; returns how many got which verdict.

    A settlement that a crashed worker stored and never sent, or sent and never heard of again, is sent from
    here. Safe to run concurrently: every step is a conditional update. Raises `RpcUnavailable`.
    """
    rows = open_settlements(limit=FOLLOWED_PER_RUN)
    verdicts: dict[Verdict, int] = {}
    if not rows:
        return verdicts
    # The tip first: see `judge`.
    tip = chain.run(chain.client.tip())
    statuses = chain.run(chain.client.status([row.signature for row in rows], least_slot=tip.slot))
    resend = []
    confirmed, final = {}, {}
    for row, status in zip(rows, statuses, strict=True):
        verdict = judge(
            status, last_valid_block_height=row.last_valid_block_height, finalized_height=tip.block_height
        )
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        if verdict is Verdict.RESEND:
            resend.append(Outgoing(row.id, row.raw_transaction, row.send_count))
        elif verdict is Verdict.EXPIRED:
            _expired(row)
        elif status is None:
            continue
        elif verdict is Verdict.CONFIRMED:
            confirmed[row.id] = status.slot
        elif verdict is Verdict.FINAL:
            final[row.id] = status.slot
        elif verdict is Verdict.FAILED:
            _failed(row, status)
    mark_confirmed(confirmed)
    ended = mark_finalized(final)
    if ended:
        log.info("settlements_finalized", settlements=len(ended), first=min(ended))
    try:
        send_all(chain, resend)
    finally:
        end_aggregations()
    return verdicts


def _expired(row: OpenSettlement) -> None:
    error = f"expired: not found in history after block height {row.last_valid_block_height} was final"
    if mark_failed(row.id, error=error):
        log.warning("settlement_expired", settlement=row.id, signature=row.signature, sends=row.send_count)


def _failed(row: OpenSettlement, status: TxStatus) -> None:
    if mark_failed(row.id, error=str(status.err)):
        log.warning("settlement_failed", settlement=row.id, signature=row.signature, error=str(status.err))
