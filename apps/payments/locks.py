"""The one order in which this app locks rows; whoever locks several takes them through here.

    chain cursor -> rules -> agents (by key) -> channels (by address) -> leases (by id) -> settlements
        -> ledger accounts (by id, inside `post`)

Sorting happens here and compares bytes, as the database does for these columns. Rows are locked FOR NO KEY
UPDATE, so that foreign keys pointing at them can still be inserted.
"""

from collections.abc import Iterable
from typing import Any

from django.db.models import QuerySet

from apps.payments.models import AgentMirror, ChainCursor, Channel, NetworkRules


def lock_cursor() -> ChainCursor:
    """The chain cursor, locked; only one process applies chain state at a time."""
    ChainCursor.objects.bulk_create([ChainCursor()], ignore_conflicts=True)
    return ChainCursor.objects.select_for_update(no_key=True).get()


def lock_rules(*, for_change: bool = False) -> NetworkRules:
    """The network's rules; nobody changes them before this transaction ends. Readers share the lock."""
    NetworkRules.objects.bulk_create([NetworkRules()], ignore_conflicts=True)
    if for_change:
        return NetworkRules.objects.select_for_update().get()
    # Django cannot say FOR SHARE.
    (rules,) = NetworkRules.objects.raw("SELECT * FROM payments_rules FOR SHARE")
    return rules


def lock_agents(agents: Iterable[str]) -> dict[str, AgentMirror]:
    """Rows of `agents`, created where missing, locked in order."""
    return {row.agent: row for row in _lock(_agents(agents))}


def hold_agents(agents: Iterable[str]) -> None:
    """`lock_agents` for callers that need only the lock."""
    list(_lock(_agents(agents)).values_list("agent"))


def _agents(agents: Iterable[str]) -> QuerySet[AgentMirror]:
    """The rows in lock order, all of them existing."""
    wanted = sorted(set(agents))
    rows = AgentMirror.objects.filter(agent__in=wanted).order_by("agent")
    known = set(rows.values_list("agent", flat=True))
    if len(known) < len(wanted):
        AgentMirror.objects.bulk_create(
            [AgentMirror(agent=agent) for agent in wanted if agent not in known], ignore_conflicts=True
        )
    return rows


def lock_channels(addresses: Iterable[str]) -> dict[str, Channel]:
    """Existing rows of `addresses`, locked in order; missing ones are absent from the answer."""
    wanted = sorted(set(addresses))
    return {row.address: row for row in _lock(Channel.objects.filter(address__in=wanted).order_by("address"))}


def _lock(rows: QuerySet[Any]) -> QuerySet[Any]:
    return rows.select_for_update(no_key=True)
