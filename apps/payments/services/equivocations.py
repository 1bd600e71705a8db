"""Double signing as rows: what was found, the proof that is under way, and what became of it.

    OPEN -> SUBMITTED -> SLASHED
         <- (the proof failed)      OPEN -> DISMISSED, by a person; a proof under way then fails into DISMISSED

Finding one suspends the agent everywhere in the same transaction: gateways hear of it through the change stream, long
before the chain has taken the bond.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from apps.payments.locks import lock_agents
from apps.payments.models import AgentMirror, Case, Equivocation, FraudScan, PaymentIntent, Settlement
from apps.payments.services.cases import RECON, Action, open_case, record, suspend, uphold
from machpay.protocol.encoding import to_b64

Status = Equivocation.Status
_SCANNED_AT_ONCE: Final = timedelta(hours=1)
_BACKOFF_FIRST: Final = timedelta(seconds=10)
_BACKOFF_LIMIT: Final = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Provable:
    """An equivocation to show to the chain: both halves as items of `POST /settlements`."""

    id: int
    agent: str
    halves: tuple[dict[str, Any], dict[str, Any]]


def evidence(agent: str, nonce: UUID, halves: Mapping[str, dict[str, Any]]) -> Equivocation:
    """A row, not stored yet; `halves` has an item by channel, two of them."""
    first, second = sorted(halves)
    return Equivocation(
        agent_id=agent,
        nonce=nonce,
        channel_a=first,
        channel_b=second,
        evidence={"a": halves[first], "b": halves[second]},
    )


def stored_half(intent: PaymentIntent) -> dict[str, Any]:
    """A stored intent as the item that the chain is shown."""
    return {
        "agent": intent.agent,
        "gateway": intent.gateway,
        "vendor": intent.vendor,
        "amount": str(intent.amount_atomic),
        "charged": str(intent.charged_atomic),
        "cumulative": str(intent.cumulative_atomic),
        "nonce": str(intent.nonce),
        "deadline": intent.deadline,
        "request_hash": bytes(intent.request_hash).hex(),
        "signature": to_b64(bytes(intent.signature)),
    }


def store(found: Iterable[Equivocation]) -> None:
    """Store new evidence, open a case for each and suspend the agents. In the caller's transaction, which holds the
    agents' locks; what is stored already changes nothing."""
    rows = list(found)
    if not rows:
        return
    Equivocation.objects.bulk_create(rows, ignore_conflicts=True)
    for row in rows:
        case, new = open_case(
            kind=Case.Kind.EQUIVOCATION,
            subject=row.agent_id,
            key=f"equivocation:{row.agent_id}:{row.nonce}:{row.channel_a}:{row.channel_b}",
            evidence={"nonce": str(row.nonce), **row.evidence},
            amount_atomic=sum(int(half["amount"]) for half in row.evidence.values()),
            note="one nonce was signed for two gateways",
        )
        if new:
            suspend(case, note="double signing")


def provable(*, limit: int) -> list[Provable]:
    """The oldest open evidence of each agent that has a bond account, is not slashed, and has no proof under way."""
    under_way = Equivocation.objects.filter(agent=OuterRef("agent"), status=Status.SUBMITTED)
    rows = (
        Equivocation.objects.filter(
            status=Status.OPEN, agent__window_end=0, agent__deposited_total_atomic__gt=0
        )
        .filter(Q(retry_after=None) | Q(retry_after__lte=timezone.now()))
        .filter(~Exists(under_way))
        .order_by("agent", "id")
        .distinct("agent")
    )
    return [Provable(row.id, row.agent_id, (row.evidence["a"], row.evidence["b"])) for row in rows[:limit]]


def store_proof(
    found: Provable, *, raw_transaction: bytes, signature: str, last_valid_block_height: int
) -> int | None:
    """Store the signed proof; send it only after that has committed. Returns its settlement's id, None if another
    worker stored one."""
    with transaction.atomic():
        lock_agents([found.agent])
        if Equivocation.objects.filter(agent=found.agent, status=Status.SUBMITTED).exists():
            return None
        row = Equivocation.objects.select_for_update(no_key=True).get(id=found.id)
        if row.status != Status.OPEN:
            return None
        row.transaction = Settlement.objects.create(
            kind=Settlement.Kind.SLASH,
            signature=signature,
            raw_transaction=raw_transaction,
            last_valid_block_height=last_valid_block_height,
            channel_count=0,
            planned_atomic=0,
        )
        row.status, row.attempts = Status.SUBMITTED, row.attempts + 1
        row.save(update_fields=["transaction", "status", "attempts"])
        _note(row, Action.SLASH_SENT, signature)
        return row.transaction.id


