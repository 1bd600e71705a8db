"""What a person decides about a case, in one transaction with everything that follows from it."""

from enum import StrEnum

from django.db import transaction

from apps.payments.models import Case
from apps.payments.services import cases, equivocations


class Decision(StrEnum):
    UPHOLD = "uphold"
    BLACKLIST = "blacklist"
    DISMISS = "dismiss"
    REINSTATE = "reinstate"


def possible(case: Case) -> list[Decision]:
    """What may be decided now: about an open case what fits its subject; after a decision, lifting what followed."""
    if case.status != Case.Status.OPEN:
        return [Decision.REINSTATE]
    if case.role == Case.Role.AGENT:
        return [Decision.UPHOLD, Decision.DISMISS, Decision.REINSTATE]
    return [Decision.UPHOLD, Decision.BLACKLIST, Decision.DISMISS, Decision.REINSTATE]


def decide(case_id: int, decision: Decision, *, by: str, note: str) -> None:
    """Carry a decision out; `by` and `note` go into the audit trail. Raises `CaseClosed`, `SlashedForGood`."""
    with transaction.atomic():
        if decision is Decision.DISMISS:
            case = cases.dismiss(case_id, by=by, note=note)
        elif decision is Decision.REINSTATE:
            case = cases.reinstate(case_id, by=by, note=note)
        else:
            cases.uphold(case_id, by=by, note=note, blacklist=decision is Decision.BLACKLIST)
            return
        if case.kind == Case.Kind.EQUIVOCATION:
            equivocations.drop_evidence(case)
