"""Aggregation proposals as rows: who is asked to co-sign what, and how far each got.

    PROPOSED -> SIGNED -> SENT -> SETTLED
    PROPOSED -> EXPIRED              not signed in time
    SIGNED   -> EXPIRED              overtaken: nothing is left to settle, or the bond does not cover all of it
    SENT     -> FAILED               its transaction had no effect

After EXPIRED and FAILED the channels are settled one by one, and the agent is not asked again for an hour.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.payments.errors import BadAggregationSignature, UnknownAggregation
from apps.payments.locks import lock_channels
from apps.payments.models import (
    AgentMirror,
    Aggregation,
    AggregationItem,
    Channel,
    Cosigner,
    Settlement,
    SettlementItem,
)
from apps.payments.selectors.bonds import payable_bonds
from apps.payments.selectors.due import DuePolicy, due_channels, urgent
from machpay.chain.network import Network
from machpay.protocol.aggregates import Aggregate, AggregationProposal, ChannelTotal, ProposedChannel
from machpay.protocol.encoding import to_b64, to_rfc3339

State = Aggregation.State
_OPEN: Final = (State.PROPOSED, State.SIGNED, State.SENT)
_NOT_ASKED_AGAIN_FOR: Final = timedelta(hours=1)
# Asking is noted at most this often.
_ASKED_EVERY: Final = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class SignedAggregation:
    """A co-signed proposal whose channels are locked: what the transaction needs."""

    id: UUID
    aggregate: Aggregate
    signature: bytes
    due_atomic: int


def asked(agent: str) -> list[AggregationProposal]:
    """The agent's open proposals; and from now on it is somebody who co-signs. An agent that the network does not know
    gets none."""
    now = timezone.now()
    if not AgentMirror.objects.filter(agent=agent).exists():
        return []
    recent = Cosigner.objects.filter(agent=agent, asked_at__gt=now - _ASKED_EVERY)
    if not recent.exists():
        Cosigner.objects.update_or_create(agent_id=agent, defaults={"asked_at": now})
    rows = Aggregation.objects.filter(agent=agent, state=State.PROPOSED, expires_at__gt=now)
    return [_proposal(row) for row in rows.prefetch_related("items__channel")]


def _proposal(row: Aggregation) -> AggregationProposal:
    return AggregationProposal(
        id=str(row.id),
        agent=row.agent_id,
        channels=[
            ProposedChannel(
                gateway=item.channel.gateway_id,
                cumulative=str(item.cumulative_atomic),
                voucher={
                    "channel": item.channel_id,
                    "cumulative": str(item.voucher_atomic),
                    "context": bytes(item.context).hex(),
                    "signature": to_b64(bytes(item.signature)),
                },
            )
            for item in row.items.all()
        ],
        amount=str(row.amount_atomic),
        expires_at=to_rfc3339(int(row.expires_at.timestamp())),
    )


def sign(aggregation_id: UUID, *, agent: str, signature: bytes, network: Network) -> str:
    """Take the agent's signature; returns the proposal's state. Again is harmless.

    Raises `UnknownAggregation` for none of this agent's that is open, `BadAggregationSignature`.
    """
    with transaction.atomic():
        rows = Aggregation.objects.select_for_update(no_key=True, of=("self",))
        row = rows.filter(id=aggregation_id, agent=agent).first()
        if row is None or (row.state == State.PROPOSED and row.expires_at <= timezone.now()):
            raise UnknownAggregation("no open proposal to this agent has this id")
        if row.state == State.EXPIRED:
            raise UnknownAggregation("the proposal has expired")
        if row.state != State.PROPOSED:
            return str(row.state)
        if not _aggregate(row, network).is_signed_by_agent(signature):
            raise BadAggregationSignature("the signature is not the agent's over this proposal")
        row.state, row.signature, row.signed_at = State.SIGNED, signature, timezone.now()
        row.save(update_fields=["state", "signature", "signed_at"])
        return str(row.state)


def _aggregate(row: Aggregation, network: Network) -> Aggregate:
    totals = [
        ChannelTotal(Pubkey.from_string(item.channel_id), item.cumulative_atomic) for item in row.items.all()
    ]
    return Aggregate.of(network.domain, network.mint, Pubkey.from_string(row.agent_id), totals)


def propose(
    *,
    policy: DuePolicy,
    channels_min: int,
    channels_max: int,
    life: timedelta,
    asked_within: timedelta,
    limit: int,
) -> int:
    """Make a proposal for each agent that co-signs and has enough due channels on the chain; returns how many."""
    now = timezone.now()
    refused = Aggregation.objects.filter(
        state__in=[State.EXPIRED, State.FAILED], ended_at__gt=now - _NOT_ASKED_AGAIN_FOR
    )
    agents = (
        Cosigner.objects.filter(asked_at__gt=now - asked_within)
        .exclude(agent__in=Aggregation.objects.filter(state__in=_OPEN).values("agent"))
        .exclude(agent__in=refused.values("agent"))
        .order_by("-asked_at")
        .values_list("agent", flat=True)
    )
    made = 0
    for agent in agents[:limit]:
        made += _propose(agent, policy, channels_min, channels_max, now, now + life)
    return made


def _propose(
    agent: str, policy: DuePolicy, channels_min: int, channels_max: int, now: datetime, expires_at: datetime
) -> bool:
    due = due_channels(policy, now=now).filter(agent=agent, slot__gt=0, settle_failures=0)
    rows = list(due.exclude(urgent(policy)).order_by("unsettled_since")[:channels_max])
    left = payable_bonds([agent]).get(agent, 0) if len(rows) >= channels_min else 0
    items = []
    for row in rows:
        cumulative = min(row.highest_cumulative_atomic, row.charged_total_atomic)
        # A shortfall fails the whole transaction, so what the bond does not cover is left to the other form.
        if cumulative - row.settled_atomic <= left:
            left -= cumulative - row.settled_atomic
            items.append((row, cumulative))
    if len(items) < channels_min:
        return False
    try:
        with transaction.atomic():
            made = Aggregation.objects.create(
                agent_id=agent,
                amount_atomic=sum(cumulative - row.settled_atomic for row, cumulative in items),
                expires_at=expires_at,
            )
            AggregationItem.objects.bulk_create(_item(made, row, cumulative) for row, cumulative in items)
    except IntegrityError:
        return False
    return True


def _item(made: Aggregation, row: Channel, cumulative: int) -> AggregationItem:
    return AggregationItem(
        aggregation=made,
        channel=row,
        cumulative_atomic=cumulative,
        settled_before_atomic=row.settled_atomic,
        voucher_atomic=row.highest_cumulative_atomic,
        context=bytes(row.highest_context or b""),
        signature=bytes(row.highest_signature or b""),
    )


def signed_ids(*, limit: int) -> list[UUID]:
    """Co-signed proposals that no transaction was made for, the oldest first."""
    rows = Aggregation.objects.filter(state=State.SIGNED).order_by("signed_at")
    return list(rows.values_list("id", flat=True)[:limit])


def claim_signed(aggregation_id: UUID, *, network: Network) -> SignedAggregation | None:
    """Lock a co-signed proposal and its channels for the caller's transaction; None if another worker has it, or a
    settlement has one of its channels under way. Ends it where nothing is left for it to settle, or the bond does not
    cover all that is."""
    rows = Aggregation.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
    row = rows.filter(id=aggregation_id, state=State.SIGNED).first()
    if row is None:
        return None
    items = list(row.items.all())
    channels = lock_channels(item.channel_id for item in items)
    if any(channel.in_flight_id is not None for channel in channels.values()):
        return None
    due = sum(max(0, item.cumulative_atomic - channels[item.channel_id].settled_atomic) for item in items)
    if not due or due > payable_bonds([row.agent_id]).get(row.agent_id, 0):
        _end(Aggregation.objects.filter(id=row.id), State.EXPIRED)
        return None
    return SignedAggregation(row.id, _aggregate(row, network), bytes(row.signature or b""), due)


def store_aggregated(
    claimed: SignedAggregation, *, raw_transaction: bytes, signature: str, last_valid_block_height: int
) -> int:
    """Store the signed transaction and mark the channels as under way, in the transaction that claimed them; returns
    the settlement's id."""
    row = Aggregation.objects.get(id=claimed.id)
    items = list(row.items.select_related("channel"))
    due = [item for item in items if item.cumulative_atomic > item.channel.settled_atomic]
    settlement = Settlement.objects.create(
        kind=Settlement.Kind.AGGREGATE,
        signature=signature,
        raw_transaction=raw_transaction,
        last_valid_block_height=last_valid_block_height,
        channel_count=len(due),
        planned_atomic=claimed.due_atomic,
    )
    SettlementItem.objects.bulk_create(
        SettlementItem(
            settlement=settlement,
            channel=item.channel,
            cumulative_atomic=item.voucher_atomic,
            context=bytes(item.context),
            signature=bytes(item.signature),
            up_to_atomic=item.cumulative_atomic,
            settled_before_atomic=item.channel.settled_atomic,
        )
        for item in due
    )
    marked = Channel.objects.filter(address__in=[item.channel_id for item in due], in_flight=None).update(
        in_flight=settlement
    )
    if marked != len(due):
        raise IntegrityError("a channel of this proposal is under way already")
    row.state, row.settlement = State.SENT, settlement
    row.save(update_fields=["state", "settlement"])
    return settlement.id


def end_aggregations() -> int:
    """Take over what became of transactions, and end proposals that nobody signed in time; returns how many ended."""
    sent = Aggregation.objects.filter(state=State.SENT)
    late = Aggregation.objects.filter(state=State.PROPOSED, expires_at__lte=timezone.now())
    return (
        _end(sent.filter(settlement__state=Settlement.State.FINALIZED), State.SETTLED)
        + _end(sent.filter(settlement__state=Settlement.State.FAILED), State.FAILED)
        + _end(late, State.EXPIRED)
    )


def _end(rows: QuerySet[Aggregation, Any], state: Aggregation.State) -> int:
    return rows.filter(ended_at=None).update(state=state, ended_at=timezone.now())
