"""Channels: the mirror of each channel's account, the transfers that its watermark asks for, and the intents and
settlements that end with it.

Part of `chain_mirror`, inside its transaction and under the chain cursor's lock.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from django.db import connection
from django.utils import timezone

from apps.ledger.types import Transfer
from apps.payments.errors import ChainRegression
from apps.payments.locks import lock_channels
from apps.payments.models import Channel, PaymentIntent, Settlement
from apps.payments.services import chain_postings, reversals
from apps.payments.services.chain_postings import PostedBefore
from apps.payments.services.mirrored import Applied, DistributionSeen, SettlementSeen
from apps.payments.services.settlements import release
from machpay.chain.accounts import Channel as ChannelAccount

Status = PaymentIntent.Status


def changed_channels(accounts: Mapping[str, ChannelAccount], *, whole: bool) -> tuple[set[str], set[str]]:
    """Addresses of channels that differ from the chain's account, and of those that have no row at all. `whole` says
    that `accounts` are all there are."""
    columns = ("address", "slot", "settled_atomic", "owed_atomic", "claim_cumulative_atomic", "claim_unlock")
    rows = Channel.objects.all() if whole else Channel.objects.filter(address__in=accounts)
    stored = {address: values for address, *values in rows.values_list(*columns)}
    missing = accounts.keys() - stored.keys()
    changed = {
        address
        for address, account in accounts.items()
        # Slot 0: the chain has created the account since.
        if (values := stored.get(address)) is None
        or not values[0]
        or tuple(values[1:])
        != (account.settled, account.owed, account.claim_cumulative, account.claim_unlock)
    }
    return changed, missing


def create_channels(accounts: Mapping[str, ChannelAccount]) -> None:
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


def follow_channels(
    slot: int,
    changed: Mapping[str, ChannelAccount],
    before: PostedBefore,
    mint: str,
    result: Applied,
    *,
    looked_at: Collection[str] | None,
) -> list[Transfer]:
    """Mirror the channels that changed, post the rises of their watermarks, and end the settlements that
    caused them. `looked_at` has the channels that were read, None for all."""
    ended = [
        settlement
        for settlement in Settlement.objects.filter(
            state=Settlement.State.FINALIZED, paid_atomic=None, slot__lte=slot
        )
        .order_by("id")
        .prefetch_related("items")
        if looked_at is None or all(item.channel_id in looked_at for item in settlement.items.all())
    ]
    settling = {item.channel_id for settlement in ended for item in settlement.items.all()}
    rows = lock_channels(settling | changed.keys())
    transfers = []
    for address in sorted(changed):
        transfers += _follow_channel(slot, rows[address], changed[address], before, mint, result)
    _write([rows[address] for address in sorted(changed)])
    reversals.collected({each.channel: each.recollected_atomic for each in result.settled})
    _end_settlements(ended, rows)
    result.ended_settlements += [settlement.id for settlement in ended]
    return transfers


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
    # What was reversed are the oldest unpaid charges, and a watermark pays the oldest first.
    recollected = min(rise, row.uncollected_atomic)
    row.settled_atomic, row.owed_atomic = account.settled, account.owed
    row.claim_cumulative_atomic, row.claim_unlock = account.claim_cumulative, account.claim_unlock
    row.credited_atomic += claimed
    row.uncollected_atomic -= recollected
    row.slot = slot
    if row.charged_total_atomic <= row.settled_atomic:
        row.unsettled_since = None
    elif rise:
        # What is left was charged after the voucher that was settled, so its waiting begins about now.
        row.unsettled_since = timezone.now()
    parties = chain_postings.Parties(row.address, row.agent_id, row.gateway_id, row.vendor, mint)
    from_forfeited = row.agent_id in before.forfeited
    transfers = []
    if claimed:
        transfers.append(chain_postings.claimed(parties, amount=claimed, settled=account.settled))
    if recollected:
        transfers.append(chain_postings.recollect(parties, amount=recollected, settled=account.settled))
    if rise:
        result.settled.append(
            SettlementSeen(
                channel=row.address,
                agent=row.agent_id,
                gateway=row.gateway_id,
                vendor=row.vendor,
                amount_atomic=rise,
                claimed_atomic=claimed,
                settled_atomic=account.settled,
                owed_atomic=owed,
                recollected_atomic=recollected,
                from_forfeited=from_forfeited,
            )
        )
        transfers.append(
            chain_postings.settle(
                parties, amount=rise, owed=owed, settled=account.settled, from_forfeited=from_forfeited
            )
        )
    if distributed:
        result.distributed.append(DistributionSeen(row.address, row.gateway_id, row.vendor, distributed))
        transfers.append(chain_postings.distribute(parties, amount=distributed, paid=paid))
    return transfers


_WRITE: Final = """
UPDATE payments_channel c SET
    settled_atomic = n.settled, owed_atomic = n.owed, claim_cumulative_atomic = n.claim, claim_unlock = n.unlock,
    slot = n.slot, credited_atomic = n.credited, uncollected_atomic = n.uncollected,
    unsettled_since = n.unsettled_since
