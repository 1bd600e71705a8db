"""One look for fraud: what intake recorded, what it may have missed, and what became of what was proven before.

Everything that is found becomes a case with evidence. Agents caught double-signing are suspended at once and slashed on
chain; gateways wait for a person, except where their own signatures prove what they did.
"""

from datetime import timedelta
from typing import Final

import structlog
from django.conf import settings
from django.utils import timezone

from apps.payments.services import claims, complaints, equivocations, overreports
from apps.settlement.chain import ChainSession
from apps.settlement.services.slash import slash

log = structlog.get_logger(__name__)

# A batch is stored within this time of its newest nonce, or intake sees it together with what is stored by then.
_SCAN_LAG: Final = timedelta(minutes=2)


def look_for_fraud(chain: ChainSession) -> list[str]:
    """Look once, and send proofs of double signing; returns the agents they are about. Safe to repeat and in several
    workers. Raises `SettlementPaused`, `RpcUnavailable` for the proofs; everything else is done before."""
    now = timezone.now()
    missed = equivocations.scan(until=now - _SCAN_LAG)
    if missed:
        log.error("equivocations_missed_by_intake", count=missed)
    claims.resolve_covered()
    overreports.open_cases(unsettled_before=now - timedelta(seconds=settings.REVERSAL_GRACE_S))
    complaints.judge_again(now=now)
    complaints.open_cases(now=now)
    return slash(chain)
