"""What bonds can still pay."""

from collections.abc import Iterable
from typing import Final

from django.db import connection

from apps.payments.models import AgentMirror


def has_bond(agent: str) -> bool:
    """Whether the mirror knows of a bond of this agent that is not empty."""
    return AgentMirror.objects.filter(agent=agent, bond_atomic__gt=0).exists()


# One statement: a settlement that is mirrored between two would be in neither of them. An item that has landed already
# is counted with what its channel's watermark still lacks, that is not again.
_PAYABLE: Final = """
SELECT a.agent, a.bond_atomic + a.forfeited_atomic - coalesce((
    SELECT sum(greatest(least(i.cumulative_atomic, i.up_to_atomic) - c.settled_atomic, 0))
    FROM payments_channel c
    JOIN payments_settlement_item i ON i.settlement_id = c.in_flight_id AND i.channel = c.address
    WHERE c.agent = a.agent AND c.in_flight_id IS NOT NULL
), 0)
FROM payments_agent a WHERE a.agent = ANY(%s)
"""


def payable_bonds(agents: Iterable[str]) -> dict[str, int]:
    """Per agent its finalised bond, or what is forfeited of it, less what settlements under way are going
    to take.

    May fall below zero. Agents that the network does not know are absent.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PAYABLE, [sorted(set(agents))])
        return {agent: int(amount) for agent, amount in cursor.fetchall()}
