"""Following the chain: mirrors, ledger and intents take over what a finalised slot says, whoever caused it.

A snapshot is applied whole, in one transaction, and only if its slot is above the last one: applying it
twice, late or from two workers at once changes nothing. It holds all accounts, or those that events touched since the
last one; what the ledger then says about each agent has to be what the agent's account says, so a channel that
moved unseen stops it. Ledger and mirrors of bonds' deposits and of channels therefore always show one slot.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone

from apps.ledger.services import post
from apps.payments.locks import lock_agents, lock_cursor
from apps.payments.models import Channel, VendorMirror
from apps.payments.services import alarms, chain_index, changes, claims, gateways, vault
from apps.payments.services.chain_postings import PostedBefore
from apps.payments.services.config import remember_config
from apps.payments.services.mirror_agents import (
    changed_agents,
    follow_deposits,
    follow_forfeits,
    follow_withdrawals,
    mirror_agents,
    require_complete,
)
from apps.payments.services.mirror_channels import (
    changed_channels,
    create_channels,
    follow_channels,
    mark_paid,
)
from apps.payments.services.mirrored import (
    Applied,
    BondMoved,
    DistributionSeen,
    SettlementSeen,
)
from apps.payments.services.network import current_network
from machpay.chain.accounts import AgentAccount
from machpay.chain.client import Snapshot

__all__ = [
    "Applied",
    "BondMoved",
    "DistributionSeen",
    "Part",
    "SettlementSeen",
    "apply_chain_snapshot",
    "refresh_agent",
]


@dataclass(frozen=True, slots=True)
class Part:
    """What a snapshot of some accounts covers: the effects of `transactions` (signatures), and the channels that were
    `looked_at`, existing or not."""

    transactions: Collection[str]
    looked_at: Collection[str]


def apply_chain_snapshot(snapshot: Snapshot, *, part: Part | None = None) -> Applied:
    """Bring mirrors, ledger, intents and settlements to the finalised slot of `snapshot`.

    Deposits, withdrawals and sweeps follow the lifetime counters of `AgentAccount`, a slash its `slashed`,
    settlements and distributions follow `Channel.settled` and `Channel.owed`. Without a `part` the snapshot holds every
    account. Returns what changed, for live pages and logs. Raises `ChainRegression` if a counter that only rises fell,
    `IncompleteSnapshot` if the part lacks an account that moved: nothing is changed then.
    """
    with transaction.atomic():
        cursor = lock_cursor()
        if snapshot.slot <= cursor.slot:
            return Applied(cursor.slot, applied=False)
        result = Applied(snapshot.slot, applied=True)
        mint = str(current_network().mint)
        whole = part is None
        agents = {str(agent): account for agent, account in snapshot.agents.items()}
        channels = {str(address): account for address, account in snapshot.channels.items()}
        gateways.remember(snapshot.gateways.values())
        if snapshot.bond is not None:
            remember_config(snapshot.bond, snapshot.slot)
        _remember_vendors(snapshot)
        changed = changed_agents(agents, whole=whole)
        moved, missing = changed_channels(channels, whole=whole)
        rows = lock_agents(changed | {str(channels[address].agent) for address in moved | missing})
        alarms.sound(
            snapshot.slot,
            {agent: agents[agent] for agent in changed},
            {address: channels[address] for address in moved},
        )
        mirror_agents(snapshot.slot, [agents[agent] for agent in changed])
        before = PostedBefore.read(mint, None if whole else agents)
        # The order in which the chain must have done it: nothing is deposited or withdrawn after a slash, and
        # nothing swept before one.
        transfers = follow_deposits(rows, agents, mint, result)
        transfers += follow_withdrawals(agents, before, mint, result)
        create_channels({address: channels[address] for address in missing})
        transfers += follow_channels(
            snapshot.slot,
            {address: channels[address] for address in moved},
            before,
            mint,
            result,
            looked_at=None if part is None else part.looked_at,
        )
        transfers += follow_forfeits(agents, before, mint, result)
        if not whole:
            require_complete(agents, before, transfers)
        post(transfers)
        if whole:
            vault.count_all(cursor, mint)
        else:
            vault.count(cursor, transfers)
            if snapshot.vault_atomic is not None:
                vault.compare(cursor, snapshot.vault_atomic, snapshot.slot)
        result.intents_settled = mark_paid(result.settled)
        if cursor.slot:
            # What was settled before this database began was charged before it, too.
            claims.open_cases(result.settled)
        _wake_uncollected(deposit.agent for deposit in result.deposits)
        changes.note(changed)
        if part is None:
            chain_index.mark_applied_through(snapshot.slot)
            chain_index.snapshot_taken(snapshot.slot)
        else:
            chain_index.mark_applied(part.transactions)
        cursor.slot = snapshot.slot
        cursor.applied_at = timezone.now()
        cursor.save()
    return result


def refresh_agent(slot: int, account: AgentAccount) -> None:
    """Take over one bond account that was read at finalised `slot`, for an agent that is asked for before the
    next snapshot; nothing is written that is there already. The ledger is left to `apply_chain_snapshot`."""
    agent = str(account.agent)
    with transaction.atomic():
        lock_agents([agent])
        if changed_agents({agent: account}, whole=False):
            alarms.sound(slot, {agent: account}, {})
            mirror_agents(slot, [account])
            changes.note([agent])


def _remember_vendors(snapshot: Snapshot) -> None:
    """Where vendors are paid from now on."""
    payouts = {str(authority): str(account.payout) for authority, account in snapshot.vendors.items()}
    known = dict(VendorMirror.objects.filter(authority__in=payouts).values_list("authority", "payout"))
    VendorMirror.objects.bulk_create(
        [
            VendorMirror(authority=authority, payout=payout, slot=snapshot.slot)
            for authority, payout in sorted(payouts.items())
            if known.get(authority) != payout
        ],
        update_conflicts=True,
        unique_fields=["authority"],
        update_fields=["payout", "slot"],
    )


def _wake_uncollected(agents: Iterable[str]) -> None:
    """Channels whose charges were reversed are due again once their agent's bond rose."""
    Channel.objects.filter(agent__in=list(agents), uncollected_atomic__gt=0, unsettled_since=None).update(
        unsettled_since=timezone.now(), settle_after=None
    )
