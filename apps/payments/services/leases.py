"""Granting, renewing, releasing and freeing leases.

    per channel  max(open claim, max(charged, up_to) - settled)        what can still be taken from the bond
    grant        sum over channels + pending withdrawal + min_bond <= finalised bond

A lease is a ceiling on the channel's total of charges, so a delivered charge uses it up by itself. Grants of
one bond are ordered by its agent's row lock; the same rule is a trigger of the table. A lease stops counting
when its gateway releases it, which it may only with everything delivered, or when its grace is over.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Sum
from django.utils import timezone

from apps.payments.errors import ChainUnavailable, LeasesTooLong, NotDelivered, UnknownLease
from apps.payments.locks import lock_agents, lock_channels, lock_rules
from apps.payments.models import AgentDay, AgentMirror, ChainConfig, Channel, Gateway, Lease, NetworkRules
from apps.payments.services.enforcement import mirrored_slot
from apps.payments.services.pulse import reachable_for

_FREED_AT_ONCE: Final = 500
_CLAIM_DELAY_PART: Final = 4
"""Life, grace and settlement together take at most this part of the time a claim has to wait."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a gateway asks for, checked: `amount` more than what is recorded, for an agent that just signed an
    intent of `intent_amount` for this channel. `last_seq` is the place of the channel's last completed payment
    in its log."""

    agent: str
    channel: str
    gateway: str
    vendor: str
    amount: int
    intent_amount: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease as it now is. `amount` is what is left of it by what is recorded."""

    id: UUID
    up_to: int
    amount: int
    expires_at: datetime
    valid: timedelta


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing was granted; see `machpay.protocol.leases.LeaseAnswer.refused`."""

    code: str


def grant(wish: Wish) -> Granted | Refused:
    """Lease to `wish.gateway` (registered, serving `wish.vendor`), or renew what it has. Raises `LeasesTooLong`, or
    `ChainUnavailable` while the chain's configuration is not known."""
    with transaction.atomic():
        answer = _grant(wish)
        if isinstance(answer, Refused):
            # Anybody can draw a key and sign intents with it: what is refused leaves no rows behind.
            transaction.set_rollback(True)
    return answer


def _grant(wish: Wish) -> Granted | Refused:
    rules = lock_rules()
    (agent,) = lock_agents([wish.agent]).values()
    life, grace = _times()
    now = timezone.now()
    _free_lapsed(agent.agent, now)
    code = "halted" if rules.halted else _barred(agent) or _gateway_barred(wish.gateway)
    if code is not None:
        return Refused(code)
    channel = _channel(wish)
    lease = Lease.objects.filter(channel=channel, state=Lease.State.LIVE).select_for_update().first()
    if lease is not None:
        if lease.revoked_at is not None:
            return Refused("revoked")
        if _delivered(wish.gateway) < wish.last_seq:
            return Refused("not_delivered")
    charged = channel.charged_total_atomic
    room = _room(agent, channel, lease, wish)
    if isinstance(room, Refused):
        return room
    if lease is None:
        lease = Lease(channel=channel, agent=agent, gateway_id=wish.gateway, from_atomic=charged)
    else:
        lease.renewed_at, lease.renewals = now, lease.renewals + 1
    lease.up_to_atomic = max(charged + room, lease.up_to_atomic or 0)
    # An end that the gateway was told once is never taken back.
    lease.expires_at = max(now + life, lease.expires_at or now)
    lease.frees_at = lease.expires_at + grace
    lease.save()
    left = max(0, lease.up_to_atomic - charged)
    return Granted(lease.id, lease.up_to_atomic, left, lease.expires_at, lease.expires_at - now)


def release(*, lease_id: UUID, gateway: str, last_seq: int) -> int:
    """End a lease that `gateway` uses no more; returns what is free again. Ending an ended one again returns 0.

    Raises `UnknownLease`, or `NotDelivered` while its log is not stored up to `last_seq`: charges that come
    later would find the bond leased to somebody else.
    """
    found = Lease.objects.filter(id=lease_id, gateway=gateway).values_list("agent", "channel").first()
    if found is None:
        raise UnknownLease("this gateway has no such lease")
    with transaction.atomic():
        lock_agents([found[0]])
        (channel,) = lock_channels([found[1]]).values()
        lease = Lease.objects.select_for_update().get(id=lease_id)
        if lease.state != Lease.State.LIVE:
            return 0
        if _delivered(gateway) < last_seq:
            raise NotDelivered("deliver the payments up to last_seq first", retry_after_s=1)
        charged = channel.charged_total_atomic
        _end(lease, Lease.State.RELEASED, charged)
    return max(0, lease.up_to_atomic - charged)


