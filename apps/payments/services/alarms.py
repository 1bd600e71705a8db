"""Noticing that bonds are about to shrink, by comparing finalised accounts with what the mirrors still show.

Part of following the chain: called with the agents locked, before their mirrors are written. What is only confirmed is
noticed earlier by recon's watch; here nothing is missed.
"""

from collections.abc import Mapping

from apps.payments.models import AgentMirror, Channel
from apps.payments.services.enforcement import raise_alarm
from machpay.chain.accounts import AgentAccount
from machpay.chain.accounts import Channel as ChannelAccount


def sound(slot: int, agents: Mapping[str, AgentAccount], channels: Mapping[str, ChannelAccount]) -> int:
    """Raise an alarm for every agent with a new claim, withdrawal request or slash in these accounts, which differ
    from the mirrors; returns how many were news. Agents that were never mirrored have nothing leased."""
    alarms: dict[str, tuple[str, dict[str, str]]] = {}
    asked = {*agents, *(str(account.agent) for account in channels.values())}
    mirrors = {row.agent: row for row in AgentMirror.objects.filter(agent__in=asked, slot__gt=0)}
    stored = {str(row.address): row for row in Channel.objects.filter(address__in=channels)}
    for address, account in channels.items():
        row, agent = stored.get(address), str(account.agent)
        told = None if row is None else (row.claim_cumulative_atomic, row.claim_unlock)
        claim = (account.claim_cumulative, account.claim_unlock)
        if agent in mirrors and account.claim_cumulative > account.settled and told != claim:
            alarms[agent] = ("claim", {"channel": address, "cumulative": str(account.claim_cumulative)})
    for agent, bond in agents.items():
        mirror = mirrors.get(agent)
        if mirror is None:
            continue
        request = (bond.pending_withdrawal, bond.withdrawal_unlock)
        if bond.pending_withdrawal and request != (
            mirror.pending_withdrawal_atomic,
            mirror.withdrawal_unlock,
        ):
            alarms[agent] = ("withdrawal", {"amount": str(bond.pending_withdrawal)})
        if bond.slashed and not mirror.window_end:
            alarms[agent] = ("slash", {"forfeited": str(bond.forfeited)})
    return sum(
        raise_alarm(agent, reason, slot=slot, seen=seen) for agent, (reason, seen) in sorted(alarms.items())
    )
