"""Who owes more than it has, and what of it was served on leases."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from django.db import connection
from django.db.models import F

from apps.payments.models import Channel, Lease


@dataclass(frozen=True, slots=True)
class Exposure:
    """An agent whose bond may not cover what it owes. `due_atomic` is charged, authorised, and neither settled nor
    reversed; `held_atomic` the bond, or what is left of a forfeited one; `spoken_for_atomic` what open claims and a
    pending withdrawal ask of it."""

    agent: str
    due_atomic: int
    held_atomic: int
    spoken_for_atomic: int

    @property
    def insolvent(self) -> bool:
        return self.due_atomic > self.held_atomic

    @property
    def overcommitted(self) -> bool:
        return self.due_atomic > self.held_atomic - self.spoken_for_atomic


@dataclass(frozen=True, slots=True)
class Due:
    """What one channel may be paid at once; `leased_atomic` of it was charged under leases."""

    channel: str
    amount_atomic: int
    leased_atomic: int = 0


# Charges above the highest voucher are the gateway's claim alone: nobody is insolvent because of them. A mirror that is
# ahead of the ledger shows a bond used by settlements which the channels do not show yet.
_EXPOSED: Final = """
SELECT a.agent, d.due, a.bond_atomic + a.forfeited_atomic, a.open_claims_atomic + a.pending_withdrawal_atomic
FROM (
    SELECT agent,
        sum(greatest(least(charged_total_atomic, highest_cumulative_atomic)
            - settled_atomic - uncollected_atomic, 0)) AS due,
        bool_or(highest_cumulative_atomic <= settled_atomic) AS stuck
    FROM payments_channel WHERE unsettled_since IS NOT NULL GROUP BY agent
) d JOIN payments_agent a ON a.agent = d.agent
WHERE a.slot <= (SELECT max(slot) FROM payments_chain_cursor)
    AND (
        d.due > a.bond_atomic + a.forfeited_atomic - a.open_claims_atomic - a.pending_withdrawal_atomic
        OR a.bond_atomic + a.forfeited_atomic = 0
        OR d.stuck
    )
ORDER BY a.agent
"""


def exposed_agents() -> list[Exposure]:
    """Agents that owe more than is free of their bond, whose bond is used up, or with charges that no voucher covers.
    The cost follows channels with something unsettled, not those that there ever were."""
    with connection.cursor() as cursor:
        cursor.execute(_EXPOSED)
        return [
            Exposure(agent, int(due), int(held), int(spoken_for))
            for agent, due, held, spoken_for in cursor.fetchall()
        ]


def dues_of(agents: Iterable[str]) -> dict[str, list[Due]]:
    """What every channel of these agents that no transaction has under way could be paid, by agent; without what
    leases cover."""
    rows = Channel.objects.filter(
        agent__in=set(agents), in_flight=None, unsettled_since__isnull=False
    ).order_by("address")
    found: dict[str, list[Due]] = {}
    for row in rows:
        amount = min(row.highest_cumulative_atomic, row.charged_total_atomic) - row.settled_atomic
        if amount > 0:
            found.setdefault(row.agent_id, []).append(Due(row.address, amount))
    return found


def with_leases(dues: Iterable[Due]) -> list[Due]:
    """The same, with how much of each was charged while a lease covered it."""
    wanted = {due.channel: due for due in dues}
    covered: dict[str, list[tuple[int, int]]] = {}
    # Leases of what is settled say nothing about what is due, however many there were.
    leases = Lease.objects.filter(channel__in=wanted, up_to_atomic__gt=F("channel__settled_atomic"))
    for lease in leases.order_by("from_atomic"):
        end = lease.up_to_atomic
        if lease.ended_total_atomic is not None:
            end = min(end, lease.ended_total_atomic)
        covered.setdefault(lease.channel_id, []).append((lease.from_atomic, end))
    settled = dict(Channel.objects.filter(address__in=wanted).values_list("address", "settled_atomic"))
    return [
        Due(
            channel,
            due.amount_atomic,
            _overlap(covered.get(channel, []), settled[channel], settled[channel] + due.amount_atomic),
        )
        for channel, due in wanted.items()
    ]


_UNUSED: Final = """
SELECT l.agent, sum(greatest(l.up_to_atomic - greatest(c.charged_total_atomic, c.settled_atomic), 0))
FROM payments_lease l JOIN payments_channel c ON c.address = l.channel
WHERE l.agent = ANY(%s) AND l.state = 'LIVE'
GROUP BY l.agent
"""


def unused_leases(agents: Iterable[str]) -> dict[str, int]:
    """What is leased of these agents' bonds and not charged yet, as far as anything is."""
    with connection.cursor() as cursor:
        cursor.execute(_UNUSED, [sorted(set(agents))])
        return {agent: int(amount) for agent, amount in cursor.fetchall()}


def _overlap(ranges: Iterable[tuple[int, int]], start: int, end: int) -> int:
    """How much of start..end the ranges, sorted by their starts, cover; where they overlap it counts once."""
    total, reached = 0, start
    for first, last in ranges:
        begin, stop = max(first, reached), min(last, end)
        if stop > begin:
            total, reached = total + stop - begin, stop
    return total
