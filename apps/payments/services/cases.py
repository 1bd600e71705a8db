"""Cases as rows: opened once per finding, added to, decided; every step leaves a line in the audit trail.

What a decision does to the agent or gateway happens here too, in the same transaction, so that no penalty exists
without the line that says who gave it and why. An agent's row is locked before its case, as everywhere.
"""

from collections.abc import Mapping
from typing import Any, Final

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from apps.payments.errors import CaseClosed
from apps.payments.locks import lock_agents, lock_rules
from apps.payments.models import AgentMirror, Case, CaseEntry, Gateway, Lease
from apps.payments.services import changes, enforcement

Kind = Case.Kind
Action = CaseEntry.Action
Status = Case.Status
Role = Case.Role

RECON: Final = "recon"
"""Who acts when no person does."""

PENALTY_POINTS: Final[Mapping[str, int]] = {
    Kind.SELECTIVE_DENIAL: 10,
    Kind.OVER_REPORTED: 20,
    Kind.CLAIMED_AHEAD: 50,
    Kind.INVALID_SIGNATURE: 100,
}
"""What an upheld case takes from a gateway's reputation, out of 100."""


def open_case(
    *,
    kind: Case.Kind,
    subject: str,
    key: str,
    evidence: Mapping[str, Any],
    amount_atomic: int = 0,
    note: str = "",
) -> tuple[Case, bool]:
    """Open a case about `subject`, unless `key` was opened before; True if it is new. In the caller's transaction."""
    role = Role.AGENT if kind in (Kind.EQUIVOCATION, Kind.INSOLVENCY) else Role.GATEWAY
    made = Case(
        kind=kind, role=role, subject=subject, key=key, evidence=dict(evidence), amount_atomic=amount_atomic
    )
    Case.objects.bulk_create([made], ignore_conflicts=True)
    case = Case.objects.select_for_update(no_key=True).get(key=key)
    if case.entries.exists():
        return case, False
    record(case, Action.OPENED, by=RECON, note=note)
    return case, True


def record(
    case: Case, action: CaseEntry.Action, *, by: str, note: str = "", data: Mapping[str, Any] | None = None
) -> None:
    """One line in the audit trail."""
    CaseEntry.objects.create(case=case, action=action, by=by, note=note, data=dict(data or {}))


def suspend(case: Case, *, note: str, by: str = RECON) -> bool:
    """Suspend the agent that `case` is about; True if it was active. In the caller's transaction."""
    active = AgentMirror.objects.filter(agent=case.subject, status=AgentMirror.Status.ACTIVE).exists()
    if not active:
        return False
    enforcement.set_status(case.subject, AgentMirror.Status.SUSPENDED, f"case {case.id}: {note}", by)
    record(case, Action.SUSPENDED, by=by, note=note)
    return True


def uphold(case_id: int, *, by: str, note: str, blacklist: bool = False) -> Case:
    """The suspicion was right. A gateway loses reputation by the kind's points and, with `blacklist`, everything that
    the network grants; an agent is suspended. Raises `CaseClosed` for a decided case."""
    with transaction.atomic():
        case = _locked(case_id)
        _require_open(case)
        if case.role == Role.AGENT:
            suspend(case, note=note, by=by)
        else:
            points = PENALTY_POINTS[case.kind]
            Gateway.objects.filter(pubkey=case.subject).update(penalty_points=F("penalty_points") + points)
            record(case, Action.PENALISED, by=by, note=note, data={"points": points})
            if blacklist:
                _blacklist(case, by=by, note=note)
        _decide(case, Status.UPHELD, Action.UPHELD, by=by, note=note)
    return case


def dismiss(case_id: int, *, by: str, note: str) -> Case:
    """The suspicion was wrong, or nothing follows from it. Raises `CaseClosed` for a decided case."""
    with transaction.atomic():
        case = _locked(case_id)
        _require_open(case)
        _decide(case, Status.DISMISSED, Action.DISMISSED, by=by, note=note)
    return case


def resolve(case_id: int, *, note: str, data: Mapping[str, Any] | None = None) -> bool:
    """The cause has gone by itself. False if the case is decided."""
    with transaction.atomic():
        case = _locked(case_id)
        if case.status != Status.OPEN:
            return False
        _decide(case, Status.RESOLVED, Action.RESOLVED, by=RECON, note=note, data=data)
    return True


def reinstate(case_id: int, *, by: str, note: str) -> Case:
    """Lift what followed from a case: an agent may spend again, a gateway is off the blacklist and has its points
    back. The case stays as it was decided; one that is open is dismissed. Raises `SlashedForGood`."""
    with transaction.atomic():
        case = _locked(case_id)
        data: dict[str, Any] = {}
        if case.role == Role.AGENT:
            enforcement.set_status(case.subject, AgentMirror.Status.ACTIVE, f"case {case.id}: {note}", by)
        else:
            given = case.entries.filter(action__in=[Action.PENALISED, Action.REINSTATED])
            data["points"] = -sum(entry.data["points"] for entry in given)
            Gateway.objects.filter(pubkey=case.subject).update(
                blacklisted_at=None, penalty_points=F("penalty_points") + data["points"]
            )
        record(case, Action.REINSTATED, by=by, note=note, data=data)
        if case.status == Status.OPEN:
            _decide(case, Status.DISMISSED, Action.DISMISSED, by=by, note=note)
    return case


def _locked(case_id: int) -> Case:
    seen = Case.objects.get(id=case_id)
    if seen.role == Role.AGENT:
        lock_agents([seen.subject])
    return Case.objects.select_for_update(no_key=True).get(id=case_id)


def _require_open(case: Case) -> None:
    if case.status != Status.OPEN:
        raise CaseClosed(f"case {case.id} is {case.get_status_display()}")


def _decide(
    case: Case,
    status: Case.Status,
    action: CaseEntry.Action,
    *,
    by: str,
    note: str,
    data: Mapping[str, Any] | None = None,
) -> None:
    case.status, case.decided_at = status, timezone.now()
    case.save(update_fields=["status", "decided_at"])
    record(case, action, by=by, note=note, data=data)


def _blacklist(case: Case, *, by: str, note: str) -> None:
    # Grants hold the rules: those under way have ended, and their leases are seen here; later ones see the blacklist.
    lock_rules(for_change=True)
    Gateway.objects.filter(pubkey=case.subject, blacklisted_at=None).update(blacklisted_at=timezone.now())
    leases = Lease.objects.filter(gateway=case.subject, state=Lease.State.LIVE)
    agents = sorted(set(leases.values_list("agent_id", flat=True)))
    revoked = enforcement.revoke_leases(leases, "blacklisted")
    changes.note(agents)
    record(case, Action.BLACKLISTED, by=by, note=note, data={"leases_revoked": revoked})
