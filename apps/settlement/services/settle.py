"""Pays what is due: plans, signs, stores and sends settlement transactions.

The order is what makes it safe to die anywhere: read the chain -> claim, sign and store in one database
transaction without I/O -> commit -> send. Before the commit nothing has left this process; after it the
stored bytes are the only ones ever sent.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone
from solders.instruction import Instruction
from solders.pubkey import Pubkey

from apps.payments.selectors.due import DuePolicy, due_channels, due_vendors
from apps.payments.selectors.lookup_tables import tables_holding
from apps.payments.selectors.vendors import payout_accounts
from apps.payments.services.settlements import (
    DueChannel,
    SignedSettlement,
    as_due,
    claim_due_channels,
    store_settlements,
)
from apps.settlement.chain import ChainSession, relayer_keypair
from apps.settlement.services.aggregate import propose_aggregations, settle_aggregated_ones
from apps.settlement.services.distribute import distribute_owed
from apps.settlement.services.plan import Plan, plan
from apps.settlement.services.send import Outgoing, send_all
from apps.settlement.services.shares import within_bonds
from apps.settlement.services.signing import Signing
from apps.settlement.services.sync import sync_chain
from machpay.chain.instructions import ChannelSettlement, settle_cumulative
from machpay.chain.lookup_tables import LookupTable, choose_table, pair_addresses, shared_addresses
from machpay.chain.network import Network

log = structlog.get_logger(__name__)

# Rows stay locked while a claim is signed and stored, and intake waits for them: a few dozen take some 50
# ms.
CLAIM_CHANNELS: Final = 40
# A run ends in time for the next beat; what is left is due then.
RUN_SECONDS: Final = 25.0
# How long a block hash is signed with: a transaction then still has most of its minute.
SIGNING_SECONDS: Final = 10.0
# Five channels take 7,500 units, four that are created 29,000; deriving an unlucky address takes 1,500 more per bump.
COMPUTE_UNIT_LIMIT: Final = 80_000


def settle(
    chain: ChainSession,
    *,
    vendor: str | None = None,
    everything: bool = False,
    progress: Callable[[int], None] = lambda _channels: None,
) -> list[int]:
    """Settle every due channel, or those of one vendor, from the newest finalised state on; returns the ids
    of the settlements stored by this call. With `everything` whatever is unsettled is due, however little and recent,
    and waits for no agent's signature. `progress` is told how many channels are in settlements so far.

    Several workers may run it at once: each claims channels that no other has. Raises `SettlementPaused` if
    this process does not hold the relayer's key, `RpcUnavailable` if the chain is away; what was stored by
    then is sent by `follow`.
    """
    relayer_keypair()
    slot = sync_chain(chain).slot
    signing = Signing.prepare(chain)
    policy = AT_ONCE if everything else due_policy(chain.run(chain.client.unix_timestamp()))
    stored: list[int] = []
    if vendor is None:
        stored += settle_aggregated_ones(chain, signing)
        if not everything:
            propose_aggregations(policy)
    channels = 0
    passed_over: set[str] = set()
    now = time.monotonic()
    ends, renew_at = now + RUN_SECONDS, now + SIGNING_SECONDS
    for vendors in _vendor_groups(policy, vendor):
        left = True
        while left and time.monotonic() < ends:
            if time.monotonic() > renew_at:
                signing, renew_at = signing.renewed(chain), time.monotonic() + SIGNING_SECONDS
            claim = _store_due(signing, policy, vendors, passed_over)
            stored += [item.settlement_id for item in claim.outgoing]
            send_all(chain, claim.outgoing)
            channels += claim.settled
            passed_over |= claim.passed_over
            left = claim.may_be_more
            progress(channels)
    stored += distribute_owed(chain, signing, vendor=vendor)
    if stored:
        log.info("settlements_sent", settlements=len(stored), channels=channels, first=stored[0], slot=slot)
    return stored


def _vendor_groups(policy: DuePolicy, vendor: str | None) -> list[list[str]]:
    """Vendors with due channels, together a claim's worth or more each: a transaction holds channels of one vendor, so
    a claim across all of them would fill none. Those whose channels have waited longest come first."""
    groups: list[list[str]] = []
    room = 0
    for name, due in due_vendors(policy, now=timezone.now()):
        if vendor is not None and name != vendor:
            continue
        if room <= 0:
            groups.append([])
            room = CLAIM_CHANNELS
        groups[-1].append(name)
        room -= due
    return groups


def preview(chain: ChainSession, *, vendor: str | None = None) -> list[Plan]:
    """What `settle(everything=True)` would send now, one plan a transaction. Stores and sends nothing."""
    sync_chain(chain)
    rows = due_channels(AT_ONCE, now=timezone.now())
    if vendor is not None:
        rows = rows.filter(vendor=vendor)
    plans, _ = _plan(chain.network, [as_due(row) for row in rows.order_by("unsettled_since")])
    return plans


AT_ONCE: Final = DuePolicy(minimum_atomic=1, trigger_atomic=1, max_age=timedelta(0), awaits_cosigners=False)


def due_policy(chain_time: int) -> DuePolicy:
    """Worth a transaction: `SETTLE_MINIMUM_ATOMIC`, or any amount that has waited for
    `SETTLE_MAX_AGE_S`. `chain_time` is the time that timelocks are judged by."""
    return DuePolicy(
        minimum_atomic=1,
        trigger_atomic=settings.SETTLE_MINIMUM_ATOMIC,
        max_age=timedelta(seconds=settings.SETTLE_MAX_AGE_S),
        create_minimum_atomic=settings.SETTLE_CREATE_MINIMUM_ATOMIC,
        create_max_age=timedelta(seconds=settings.SETTLE_CREATE_MAX_AGE_S),
        unlocks_until=chain_time + int(settings.SETTLE_BEFORE_UNLOCK_S),
    )


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one claim came to, committed: transactions to send, the number of their channels, and the channels for which
    nothing is left of their agents' bonds."""

    outgoing: list[Outgoing]
    settled: int
    passed_over: set[str]

    @property
    def may_be_more(self) -> bool:
        return self.settled + len(self.passed_over) == CLAIM_CHANNELS