def follow() -> list[str]:
    """Take over what became of proofs: evidence against agents that the finalised chain shows as slashed is SLASHED,
    whoever proved it; a proof that failed for certain is open again, and signed anew later. Returns who was slashed."""
    waiting = Equivocation.objects.filter(status__in=[Status.OPEN, Status.SUBMITTED])
    proven = waiting.filter(agent__window_end__gt=0).order_by("id").values_list("id", "agent_id")
    slashed = [agent for id_, agent in list(proven) if _end(id_)]
    failed = waiting.filter(status=Status.SUBMITTED, transaction__state=Settlement.State.FAILED)
    for row in failed.filter(agent__window_end=0):
        _reopen(row)
    return slashed


def _reopen(row: Equivocation) -> None:
    """Its proof failed for certain: there will be another, unless a person has let the agent off meanwhile."""
    delay = min(_BACKOFF_FIRST * 2 ** min(row.attempts - 1, 10), _BACKOFF_LIMIT)
    with transaction.atomic():
        lock_agents([row.agent_id])
        case = _case(row)
        let_off = case is not None and (
            case.entries.filter(action__in=[Action.DISMISSED, Action.REINSTATED]).exists()
        )
        Equivocation.objects.filter(id=row.id, status=Status.SUBMITTED).update(
            status=Status.DISMISSED if let_off else Status.OPEN, retry_after=timezone.now() + delay
        )


_SCAN: Final = """
SELECT nonce_time, agent, nonce, array_agg(channel ORDER BY channel)
FROM payment_intents WHERE nonce_time > %s AND nonce_time <= %s
GROUP BY nonce_time, agent, nonce HAVING count(*) > 1
"""


def scan(*, until: datetime) -> int:
    """Compare stored nonces with each other once more, from where the last scan ended, an hour at most; returns how
    many double signings nobody had recorded. Intake records them as they arrive: this looks after intake."""
    FraudScan.objects.bulk_create([FraudScan()], ignore_conflicts=True)
    with transaction.atomic():
        progress = FraudScan.objects.select_for_update(no_key=True).get()
        start = progress.until or until - _SCANNED_AT_ONCE
        end = min(until, start + _SCANNED_AT_ONCE)
        if end <= start:
            return 0
        with connection.cursor() as cursor:
            cursor.execute(_SCAN, [start, end])
            groups = cursor.fetchall()
        progress.until = end
        progress.save(update_fields=["until"])
        lock_agents(agent for _, agent, _, _ in groups)
        return sum(_record_unseen(*group) for group in groups)


def _record_unseen(nonce_time: datetime, agent: str, nonce: UUID, channels: list[str]) -> int:
    intents = PaymentIntent.objects.filter(nonce_time=nonce_time, agent=agent, nonce=nonce)
    halves = {intent.channel: stored_half(intent) for intent in intents}
    unseen = [
        evidence(agent, nonce, {first: halves[first], second: halves[second]})
        for first, second in pairwise(channels)
        if not Equivocation.objects.filter(agent=agent, nonce=nonce).exists()
    ]
    store(unseen)
    return len(unseen)


def drop_evidence(case: Case) -> None:
    """Nothing is proven to the chain with this evidence any more; a proof that is under way is not called back."""
    Equivocation.objects.filter(agent=case.subject, nonce=case.evidence["nonce"], status=Status.OPEN).update(
        status=Status.DISMISSED
    )


def _end(equivocation_id: int) -> bool:
    with transaction.atomic():
        row = Equivocation.objects.get(id=equivocation_id)
        lock_agents([row.agent_id])
        ended = Equivocation.objects.filter(
            id=equivocation_id, status__in=[Status.OPEN, Status.SUBMITTED]
        ).update(status=Status.SLASHED)
        if not ended:
            return False
        mirror = AgentMirror.objects.get(agent=row.agent_id)
        _note(
            row,
            Action.SLASHED,
            f"{mirror.forfeited_atomic + mirror.swept_total_atomic} atomic units forfeited",
        )
        case = _case(row)
        if case is not None and case.status == Case.Status.OPEN:
            uphold(case.id, by=RECON, note="proven on chain")
    return True


def _note(row: Equivocation, action: Action, note: str) -> None:
    case = _case(row)
    if case is not None:
        record(case, action, by=RECON, note=note)


def _case(row: Equivocation) -> Case | None:
    key = f"equivocation:{row.agent_id}:{row.nonce}:{row.channel_a}:{row.channel_b}"
    return Case.objects.filter(key=key).first()