def free_lapsed() -> int:
    """End leases whose grace is over; returns how many. Safe to run anywhere and anytime."""
    if not _gateways_had_their_chance():
        return 0
    lapsed = Lease.objects.filter(state=Lease.State.LIVE, frees_at__lte=timezone.now())
    agents = list(lapsed.order_by("frees_at").values_list("agent", flat=True)[:_FREED_AT_ONCE])
    freed = 0
    for agent in sorted(set(agents)):
        with transaction.atomic():
            lock_agents([agent])
            freed += _free_lapsed(agent, timezone.now())
    return freed


def bar_to_charge(agent: AgentMirror, channel: Channel, *, price: int) -> str | None:
    """Why `price` may not be charged on a channel that has no lease and whose gateway asks for every payment, or None.

    It takes from the same bond, so it is decided under the agent's row lock, and a look only without it. Raises
    `ChainUnavailable` while the chain's configuration is not known.
    """
    halted = NetworkRules.objects.filter(halted=True).exists()
    code = "halted" if halted else _barred(agent) or _gateway_barred(channel.gateway_id)
    if code is not None:
        return code
    if agent.limit_per_call_atomic is not None and price > agent.limit_per_call_atomic:
        return "budget_exceeded"
    today = _left_today(agent, 0)
    if today is not None and price > today:
        return "budget_exceeded"
    return "insufficient_bond" if _free(agent.agent, channel, 0) < price else None


def require_times(config: ChainConfig) -> None:
    """Raises `LeasesTooLong` if a lease's life, grace and the settlement after it do not fit into a quarter of the
    chain's claim delay: a claim could then unlock before what was leased is settled."""
    if _longest_life(config) < timedelta(seconds=settings.LEASE_LIFE_S):
        raise LeasesTooLong(
            "LEASE_LIFE_S + LEASE_GRACE_S + SETTLE_TARGET_S may be at most a quarter of the claim delay on chain,"
            f" which is {config.claim_delay_s} s"
        )


def _times() -> tuple[timedelta, timedelta]:
    """Life and grace of a lease granted now: as configured, or shorter if the chain's claim delay became short."""
    config = ChainConfig.objects.first()
    if config is None:
        raise _no_config()
    life = min(timedelta(seconds=settings.LEASE_LIFE_S), _longest_life(config))
    if life <= timedelta(0):
        require_times(config)
    return life, timedelta(seconds=settings.LEASE_GRACE_S)


def _no_config() -> ChainUnavailable:
    return ChainUnavailable("the chain's configuration is not known yet", retry_after_s=1)


def _longest_life(config: ChainConfig) -> timedelta:
    after = settings.LEASE_GRACE_S + settings.SETTLE_TARGET_S
    return timedelta(seconds=config.claim_delay_s / _CLAIM_DELAY_PART - after)


def _barred(agent: AgentMirror) -> str | None:
    """Why this agent gets no lease at all."""
    if agent.status == AgentMirror.Status.SLASHED:
        return "agent_slashed"
    if agent.status != AgentMirror.Status.ACTIVE or agent.stopped:
        return "agent_suspended"
    return "held" if agent.held_until_slot > mirrored_slot(agent) else None


def _gateway_barred(gateway: str) -> str | None:
    """A gateway that misbehaved, or whose vendor revoked its key, gets nothing of a bond set aside; what it delivers is
    stored and settled."""
    found = Gateway.objects.filter(pubkey=gateway).values_list("blacklisted_at", "revoked").first()
    blacklisted_at, revoked = found or (None, False)
    if blacklisted_at is not None:
        return "gateway_blacklisted"
    return "gateway_revoked" if revoked else None


