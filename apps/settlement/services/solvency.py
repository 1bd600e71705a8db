"""Watches what agents owe against what they have, and takes credit back where nothing is left to pay it.

owes more than is free of the bond     settled at once, an alert (optimistic gateways got ahead of the bond)
owes more than the bond                suspended, a case; the planner shares the bond out
owes, and the bond is used up          reversed: the vendors' credit is uncollected, and they are told
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from apps.core import live
from apps.payments.locks import lock_agents
from apps.payments.models import AgentMirror, Case, Channel
from apps.payments.selectors.solvency import Exposure, exposed_agents
from apps.payments.services.cases import open_case, suspend
from apps.payments.services.reversals import Reversed, reverse_uncovered
from machpay.protocol.encoding import to_rfc3339

log = structlog.get_logger(__name__)

# An agent that stays close to its bond is settled at once again after this long.
_ALERT_EVERY: Final = timedelta(minutes=10)


@dataclass(slots=True)
class Watched:
    """What one look did: agents suspended, agents whose channels are settled at once, and credit reversed."""

    suspended: list[str] = field(default_factory=list)
    hurried: list[str] = field(default_factory=list)
    reversed: list[Reversed] = field(default_factory=list)


def watch_solvency() -> Watched:
    """One look at every agent with something unsettled. Safe to repeat and in several workers: each step is one
    transaction, and vendors are told after it by the worker whose it was."""
    result = Watched()
    for exposure in exposed_agents():
        if exposure.insolvent:
            if _suspend(exposure):
                result.suspended.append(exposure.agent)
        elif exposure.overcommitted and exposure.held_atomic and _hurry(exposure):
            result.hurried.append(exposure.agent)
        before = timezone.now() - timedelta(seconds=settings.REVERSAL_GRACE_S)
        reversed_ = reverse_uncovered(exposure.agent, unsettled_before=before)
        _tell(reversed_)
        result.reversed += reversed_
    return result


def _suspend(exposure: Exposure) -> bool:
    """Open a case and suspend the agent; False if it has one that is open, or is slashed already."""
    with transaction.atomic():
        (row,) = lock_agents([exposure.agent]).values()
        earlier = Case.objects.filter(kind=Case.Kind.INSOLVENCY, subject=exposure.agent)
        if row.window_end or earlier.filter(status=Case.Status.OPEN).exists():
            return False
        gateways = {
            channel.gateway_id: str(channel.charged_total_atomic - channel.settled_atomic)
            for channel in Channel.objects.filter(agent=exposure.agent, unsettled_since__isnull=False)
        }
        case, new = open_case(
            kind=Case.Kind.INSOLVENCY,
            subject=exposure.agent,
            key=f"insolvency:{exposure.agent}:{earlier.count()}",
            amount_atomic=exposure.due_atomic - exposure.held_atomic,
            evidence={
                "due": str(exposure.due_atomic),
                "bond": str(exposure.held_atomic),
                "slot": row.slot,
                "unsettled_by_gateway": gateways,
            },
            note="charged beyond its bond",
        )
        suspended = new and suspend(case, note="its bond does not cover what it was charged")
    if suspended:
        log.warning(
            "agent_insolvent",
            agent=exposure.agent,
            due_atomic=exposure.due_atomic,
            bond_atomic=exposure.held_atomic,
        )
        _alert(exposure.agent, gateways, "agent_suspended", reason="insolvent")
    return suspended


def _hurry(exposure: Exposure) -> bool:
    """Have everything the agent owes settled at once; False if that was asked for a moment ago."""
    now = timezone.now()
    asked = AgentMirror.objects.filter(agent=exposure.agent).filter(
        Q(settle_urgently_since=None) | Q(settle_urgently_since__lt=now - _ALERT_EVERY)
    )
    if not asked.update(settle_urgently_since=now):
        return False
    log.warning(
        "agent_overcommitted",
        agent=exposure.agent,
        due_atomic=exposure.due_atomic,
        bond_atomic=exposure.held_atomic,
        spoken_for_atomic=exposure.spoken_for_atomic,
    )
    _alert(exposure.agent, (), "agent_overcommitted", due_atomic=str(exposure.due_atomic))
    return True


def _tell(reversed_: Iterable[Reversed]) -> None:
    for each in reversed_:
        log.warning(
            "settlement_failed",
            agent=each.agent,
            gateway=each.gateway,
            vendor=each.vendor,
            channel=each.channel,
            amount_atomic=each.amount_atomic,
            intents=each.intents,
        )
        _alert(
            each.agent,
            [each.gateway],
            "settlement_failed",
            vendor=each.vendor,
            channel=each.channel,
            amount_atomic=str(each.amount_atomic),
        )


def _alert(agent: str, gateways: Iterable[str], kind: str, **facts: Any) -> None:
    data = {"time": to_rfc3339(int(datetime.now(UTC).timestamp())), "type": kind, "agent": agent, **facts}
    live.publish(f"agent:{agent}", "alert", data)
    for gateway in gateways:
        live.publish(f"vendor:{gateway}", "alert", data | {"gateway": gateway})
