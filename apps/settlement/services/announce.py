"""Tells logs and live pages what a committed snapshot of the chain changed, with the transactions that did it."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from apps.core import live
from apps.payments.services.chain_mirror import Applied, BondMoved, SettlementSeen
from machpay.protocol.encoding import to_rfc3339

log = structlog.get_logger(__name__)

Transactions = Mapping[tuple[str, str], str]
"""Signature by (kind of event, agent or channel)."""

_SETTLING = ("Settled", "ClaimExecuted", "Aggregated")


def announce(applied: Applied, transactions: Transactions) -> None:
    """Log what moved and publish it. The signature of a transaction that the index does not know (yet) is null."""
    if applied.moved:
        log.info(
            "chain_followed",
            slot=applied.slot,
            deposits=len(applied.deposits),
            withdrawals=len(applied.withdrawals),
            channels_distributed=len(applied.distributed),
            slashed=[seen.agent for seen in applied.slashed],
            swept=len(applied.swept),
            channels_settled=len(applied.settled),
            settled_atomic=sum(seen.amount_atomic for seen in applied.settled),
            intents_settled=applied.intents_settled,
            settlements_ended=len(applied.ended_settlements),
        )
        _publish(applied, transactions)


def _publish(applied: Applied, transactions: Transactions) -> None:
    about = {"time": to_rfc3339(int(datetime.now(UTC).timestamp())), "slot": applied.slot}
    _bonds("deposit", "Deposited", applied.deposits, about, transactions)
    _bonds("withdrawal", "Withdrawn", applied.withdrawals, about, transactions)
    _bonds("slash", "AgentSlashed", applied.slashed, about, transactions)
    _bonds("sweep", "ForfeitedSwept", applied.swept, about, transactions)
    for settled in applied.settled:
        event = about | _settlement(settled, transactions)
        live.publish(f"vendor:{settled.gateway}", "settlement", event)
        live.publish(f"agent:{settled.agent}", "settlement", event)
    if applied.settled:
        live.publish(live.TICKER, "settlement", about | _anonymous(applied.settled))


def _bonds(
    event: str,
    kind: str,
    moved: Iterable[BondMoved],
    about: Mapping[str, Any],
    transactions: Transactions,
) -> None:
    for seen in moved:
        data = {
            **about,
            "agent": seen.agent,
            "amount_atomic": str(seen.amount_atomic),
            "transaction": transactions.get((kind, seen.agent)),
        }
        live.publish(f"agent:{seen.agent}", event, data)


def _settlement(settled: SettlementSeen, transactions: Transactions) -> dict[str, Any]:
    found = (transactions.get((kind, settled.channel)) for kind in _SETTLING)
    return {
        "channel": settled.channel,
        "agent": settled.agent,
        "gateway": settled.gateway,
        "vendor": settled.vendor,
        "amount_atomic": str(settled.amount_atomic),
        "settled_atomic": str(settled.settled_atomic),
        "transaction": next((signature for signature in found if signature), None),
    }


def _anonymous(settled: Sequence[SettlementSeen]) -> dict[str, Any]:
    """One event per slot, so that nobody can tell the channels apart."""
    return {
        "channels": len(settled),
        "amount_atomic": str(sum(seen.amount_atomic for seen in settled)),
    }
