"""Takes over one finalised snapshot of the chain, and tells live pages what it changed."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from apps.core import live
from apps.payments.services.chain_mirror import Applied, DepositSeen, SettlementSeen, apply_chain_snapshot
from apps.settlement.chain import ChainSession
from machpay.chain.client import Snapshot
from machpay.protocol.encoding import to_rfc3339

log = structlog.get_logger(__name__)


def sync_chain(chain: ChainSession) -> tuple[Snapshot, Applied]:
    """Mirror the newest finalised slot: deposits, settlements and intents follow it, whoever sent the
    transactions.

    Returns the snapshot and what it changed: nothing, if another worker applied this slot or a later one
    already. Events are published after the commit by the one worker whose commit it was, so each rise is
    shown once.
    """
    snapshot = chain.run(chain.client.program_accounts("finalized"))
    applied = apply_chain_snapshot(snapshot)
    announce(applied)
    return snapshot, applied


def announce(applied: Applied) -> None:
    """Log what a committed snapshot changed and tell live pages."""
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
        _publish(applied)


def _publish(applied: Applied) -> None:
    time = to_rfc3339(int(datetime.now(UTC).timestamp()))
    for deposit in applied.deposits:
        live.publish(f"agent:{deposit.agent}", "deposit", _deposit(deposit, applied.slot, time))
    for settled in applied.settled:
        event = _settlement(settled, applied.slot, time)
        live.publish(f"vendor:{settled.gateway}", "settlement", event)
        live.publish(f"agent:{settled.agent}", "settlement", event)
    if applied.settled:
        live.publish(live.TICKER, "settlement", _anonymous(applied.settled, applied.slot, time))


def _deposit(deposit: DepositSeen, slot: int, time: str) -> dict[str, Any]:
    return {"time": time, "slot": slot, "agent": deposit.agent, "amount_atomic": str(deposit.amount_atomic)}


def _settlement(settled: SettlementSeen, slot: int, time: str) -> dict[str, Any]:
    return {
        "time": time,
        "slot": slot,
        "channel": settled.channel,
        "agent": settled.agent,
        "gateway": settled.gateway,
        "vendor": settled.vendor,
        "amount_atomic": str(settled.amount_atomic),
        "settled_atomic": str(settled.settled_atomic),
    }


def _anonymous(settled: Sequence[SettlementSeen], slot: int, time: str) -> dict[str, Any]:
    """One event per slot, so that nobody can tell the channels apart."""
    return {
        "time": time,
        "slot": slot,
        "channels": len(settled),
        "amount_atomic": str(sum(seen.amount_atomic for seen in settled)),
    }
