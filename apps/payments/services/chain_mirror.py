"""Following the chain: mirrors, ledger and intents take over what a finalised slot says, whoever caused it.

A snapshot is applied whole, in one transaction, and only if its slot is above the last one: applying it
twice, late or from two workers at once changes nothing. Ledger and mirrors of bonds' deposits and of channels
therefore always show one slot.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from django.db import connection, transaction
from django.utils import timezone

from apps.ledger import chart
from apps.ledger.services import post
from apps.ledger.types import Leg, Transfer
from apps.payments.errors import ChainRegression
from apps.payments.locks import lock_agents, lock_channels, lock_cursor
from apps.payments.models import AgentMirror, Channel, Settlement, SettlementItem
from apps.payments.services import gateways
from apps.payments.services.network import current_network
from apps.payments.services.settlements import release
from machpay.chain.accounts import AgentAccount
from machpay.chain.accounts import Channel as ChannelAccount
from machpay.chain.client import Snapshot


@dataclass(frozen=True, slots=True)
class DepositSeen:
    """A bond rose by `amount_atomic` since the last applied slot."""

    agent: str
    amount_atomic: int


@dataclass(frozen=True, slots=True)
class SettlementSeen:
    """A channel's watermark rose by `amount_atomic` to `settled_atomic`; `claimed_atomic` of it was above
    every recorded charge, which only a claim can do."""

    channel: str
    agent: str
    gateway: str
    vendor: str
    amount_atomic: int
    claimed_atomic: int
    settled_atomic: int


@dataclass(slots=True)
class Applied:
    """What one snapshot changed. `applied` is False when its slot was not new. `ended_settlements` are those
    whose effect the mirrors now contain."""

    slot: int
    applied: bool
    deposits: list[DepositSeen] = field(default_factory=list)
    settled: list[SettlementSeen] = field(default_factory=list)
    ended_settlements: list[int] = field(default_factory=list)
    intents_settled: int = 0


def apply_chain_snapshot(snapshot: Snapshot) -> Applied:
    """Bring mirrors, ledger, intents and settlements to the finalised slot of `snapshot`.

    Deposits follow `AgentAccount.deposited_total`, settlements follow `Channel.settled`. Returns what
    changed, for live pages and logs. Raises `ChainRegression` if a counter that only rises fell.
    """
    with transaction.atomic():
        cursor = lock_cursor()
        if snapshot.slot <= cursor.slot:
            return Applied(cursor.slot, applied=False)
        result = Applied(snapshot.slot, applied=True)
        mint = str(current_network().mint)
        agents = {str(agent): account for agent, account in snapshot.agents.items()}
        channels = {str(address): account for address, account in snapshot.channels.items()}
        gateways.remember(snapshot.gateways.values())
        changed_agents = _changed_agents(agents)
        changed_channels, missing_channels = _changed_channels(channels)
        rows = lock_agents(changed_agents | {str(channels[address].agent) for address in missing_channels})
        _mirror_agents(snapshot.slot, [agents[agent] for agent in changed_agents])
        transfers = _follow_deposits(rows, agents, mint, result)
        _create_channels({address: channels[address] for address in missing_channels})
        transfers += _follow_channels(
            snapshot.slot, {address: channels[address] for address in changed_channels}, mint, result
        )
        post(transfers)
        result.intents_settled = _mark_settled(result.settled)
        cursor.slot = snapshot.slot
        cursor.applied_at = timezone.now()
        cursor.save(update_fields=["slot", "applied_at"])
    return result


def refresh_agent(slot: int, account: AgentAccount) -> None:
    """Take over one bond account that was read at finalised `slot`, for an agent that is asked for before the
    next snapshot. The ledger is left to `apply_chain_snapshot`."""
    with transaction.atomic():
        lock_agents([str(account.agent)])
        _mirror_agents(slot, [account])


_MIRRORED: Final = (
    "owner",
    "bond_atomic",
    "open_claims_atomic",
    "pending_withdrawal_atomic",
    "withdrawal_unlock",
    "forfeited_atomic",
    "window_end",
    "deposited_total_atomic",
    "paid_total_atomic",
    "withdrawn_total_atomic",
    "swept_total_atomic",
)


def _mirrored(account: AgentAccount) -> tuple[str | int, ...]:
    """The values of `_MIRRORED`, in that order."""
    return (
        str(account.owner),
        account.bond,
        account.open_claims,
        account.pending_withdrawal,
        account.withdrawal_unlock,
        account.forfeited,
        account.window_end,
        account.deposited_total,
        account.paid_total,
        account.withdrawn_total,
        account.swept_total,
    )


def _changed_agents(accounts: Mapping[str, AgentAccount]) -> set[str]:
    """Agents whose mirror or whose posted deposits differ from the chain's account."""
    columns = ("agent", "status", "deposits_posted_atomic", *_MIRRORED)
    stored = {agent: values for agent, *values in AgentMirror.objects.values_list(*columns)}
    return {
        agent
        for agent, account in accounts.items()
        if (values := stored.get(agent)) is None
        or account.slashed != (values[0] == AgentMirror.Status.SLASHED)
        or values[1] != account.deposited_total
        or tuple(values[2:]) != _mirrored(account)
    }


