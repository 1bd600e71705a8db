"""What an agent may do: status, limits and kill switches, and alarms from the chain.

Every change is one transaction: the new state, the revocation of leases that it makes wrong, an entry of the
change stream and one of the record of who did it and why. A change that changes nothing writes nothing.
Revoking frees no bond: a revoked lease counts until its gateway releases it or its grace is over, because it
may have charges to deliver.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from apps.payments.errors import SlashedForGood
from apps.payments.locks import lock_agents, lock_rules
from apps.payments.models import AgentMirror, ChainCursor, EnforcementEvent, Lease, NetworkRules
from apps.payments.services import changes

Status = AgentMirror.Status
Action = EnforcementEvent.Action
_REASON_MAX: Final = 300


def set_status(agent: str, status: str, reason: str, by: str) -> bool:
    """Make the agent `status` (ACTIVE, SUSPENDED, SLASHED); True if it was not. Any but ACTIVE revokes its
    leases. Raises `SlashedForGood` for an agent that was slashed on chain."""

    def change(row: AgentMirror) -> bool:
        if row.window_end and status != Status.SLASHED:
            raise SlashedForGood("this agent's bond was slashed on chain; it cannot be reinstated")
        row.status = Status(status)
        return row.status != Status.ACTIVE

    return _change(agent, Action.STATUS, ("status",), change, reason, by)


def set_limits(
    agent: str, reason: str, by: str, *, per_call_atomic: int | None, per_day_atomic: int | None
) -> bool:
    """Set both spending limits (None: no limit); True if one changed. A lower limit per day revokes leases, which were
    granted by the old one."""

    def change(row: AgentMirror) -> bool:
        before = row.limit_per_day_atomic
        row.limit_per_call_atomic, row.limit_per_day_atomic = per_call_atomic, per_day_atomic
        return per_day_atomic is not None and (before is None or per_day_atomic < before)

    columns = ("limit_per_call_atomic", "limit_per_day_atomic")
    return _change(agent, Action.LIMITS, columns, change, reason, by)


def set_kill_switch(agent: str, stopped: bool, reason: str, by: str) -> bool:
    """Stop everything the agent could spend, or let it spend again; True if that changed anything."""

    def change(row: AgentMirror) -> bool:
        row.stopped = stopped
        return stopped

    return _change(agent, Action.KILL_SWITCH, ("stopped",), change, reason, by)


def set_rules(reason: str, by: str, *, mode: str, cap_atomic: int | None, halted: bool) -> bool:
    """Set the network's rules; True if one changed. Halting revokes every lease."""
    with transaction.atomic():
        rules = lock_rules(for_change=True)
        before = _rules(rules)
        rules.mode, rules.cap_atomic, rules.halted = NetworkRules.Mode(mode), cap_atomic, halted
        if _rules(rules) == before:
            return False
        rules.save()
        revoked = revoke_leases(Lease.objects.all(), "halted") if halted else 0
        _record("", Action.RULES, before, _rules(rules), reason, by, revoked)
        changes.note_network()
    return True


def raise_alarm(agent: str, reason: str, *, slot: int, seen: dict[str, Any]) -> bool:
    """The chain shows, at `slot` and perhaps not finally, that the agent's bond is about to shrink: nothing
    more is leased until the mirror has reached that slot, its leases are revoked and its channels settled at
    once. True if this is news; `seen` is what the record keeps of it.
    """
    with transaction.atomic():
        (row,) = lock_agents([agent]).values()
        leases = Lease.objects.filter(agent=agent)
        news = (
            row.held_until_slot <= mirrored_slot(row) or leases.filter(state="LIVE", revoked_at=None).exists()
        )
        before = {"held_until_slot": row.held_until_slot}
        row.held_until_slot = max(row.held_until_slot, slot)
        if news:
            row.settle_urgently_since = timezone.now()
        row.save(update_fields=["held_until_slot", "settle_urgently_since"])
        if not news:
            return False
        revoked = revoke_leases(leases, reason)
        _record(agent, Action.ALARM, before, {"held_until_slot": slot, **seen}, reason, "chain", revoked)
        changes.note([agent])
    return True


def mirrored_slot(row: AgentMirror) -> int:
    """The finalised slot that the agent's mirror shows: rows that a snapshot finds unchanged are not rewritten."""
    followed = ChainCursor.objects.values_list("slot", flat=True).first() or 0
    return max(row.slot, followed)


def revoke_leases(leases: QuerySet[Lease], reason: str) -> int:
    """Revoke those of `leases` that are live, in the caller's transaction; returns how many."""
    live = leases.filter(state=Lease.State.LIVE, revoked_at=None)
    ids = list(live.order_by("id").select_for_update(no_key=True).values_list("id", flat=True))
    return Lease.objects.filter(id__in=ids).update(revoked_at=Now(), revoked_reason=reason[:40])


def _change(
    agent: str,
    action: EnforcementEvent.Action,
    columns: tuple[str, ...],
    change: Callable[[AgentMirror], bool],
    reason: str,
    by: str,
) -> bool:
    """Apply `change` to the locked row; it says whether leases have to go."""
    with transaction.atomic():
        (row,) = lock_agents([agent]).values()
        before = _values(row, columns)
        has_to_stop = change(row)
        after = _values(row, columns)
        if after == before:
            return False
        row.save(update_fields=columns)
        revoked = revoke_leases(Lease.objects.filter(agent=agent), action.lower()) if has_to_stop else 0
        _record(agent, action, before, after, reason, by, revoked)
        changes.note([agent])
    return True


def _values(row: AgentMirror, columns: tuple[str, ...]) -> dict[str, Any]:
    """JSON of the columns: amounts as decimal strings, as everywhere on the wire."""
    return {name: _plain(getattr(row, name)) for name in columns}


def _plain(value: object) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _rules(rules: NetworkRules) -> dict[str, Any]:
    return {"mode": str(rules.mode), "cap_atomic": _plain(rules.cap_atomic), "halted": rules.halted}


def _record(
    agent: str,
    action: EnforcementEvent.Action,
    before: dict[str, Any],
    after: dict[str, Any],
    reason: str,
    by: str,
    revoked: int,
) -> None:
    EnforcementEvent.objects.create(
        agent=agent,
        action=action,
        before=before,
        after=after,
        reason=reason[:_REASON_MAX],
        by=by,
        leases_revoked=revoked,
    )
