"""Complaints of agents: each is judged by what both sides signed, and several make a case.

A complaint that the gateway's own receipt proves is a case at once. That a payment was refused nobody can prove alone,
so such complaints count: enough of them about a gateway that served others meanwhile are looked into by people.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from django.conf import settings
from django.db import transaction
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.payments.errors import ComplaintRefused
from apps.payments.locks import lock_agents
from apps.payments.models import AgentMirror, Case, Channel, Complaint, PaymentIntent
from apps.payments.services.cases import open_case
from apps.payments.services.network import current_network
from apps.payments.verification import MAX_AHEAD, signed_at
from machpay.protocol.nonces import nonce_time
from machpay.protocol.settlements import ResolvedPayment, decode_item, parse_item

Kind = Complaint.Kind
Verdict = Complaint.Verdict

RECENT: Final = timedelta(hours=24)
_JUDGED_AT_ONCE: Final = 200
PER_AGENT_MAX: Final = 20
"""Complaints of one agent within `RECENT`."""


@dataclass(frozen=True, slots=True)
class Complained:
    """What an agent, known by its signature, complains about: a payment it signed for `gateway`, verified, with the
    gateway's receipt if it has one. `item` is the payment as it came."""

    agent: str
    gateway: str
    kind: str
    payment: ResolvedPayment
    item: Mapping[str, Any]
    detail: str = ""


def complain(said: Complained) -> Complaint:
    """Store and judge one complaint; the same one again returns what is stored. Raises `ComplaintRefused` for an agent
    that a gateway may refuse, too many complaints, or a receipt that says nothing of the kind."""
    receipt = said.payment.receipt
    if said.kind == Kind.OVERCHARGED and receipt is None:
        raise ComplaintRefused("that too much was charged is proven by the gateway's receipt only")
    if said.kind == Kind.DENIED and receipt is not None and said.payment.charged:
        raise ComplaintRefused("the receipt says that the payment was served")
    digest = said.payment.intent.digest
    with transaction.atomic():
        (agent,) = lock_agents([said.agent]).values()
        known = Complaint.objects.filter(agent=agent, digest=digest, kind=said.kind).first()
        if known is not None:
            return known
        _require_standing(agent, said)
        made = Complaint.objects.create(
            agent=agent,
            gateway_id=said.gateway,
            kind=said.kind,
            verdict=Verdict.NOTED,
            digest=digest,
            evidence={"payment": dict(said.item)},
            detail=said.detail[:500],
        )
        _judge(made, said.payment)
    return made


def judge_again(*, now: datetime) -> int:
    """Judge complaints that came before the gateway had delivered the payment, and are in no case yet; returns how many
    are judged now."""
    network = current_network()
    waiting = Complaint.objects.filter(verdict=Verdict.NOTED, case=None, received_at__gte=now - RECENT)
    judged = 0
    # A part of them each time, drawn anew, so that those that nothing is ever delivered for hold up no other.
    for complaint in waiting.order_by("?")[:_JUDGED_AT_ONCE]:
        item = decode_item(msgspec.json.encode(complaint.evidence["payment"]))
        gateway = Pubkey.from_string(complaint.gateway_id)
        channel = network.channel(Pubkey.from_string(complaint.agent_id), gateway)
        with transaction.atomic():
            _judge(complaint, parse_item(item, gateway=gateway, channel=channel))
        judged += complaint.verdict != Verdict.NOTED
    return judged


def open_cases(*, now: datetime) -> int:
    """One case a day about each gateway with enough complaints of refused payments: from several agents, or with
    receipts. It has to have served others meanwhile: one that is down refuses nobody in particular. Returns how many
    are new."""
    noted = Complaint.objects.filter(
        kind=Kind.DENIED, verdict=Verdict.NOTED, case=None, received_at__gte=now - RECENT
    )
    by_gateway: dict[str, list[Complaint]] = {}
    for complaint in noted.order_by("id"):
        by_gateway.setdefault(complaint.gateway_id, []).append(complaint)
    return sum(_open_case(gateway, found, now) for gateway, found in sorted(by_gateway.items()))


def _open_case(gateway: str, found: list[Complaint], now: datetime) -> int:
    agents = sorted({complaint.agent_id for complaint in found})
    receipted = [complaint for complaint in found if complaint.evidence["payment"].get("receipt")]
    if max(len(agents), len(receipted)) < settings.COMPLAINTS_TO_CASE:
        return 0
    served = Channel.objects.filter(gateway=gateway, last_payment_at__gte=found[0].received_at - RECENT)
    others = served.exclude(agent__in=agents).values_list("agent", flat=True)
    if not others.exists():
        return 0
    with transaction.atomic():
        case, new = open_case(
            kind=Case.Kind.SELECTIVE_DENIAL,
            subject=gateway,
            key=f"denial:{gateway}:{now.date().isoformat()}",
            evidence={
                "agents": agents,
                "with_receipt": len(receipted),
                "served_meanwhile": sorted(others)[:20],
                "complaints": [complaint.evidence for complaint in found[:50]],
            },
            note=f"{len(found)} payments of {len(agents)} agents were refused while others were served",
        )
        Complaint.objects.filter(id__in=[complaint.id for complaint in found]).update(case=case)
    return int(new)


def _require_standing(agent: AgentMirror, said: Complained) -> None:
    since = timezone.now() - RECENT
    if agent.status != AgentMirror.Status.ACTIVE or agent.stopped or not agent.bond_atomic:
        raise ComplaintRefused("gateways may refuse an agent that is not active or has no bond")
    if not since <= signed_at(said.payment.intent.nonce) <= timezone.now() + MAX_AHEAD:
        raise ComplaintRefused("the payment is older than a day, or of a time that has not come")
    if Complaint.objects.filter(agent=agent, received_at__gte=since).count() >= PER_AGENT_MAX:
        raise ComplaintRefused("too many complaints today", retry_after_s=3600)


def _judge(complaint: Complaint, payment: ResolvedPayment) -> None:
    """Compare with what the gateway delivered under this nonce, in the caller's transaction."""
    stored = PaymentIntent.objects.filter(
        nonce_time=nonce_time(payment.intent.nonce),
        agent=complaint.agent_id,
        nonce=payment.intent.nonce,
        channel=str(payment.intent.channel),
    ).first()
    if stored is None:
        return
    # An agent that signed a nonce twice holds a receipt for one payment while the other one is stored.
    same = bytes(stored.digest) == payment.intent.digest
    if complaint.kind == Kind.OVERCHARGED and same and stored.charged_atomic > payment.charged:
        complaint.verdict = Verdict.PROVEN
        complaint.case, _ = open_case(
            kind=Case.Kind.OVER_REPORTED,
            subject=complaint.gateway_id,
            key=f"overcharged:{payment.intent.digest.hex()}",
            amount_atomic=stored.charged_atomic - payment.charged,
            evidence={
                **complaint.evidence,
                "delivered": {"charged": str(stored.charged_atomic), "http_status": stored.http_status},
            },
            note="delivered as charged with more than its receipt to the agent says",
        )
    elif complaint.kind == Kind.OVERCHARGED or stored.charged_atomic:
        complaint.verdict = Verdict.REFUTED
    complaint.save(update_fields=["verdict", "case"])