FROM unnest(
    %s::text[], %s::numeric[], %s::numeric[], %s::numeric[], %s::bigint[], %s::bigint[], %s::numeric[], %s::numeric[],
    %s::timestamptz[]
) AS n (address, settled, owed, claim, unlock, slot, credited, uncollected, unsettled_since)
WHERE c.address = n.address
"""


def _write(channels: Collection[Channel]) -> None:
    """Store what `_follow_channel` changed."""
    if not channels:
        return
    rows = [
        (
            row.address,
            row.settled_atomic,
            row.owed_atomic,
            row.claim_cumulative_atomic,
            row.claim_unlock,
            row.slot,
            row.credited_atomic,
            row.uncollected_atomic,
            row.unsettled_since,
        )
        for row in channels
    ]
    with connection.cursor() as cursor:
        cursor.execute(_WRITE, [list(column) for column in zip(*rows, strict=True)])


_WRITE_ITEMS: Final = """
UPDATE payments_settlement_item i SET paid_atomic = n.paid
FROM unnest(%s::bigint[], %s::numeric[]) AS n (id, paid) WHERE i.id = n.id
"""
_WRITE_SETTLEMENTS: Final = """
UPDATE payments_settlement s SET paid_atomic = n.paid
FROM unnest(%s::bigint[], %s::numeric[]) AS n (id, paid) WHERE s.id = n.id
"""


def _end_settlements(ended: Collection[Settlement], channels: Mapping[str, Channel]) -> None:
    """Record what final settlements paid and free their channels.

    An account shows the watermark, not who raised it: a claim executed by somebody else between planning and
    landing counts as this settlement's, up to the item's own ceiling. A transaction without items (a distribution)
    paid what was planned.
    """
    if not ended:
        return
    paid_items: dict[int, int] = {}
    paid: dict[int, int] = {}
    free: dict[bool, list[Channel]] = {True: [], False: []}
    for settlement in ended:
        items = list(settlement.items.all())
        for item in items:
            channel = channels[item.channel_id]
            reached = min(item.cumulative_atomic, item.up_to_atomic, channel.settled_atomic)
            paid_items[item.id] = max(0, reached - item.settled_before_atomic)
            if channel.in_flight_id == settlement.id:
                free[bool(paid_items[item.id])].append(channel)
        planned = 0 if items else settlement.planned_atomic
        paid[settlement.id] = sum((paid_items[item.id] for item in items), planned)
    with connection.cursor() as cursor:
        if paid_items:
            cursor.execute(_WRITE_ITEMS, [list(paid_items), list(paid_items.values())])
        cursor.execute(_WRITE_SETTLEMENTS, [list(paid), list(paid.values())])
    for progressed, freed in free.items():
        release(freed, progressed=progressed)


# Two statements, because each is served by a partial index of its own.
_MARK_PAID: Final = """
UPDATE payment_intents i SET status = n.status, settled_at = now()
FROM unnest(%s::text[], %s::numeric[], %s::text[]) AS n (channel, settled, status)
WHERE i.channel = n.channel AND i.charged_through_atomic <= n.settled AND i.status {were}
"""
_MARK_SETTLED: Final = _MARK_PAID.format(were="IN ('PENDING', 'PROCESSING')")
_MARK_RECOLLECTED: Final = _MARK_PAID.format(were="= 'REVERSED'")


def mark_paid(settled: Iterable[SettlementSeen]) -> int:
    """Intents that the watermarks have reached are SETTLED, or SLASHED where a forfeited bond paid;
    returns how many."""
    seen = {each.channel: each for each in settled}
    marked = _mark(_MARK_SETTLED, seen.values())
    return marked + _mark(_MARK_RECOLLECTED, [each for each in seen.values() if each.recollected_atomic])


def _mark(statement: str, settled: Collection[SettlementSeen]) -> int:
    if not settled:
        return 0
    columns: list[list[Any]] = [
        [each.channel for each in settled],
        [each.settled_atomic for each in settled],
        [str(Status.SLASHED if each.from_forfeited else Status.SETTLED) for each in settled],
    ]
    with connection.cursor() as cursor:
        # The partial indexes hold unsettled rows only; with statistics of a quieter hour the planner would read the
        # whole history instead.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(statement, columns)
        marked = int(cursor.rowcount)
        cursor.execute("SET LOCAL enable_seqscan = on")
    return marked
