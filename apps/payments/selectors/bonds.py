"""What bonds can still pay."""

from collections.abc import Iterable

from django.db.models import F, Sum
from django.db.models.functions import Greatest, Least

from apps.payments.models import AgentMirror, SettlementItem


def has_bond(agent: str) -> bool:
    """Whether the mirror knows of a bond of this agent that is not empty."""
    return AgentMirror.objects.filter(agent=agent, bond_atomic__gt=0).exists()


def payable_bonds(agents: Iterable[str]) -> dict[str, int]:
    """Per agent its finalised bond, or what is forfeited of it, less what settlements under way are going
    to take.

    May fall below zero. Agents that the network does not know are absent.
    """
    wanted = sorted(set(agents))
    rows = AgentMirror.objects.filter(agent__in=wanted)
    bonds = {row.agent: row.bond_atomic + row.forfeited_atomic for row in rows}
    # An item that has landed already is counted with what its channel's watermark still lacks, that is not
    # again.
    under_way = (
        SettlementItem.objects.filter(channel__agent__in=wanted, settlement=F("channel__in_flight"))
        .values_list("channel__agent")
        .annotate(
            taken=Sum(
                Greatest(
                    Least("cumulative_atomic", "up_to_atomic") - F("channel__settled_atomic"),
                    0,
                    output_field=SettlementItem._meta.get_field("up_to_atomic"),
                )
            )
        )
    )
    for agent, taken in under_way:
        bonds[agent] -= int(taken)
    return bonds