_MIRROR: Final = """
UPDATE payments_agent m SET
    status = CASE WHEN n.slashed THEN 'SLASHED' ELSE m.status END,
    owner = n.owner, bond_atomic = n.bond, open_claims_atomic = n.claims, pending_withdrawal_atomic = n.withdrawal,
    withdrawal_unlock = n.unlock, forfeited_atomic = n.forfeited, window_end = n.window_end,
    deposited_total_atomic = n.deposited, paid_total_atomic = n.paid, withdrawn_total_atomic = n.withdrawn,
    swept_total_atomic = n.swept, slot = %s
FROM unnest(
    %s::text[], %s::boolean[], %s::text[], %s::numeric[], %s::numeric[], %s::numeric[], %s::bigint[], %s::numeric[],
    %s::bigint[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[]
) AS n (
    agent, slashed, owner, bond, claims, withdrawal, unlock, forfeited, window_end, deposited, paid, withdrawn, swept
)
WHERE m.agent = n.agent AND m.slot < %s
"""


def _mirror_agents(slot: int, accounts: Iterable[AgentAccount]) -> None:
    """Write the mirrors of locked agents, except where a later slot is there already."""
    rows = [(str(account.agent), account.slashed, *_mirrored(account)) for account in accounts]
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(_MIRROR, [slot, *(list(column) for column in zip(*rows, strict=True)), slot])


def _follow_deposits(
    rows: Mapping[str, AgentMirror], accounts: Mapping[str, AgentAccount], mint: str, result: Applied
) -> list[Transfer]:
    transfers = []
    risen = []
    for agent, row in rows.items():
        if agent not in accounts or accounts[agent].deposited_total == row.deposits_posted_atomic:
            continue
        total = accounts[agent].deposited_total
        amount = total - row.deposits_posted_atomic
        if amount < 0:
            raise ChainRegression(f"deposits of {agent} fell from {row.deposits_posted_atomic} to {total}")
        row.deposits_posted_atomic = total
        risen.append(row)
        result.deposits.append(DepositSeen(agent, amount))
        transfers.append(
            Transfer.move(
                f"deposit:{agent}:{total}",
                chart.TransferKind.DEPOSIT,
                debit=chart.deposits(mint),
                credit=chart.bond(agent, mint),
                amount_atomic=amount,
            )
        )
    AgentMirror.objects.bulk_update(risen, ["deposits_posted_atomic"], batch_size=500)
    return transfers


def _changed_channels(accounts: Mapping[str, ChannelAccount]) -> tuple[set[str], set[str]]:
    """Addresses of channels that differ from the chain's account, and of those that have no row at all."""
    columns = ("address", "settled_atomic", "owed_atomic", "claim_cumulative_atomic", "claim_unlock")
    stored = {address: tuple(values) for address, *values in Channel.objects.values_list(*columns)}
    missing = accounts.keys() - stored.keys()
    changed = {
        address
        for address, account in accounts.items()
        if stored.get(address)
        != (account.settled, account.owed, account.claim_cumulative, account.claim_unlock)
    }
    return changed, missing


def _follow_channels(
    slot: int, changed: Mapping[str, ChannelAccount], mint: str, result: Applied
) -> list[Transfer]:
    """Mirror the channels that changed, post the rises of their watermarks, and end the settlements that
    caused them."""
    ended = list(
        Settlement.objects.filter(state=Settlement.State.FINALIZED, paid_atomic=None, slot__lte=slot)
        .order_by("id")
        .prefetch_related("items")
    )
    settling = {item.channel_id for settlement in ended for item in settlement.items.all()}
    rows = lock_channels(settling | changed.keys())
    transfers = []
    for address in sorted(changed):
        transfers += _follow_channel(slot, rows[address], changed[address], mint, result)
    Channel.objects.bulk_update(
        [rows[address] for address in sorted(changed)],
        [
            "settled_atomic",
            "owed_atomic",
            "claim_cumulative_atomic",
            "claim_unlock",
            "slot",
            "credited_atomic",
            "unsettled_since",
        ],
        batch_size=500,
    )
    for settlement in ended:
        _end_settlement(settlement, rows)
        result.ended_settlements.append(settlement.id)
    return transfers


