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

from apps.ledger.services import post
from apps.ledger.types import Transfer
from apps.payments.errors import ChainRegression
from apps.payments.locks import lock_agents, lock_channels, lock_cursor
from apps.payments.models import AgentMirror, Channel, Settlement, SettlementItem
from apps.payments.services import chain_postings, gateways
from apps.payments.services.chain_postings import PostedBefore
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
class BondMoved:
    """`amount_atomic` of an agent's bond was withdrawn, forfeited or swept since the last applied slot."""

    agent: str
    amount_atomic: int


@dataclass(frozen=True, slots=True)
class DistributionSeen:
    """`amount_atomic` of what a channel was owed reached the vendor."""

    channel: str
    gateway: str
    vendor: str
    amount_atomic: int


@dataclass(frozen=True, slots=True)
class SettlementSeen:
    """A channel's watermark rose by `amount_atomic` to `settled_atomic`; `claimed_atomic` of it was above
    every recorded charge, which only a claim can do. `owed_atomic` of it waits for the vendor on chain."""

    channel: str
    agent: str
    gateway: str
    vendor: str
    amount_atomic: int
    claimed_atomic: int
    settled_atomic: int
    owed_atomic: int = 0


@dataclass(slots=True)
class Applied:
    """What one snapshot changed. `applied` is False when its slot was not new. `ended_settlements` are those
    whose effect the mirrors now contain."""

    slot: int
    applied: bool
    deposits: list[DepositSeen] = field(default_factory=list)
    withdrawals: list[BondMoved] = field(default_factory=list)
    settled: list[SettlementSeen] = field(default_factory=list)
    distributed: list[DistributionSeen] = field(default_factory=list)
    slashed: list[BondMoved] = field(default_factory=list)
    swept: list[BondMoved] = field(default_factory=list)
    ended_settlements: list[int] = field(default_factory=list)
    intents_settled: int = 0

    @property
    def moved(self) -> bool:
        """Whether any money moved."""
        return bool(
            self.deposits
            or self.withdrawals
            or self.settled
            or self.distributed
            or self.slashed
            or self.swept
        )


def apply_chain_snapshot(snapshot: Snapshot) -> Applied:
    """Bring mirrors, ledger, intents and settlements to the finalised slot of `snapshot`.

    Deposits, withdrawals and sweeps follow the lifetime counters of `AgentAccount`, a slash its `slashed`,
    settlements and distributions follow `Channel.settled` and `Channel.owed`. Returns what changed, for live
    pages and logs. Raises `ChainRegression` if a counter that only rises fell.
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
        before = PostedBefore.read(mint)
        # The order in which the chain must have done it: nothing is deposited or withdrawn after a slash, and
        # nothing swept before one.
        transfers = _follow_deposits(rows, agents, mint, result)
        transfers += _follow_withdrawals(agents, before, mint, result)
        _create_channels({address: channels[address] for address in missing_channels})
        changed = {address: channels[address] for address in changed_channels}
        transfers += _follow_channels(snapshot.slot, changed, before, mint, result)
        transfers += _follow_forfeits(agents, before, mint, result)
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
        transfers.append(chain_postings.deposit(agent, mint, amount=amount, total=total))
    AgentMirror.objects.bulk_update(risen, ["deposits_posted_atomic"], batch_size=500)
    return transfers


def _follow_withdrawals(
    accounts: Mapping[str, AgentAccount], before: PostedBefore, mint: str, result: Applied
) -> list[Transfer]:
    transfers = []
    for agent, account in accounts.items():
        amount = account.withdrawn_total - before.withdrawn.get(agent, 0)
        if amount < 0:
            raise ChainRegression(f"withdrawals of {agent} fell to {account.withdrawn_total}")
        if amount:
            result.withdrawals.append(BondMoved(agent, amount))
            transfers.append(
                chain_postings.withdraw(agent, mint, amount=amount, total=account.withdrawn_total)
            )
    return transfers


def _follow_forfeits(
    accounts: Mapping[str, AgentAccount], before: PostedBefore, mint: str, result: Applied
) -> list[Transfer]:
    """Slashes and sweeps. A settlement of the same snapshot as its agent's slash counts as made before it:
    accounts do not tell, and both orders end in the same balances."""
    transfers = []
    for agent, account in accounts.items():
        if not account.slashed:
            continue
        swept = account.swept_total - before.swept.get(agent, 0)
        if swept < 0:
            raise ChainRegression(f"sweeps of {agent} fell to {account.swept_total}")
        forfeited = account.forfeited + swept
        if agent not in before.forfeited and forfeited:
            result.slashed.append(BondMoved(agent, forfeited))
            transfers.append(chain_postings.slash(agent, mint, amount=forfeited))
        if swept:
            result.swept.append(BondMoved(agent, swept))
            transfers.append(chain_postings.sweep(agent, mint, amount=swept, total=account.swept_total))
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
    slot: int, changed: Mapping[str, ChannelAccount], before: PostedBefore, mint: str, result: Applied
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
        transfers += _follow_channel(slot, rows[address], changed[address], before, mint, result)
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
    slot: int, row: Channel, account: ChannelAccount, before: PostedBefore, mint: str, result: Applied
) -> list[Transfer]:
    rise = account.settled - row.settled_atomic
    if rise < 0:
        raise ChainRegression(
            f"settled of channel {row.address} fell from {row.settled_atomic} to {account.settled}"
        )
    paid_before, paid = row.settled_atomic - row.owed_atomic, account.settled - account.owed
    if paid < paid_before:
        raise ChainRegression(f"what channel {row.address} paid out fell from {paid_before} to {paid}")
    owed = max(0, account.owed - row.owed_atomic)
    distributed = max(0, row.owed_atomic - account.owed)
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
    parties = chain_postings.Parties(row.address, row.agent_id, row.gateway_id, row.vendor, mint)
    transfers = []
    if claimed:
        transfers.append(chain_postings.claimed(parties, amount=claimed, settled=account.settled))
    if rise:
        result.settled.append(
            SettlementSeen(
                row.address, row.agent_id, row.gateway_id, row.vendor, rise, claimed, account.settled, owed
            )
        )
        transfers.append(
            chain_postings.settle(
                parties,
                amount=rise,
                owed=owed,
                settled=account.settled,
                from_forfeited=row.agent_id in before.forfeited,
            )
        )
    if distributed:
        result.distributed.append(DistributionSeen(row.address, row.gateway_id, row.vendor, distributed))
        transfers.append(chain_postings.distribute(parties, amount=distributed, paid=paid))
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