def _channel(wish: Wish) -> Channel:
    """The channel's row, locked; made now if this is its first contact. The agent is locked."""
    channel = lock_channels([wish.channel]).get(wish.channel)
    if channel is None:
        channel = Channel.objects.create(
            address=wish.channel, agent_id=wish.agent, gateway_id=wish.gateway, vendor=wish.vendor
        )
    return channel


def _room(agent: AgentMirror, channel: Channel, lease: Lease | None, wish: Wish) -> int | Refused:
    """How much the lease may leave unused: at least the intent's own amount, or why not.

    Bounded by k intents, by a gateway's share of the bond and, so that the next gateway finds something, by
    half of what is free; none of these below one intent. Then by the bond and by the day's limit.
    """
    unit = wish.intent_amount
    if agent.limit_per_call_atomic is not None:
        unit = min(unit, agent.limit_per_call_atomic)
    unused = 0 if lease is None else max(0, lease.up_to_atomic - channel.charged_total_atomic)
    free = _free(agent.agent, channel, unused)
    today = _left_today(agent, unused)
    if today is not None and today < max(unit, 1):
        return Refused("budget_exceeded")
    if free < max(unit, 1):
        return Refused("insufficient_bond")
    share = agent.bond_atomic * settings.LEASE_SHARE_PERCENT // 100
    size = min(wish.amount, settings.LEASE_INTENTS * unit, max(share, unit), max(free // 2, unit))
    return min(size, free) if today is None else min(size, free, today)


def _free(agent: str, channel: Channel, unused: int) -> int:
    """What the bond leaves for charges on this channel beyond those recorded, its present lease included."""
    owed = channel.charged_total_atomic - channel.settled_atomic
    claim = max(0, channel.claim_cumulative_atomic - channel.settled_atomic)
    leasable = _leasable(agent)
    free = leasable + max(claim, owed + unused, 0) - owed
    # With more promised than there is, nothing grows, not even below a claim that is counted already.
    return free if leasable >= 0 else min(free, unused)


def _leasable(agent: str) -> int:
    """What the table's own rule leaves of the bond, see sql/leases.sql."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT payments_leasable(%s)", [agent])
        leasable = cursor.fetchone()[0]
    if leasable is None:
        raise _no_config()
    return int(leasable)


def _left_today(agent: AgentMirror, unused: int) -> int | None:
    """What the day's limit leaves for one channel: charges of today and the other gateways' leases are taken off."""
    if agent.limit_per_day_atomic is None:
        return None
    today = AgentDay.objects.filter(agent=agent.agent, day__gte=timezone.now().astimezone(UTC).date())
    spent = today.aggregate(Sum("charged_atomic"))["charged_atomic__sum"] or 0
    with connection.cursor() as cursor:
        cursor.execute(_UNUSED, [agent.agent])
        leased = int(cursor.fetchone()[0])
    return agent.limit_per_day_atomic - int(spent) - (leased - unused)


_UNUSED: Final = """
SELECT coalesce(sum(greatest(l.up_to_atomic - c.charged_total_atomic, 0)), 0)
FROM payments_lease l JOIN payments_channel c ON c.address = l.channel
WHERE l.agent = %s AND l.state = 'LIVE'
"""


def _delivered(gateway: str) -> int:
    return Gateway.objects.values_list("delivered_seq", flat=True).get(pubkey=gateway)


def _free_lapsed(agent: str, now: datetime) -> int:
    """End the lapsed leases of a locked agent."""
    if not _gateways_had_their_chance():
        return 0
    lapsed = Lease.objects.filter(agent=agent, state=Lease.State.LIVE, frees_at__lte=now)
    leases = list(lapsed.select_related("channel").order_by("id").select_for_update(of=("self",)))
    for lease in leases:
        _end(lease, Lease.State.EXPIRED, lease.channel.charged_total_atomic)
    return len(leases)


def _gateways_had_their_chance() -> bool:
    """Whether gateways have been able to deliver for a whole grace: after an absence of the relayer nothing is freed
    before they could hand over what they charged meanwhile."""
    reachable = reachable_for()
    return reachable is None or reachable >= timedelta(seconds=settings.LEASE_GRACE_S)


def _end(lease: Lease, state: Lease.State, charged: int) -> None:
    lease.state, lease.ended_at, lease.ended_total_atomic = state, timezone.now(), charged
    lease.save(update_fields=["state", "ended_at", "ended_total_atomic"])