def _create_channels(accounts: Mapping[str, ChannelAccount]) -> None:
    """Rows for channels that the chain has and the relayer never saw a payment of; their agents are locked."""
    Channel.objects.bulk_create(
        [
            Channel(
                address=address,
                agent_id=str(account.agent),
                gateway_id=str(account.gateway),
                vendor=str(account.vendor),
            )
            for address, account in sorted(accounts.items())
        ],
        ignore_conflicts=True,
    )


def _follow_channel(
    slot: int, row: Channel, account: ChannelAccount, mint: str, result: Applied
) -> list[Transfer]:
    rise = account.settled - row.settled_atomic
    if rise < 0:
        raise ChainRegression(
            f"settled of channel {row.address} fell from {row.settled_atomic} to {account.settled}"
        )
    claimed = max(0, account.settled - row.credited_atomic)
    row.settled_atomic, row.owed_atomic = account.settled, account.owed
    row.claim_cumulative_atomic, row.claim_unlock = account.claim_cumulative, account.claim_unlock
    row.credited_atomic += claimed
    row.slot = slot
    if row.charged_total_atomic <= row.settled_atomic:
        row.unsettled_since = None
    elif rise:
        # What is left was charged after the voucher that was settled, so its waiting begins about now.
        row.unsettled_since = timezone.now()
    if not rise:
        return []
    result.settled.append(
        SettlementSeen(row.address, row.agent_id, row.gateway_id, row.vendor, rise, claimed, account.settled)
    )
    spent = chart.spent_unsettled(row.agent_id, mint)
    unsettled = chart.unsettled(row.vendor, row.gateway_id, mint)
    transfers = []
    if claimed:
        transfers.append(
            Transfer.move(
                f"claimed:{row.address}:{account.settled}",
                chart.TransferKind.CLAIMED,
                debit=spent,
                credit=unsettled,
                amount_atomic=claimed,
            )
        )
    legs = (
        Leg(chart.bond(row.agent_id, mint), -rise),
        Leg(spent, rise),
        Leg(unsettled, -rise),
        Leg(chart.settled(row.vendor, row.gateway_id, mint), rise),
    )
    transfers.append(Transfer(f"settle:{row.address}:{account.settled}", chart.TransferKind.SETTLE, legs))
    return transfers


def _end_settlement(settlement: Settlement, channels: Mapping[str, Channel]) -> None:
    """Record what a final settlement paid and free its channels.

    An account shows the watermark, not who raised it: a claim executed by somebody else between planning and
    landing counts as this settlement's, up to the item's own ceiling.
    """
    items = list(settlement.items.all())
    for item in items:
        reached = min(item.cumulative_atomic, item.up_to_atomic, channels[item.channel_id].settled_atomic)
        item.paid_atomic = max(0, reached - item.settled_before_atomic)
    SettlementItem.objects.bulk_update(items, ["paid_atomic"])
    settlement.paid_atomic = sum(item.paid_atomic or 0 for item in items)
    settlement.save(update_fields=["paid_atomic"])
    for progressed in (True, False):
        release(
            [
                channels[item.channel_id]
                for item in items
                if bool(item.paid_atomic) is progressed
                and channels[item.channel_id].in_flight_id == settlement.id
            ],
            progressed=progressed,
        )


_MARK_SETTLED: Final = """
UPDATE payment_intents i SET status = 'SETTLED', settled_at = now()
FROM unnest(%s::text[], %s::numeric[]) AS n (channel, settled)
WHERE i.channel = n.channel AND i.charged_through_atomic <= n.settled AND i.status IN ('PENDING', 'PROCESSING')
"""


def _mark_settled(settled: Iterable[SettlementSeen]) -> int:
    watermarks = {seen.channel: seen.settled_atomic for seen in settled}
    if not watermarks:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_MARK_SETTLED, [list(watermarks), list(watermarks.values())])
        return int(cursor.rowcount)
