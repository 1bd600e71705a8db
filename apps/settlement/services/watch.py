"""Watches what is confirmed and not final yet, for claims, withdrawal requests and slashes.

Mirrors and ledger follow finalised state only. But a bond that is about to shrink cannot wait for that: the
agent's leases are revoked, nothing more is leased before the mirror shows what happened, and its channels are
settled at once. If the chain drops such a transaction after all, the mirror passes its slot and the agent is
leased to again.
"""

from collections import OrderedDict
from typing import Any, Final

import structlog

from apps.payments.services import chain_index
from apps.payments.services.enforcement import raise_alarm
from apps.settlement.chain import ChainSession
from machpay.chain.client import SIGNATURES_PER_CALL_MAX, SignatureSeen
from machpay.chain.errors import DecodeError
from machpay.chain.events import AgentSlashed, ClaimRequested, Event, WithdrawalRequested

# Most looks find nothing or a few; a page is what a cluster answers at most.
_FIRST_PAGE: Final = 50
_REMEMBERED: Final = 20_000

log = structlog.get_logger(__name__)
_judged: OrderedDict[str, None] = OrderedDict()
"""Transactions that this process has read already; forgetting one costs one more look."""


def watch_confirmed(chain: ChainSession) -> int:
    """Raise an alarm for every confirmed event that is not taken over as final yet; returns how many were news. Before
    the first start nothing is leased that could be revoked. Safe to repeat and to run in several workers. Raises
    `RpcUnavailable`."""
    index = chain_index.position()
    # What a snapshot of all accounts has seen is history, also where the index does not reach that far yet.
    floor = max(index.slot, index.snapshot_slot)
    if not floor:
        return 0
    news = 0
    for seen in reversed(_unfinished(chain, floor)):
        if seen.signature in _judged:
            continue
        try:
            recorded = chain.run(chain.client.events(seen.signature, "confirmed"))
        except DecodeError as error:
            # The mirror meets it too, and reads all accounts instead.
            log.error("confirmed_transaction_unreadable", signature=seen.signature, error=str(error))
            recorded = []
        if recorded is None:
            continue
        news += sum(_judge(each.event, seen.slot, str(chain.network.mint)) for each in recorded)
        _remember(seen.signature)
    return news


def _unfinished(chain: ChainSession, floor: int) -> list[SignatureSeen]:
    """Successful transactions of the program above slot `floor`, the newest first."""
    listed: list[SignatureSeen] = []
    before, limit = None, _FIRST_PAGE
    while True:
        page = chain.run(
            chain.client.signatures_of(
                chain.network.event_authority(), before=before, limit=limit, commitment="confirmed"
            )
        )
        listed += [each for each in page if each.slot > floor and not each.failed]
        if len(page) < limit or page[-1].slot <= floor or page[-1].signature in _judged:
            return listed
        before, limit = page[-1].signature, SIGNATURES_PER_CALL_MAX


def _judge(event: Event, slot: int, mint: str) -> bool:
    """Raise the alarm that this event asks for, if any; whether it was news."""
    seen: dict[str, Any]
    match event:
        case ClaimRequested():
            reason, seen = "claim", {"channel": str(event.channel), "cumulative": str(event.cumulative)}
        case WithdrawalRequested():
            reason, seen = "withdrawal", {"amount": str(event.amount)}
        case AgentSlashed():
            reason, seen = "slash", {"forfeited": str(event.forfeited)}
        case _:
            return False
    if str(event.mint) != mint:
        return False
    agent = str(event.agent)
    news = raise_alarm(agent, reason, slot=slot, seen=seen)
    if news:
        log.warning("alarm", agent=agent, reason=reason, slot=slot, **seen)
    return news


def _remember(signature: str) -> None:
    _judged[signature] = None
    if len(_judged) > _REMEMBERED:
        _judged.popitem(last=False)
