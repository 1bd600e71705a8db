"""Sends stored payout transactions. Nothing is sent that the database does not hold, and every send is recorded before
it leaves. What the RPC server answers decides nothing: a refusal too waits for the chain's history."""

from collections.abc import Sequence

import structlog

from apps.settlement.chain import ChainSession
from apps.vendors.services.execution import OpenAttempt, begin_send, note_answer
from machpay.chain.errors import RpcUnavailable, TransactionFailed, TransactionRejected

log = structlog.get_logger(__name__)


def send_attempts(chain: ChainSession, attempts: Sequence[OpenAttempt]) -> int:
    """Send each attempt whose turn it still is; returns how many the RPC server took. Raises `RpcUnavailable`."""
    taken = 0
    for attempt in attempts:
        if not begin_send(attempt):
            continue
        try:
            chain.run(chain.client.send(attempt.raw_transaction))
        except RpcUnavailable as error:
            note_answer(attempt.id, str(error))
            raise
        except (TransactionRejected, TransactionFailed) as error:
            note_answer(attempt.id, str(error))
            log.warning("payout_send_refused", payout=attempt.payout_id, error=str(error))
        else:
            taken += 1
    return taken