def _store_due(
    signing: Signing, policy: DuePolicy, vendors: Sequence[str], passed_over: Collection[str]
) -> _Claim:
    """Claim, sign and store in one transaction. What this run has passed over is not claimed again: it would stand
    before what can be paid."""
    with transaction.atomic():
        claimed = claim_due_channels(
            policy=policy, limit=CLAIM_CHANNELS, vendors=vendors, without=passed_over
        )
        plans, payouts = _plan(signing.network, claimed)
        signed = [_sign(signing, each, payouts[each.vendor]) for each in plans]
        ids = store_settlements(signed)
    outgoing = [
        Outgoing(settlement_id, each.raw_transaction, send_count=0)
        for settlement_id, each in zip(ids, signed, strict=True)
    ]
    settled = {channel.address for each in signed for channel in each.channels}
    return _Claim(outgoing, len(settled), {each.address for each in claimed} - settled)


def _plan(network: Network, channels: Sequence[DueChannel]) -> tuple[list[Plan], dict[str, Pubkey]]:
    """Transactions for these channels, and where each vendor is paid."""
    # Intake may know a gateway that was registered after the mirrored slot; the next one has its vendor.
    payouts = payout_accounts(channel.vendor for channel in channels)
    due, available = within_bonds([each for each in channels if each.vendor in payouts])
    plans = plan(
        due,
        available,
        tables=_tables(network, due, payouts),
        existing={channel.address for channel in due if channel.on_chain},
    )
    return plans, payouts


def _tables(
    network: Network, due: Sequence[DueChannel], payouts: Mapping[str, Pubkey]
) -> dict[str, LookupTable]:
    """Per channel the table that holds all it looks up. A channel whose last settlement failed goes without, so
    that whatever is wrong with a table holds up no payment."""
    sound = [channel for channel in due if not channel.failures]
    listed = tables_holding(channel.address for channel in sound)
    found = {}
    for channel in sound:
        vendor, payout = Pubkey.from_string(channel.vendor), payouts[channel.vendor]
        agent, gateway = Pubkey.from_string(channel.agent), Pubkey.from_string(channel.gateway)
        looked_up = [
            *shared_addresses(network, vendor=vendor, payout=payout),
            *pair_addresses(network, agent=agent, gateway=gateway),
        ]
        table = choose_table(listed, looked_up)
        if table is not None:
            found[channel.address] = table
    return found


def _sign(signing: Signing, plan: Plan, payout: Pubkey) -> SignedSettlement:
    signed = signing.sign(
        _instructions(signing, plan, payout),
        compute_units=COMPUTE_UNIT_LIMIT,
        lookup_tables=() if plan.table is None else (plan.table,),
    )
    return SignedSettlement(plan.channels, signed.raw, signed.signature, signed.last_valid_block_height)


def _instructions(signing: Signing, plan: Plan, payout: Pubkey) -> list[Instruction]:
    channels = [
        ChannelSettlement(
            agent=Pubkey.from_string(channel.agent),
            gateway=Pubkey.from_string(channel.gateway),
            voucher=channel.voucher,
            up_to=channel.up_to_atomic,
            create=not channel.on_chain,
        )
        for channel in plan.channels
    ]
    return settle_cumulative(
        signing.network,
        relayer=signing.relayer.pubkey(),
        vendor=Pubkey.from_string(plan.vendor),
        payout=payout,
        channels=channels,
    )
