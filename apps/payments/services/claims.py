"""Watermarks that rose above the recorded charges: only a claim does that, so the gateway has to answer for it.

The case is opened in the transaction that follows the rise. A gateway that delivers the charges afterwards is cleared;
what it never delivers was taken without a recorded service.
"""

from collections.abc import Iterable
from typing import Any

from apps.payments.models import Case, ChainEvent, Channel
from apps.payments.services.cases import open_case, resolve
from apps.payments.services.mirrored import SettlementSeen
from machpay.protocol.encoding import to_b64


def open_cases(settled: Iterable[SettlementSeen]) -> None:
    """One case per rise that went beyond the charges."""
    for seen in settled:
        if seen.claimed_atomic:
            open_case(
                kind=Case.Kind.CLAIMED_AHEAD,
                subject=seen.gateway,
                key=f"claimed:{seen.channel}:{seen.settled_atomic}",
                amount_atomic=seen.claimed_atomic,
                evidence=_evidence(seen),
                note="the chain paid more than was ever delivered as charged",
            )


def resolve_covered() -> int:
    """Clear gateways that have delivered the charges since; returns how many cases that ended."""
    ended = 0
    # One look at all of them: a case that nobody decides stays open, and this runs every few seconds.
    cases = list(Case.objects.filter(kind=Case.Kind.CLAIMED_AHEAD, status=Case.Status.OPEN).order_by("id"))
    channels = Channel.objects.filter(address__in={case.evidence["channel"] for case in cases})
    charged = dict(channels.values_list("address", "charged_total_atomic"))
    for case in cases:
        total = charged[case.evidence["channel"]]
        if total >= int(case.evidence["settled"]):
            ended += resolve(case.id, note="the charges were delivered", data={"charged_total": str(total)})
    return ended


def _evidence(seen: SettlementSeen) -> dict[str, Any]:
    row = Channel.objects.get(address=seen.channel)
    claims = ChainEvent.objects.filter(kind="ClaimExecuted", keys__contains=[seen.channel]).order_by("-id")
    return {
        "channel": seen.channel,
        "agent": seen.agent,
        "vendor": seen.vendor,
        "charged_total": str(row.charged_total_atomic),
        "settled": str(seen.settled_atomic),
        "highest_voucher": None
        if row.highest_signature is None
        else {
            "cumulative": str(row.highest_cumulative_atomic),
            "context": bytes(row.highest_context or b"").hex(),
            "signature": to_b64(bytes(row.highest_signature)),
        },
        "transactions": list(claims.values_list("transaction_id", flat=True)[:5]),
    }
