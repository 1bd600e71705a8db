"""Failure reversal: credit that no bond covers leaves the vendor's balance, and comes back when a later top-up pays it.

    charged -> PENDING -> SETTLED                the bond paid
                       -> SLASHED                a forfeited bond paid
                       -> REVERSED               nothing is left of the bond
                          REVERSED -> SETTLED    a later top-up paid after all

A channel is reversed only at rest: its agent's bond is used up as of the slot that the ledger follows, and no
transaction of the agent is under way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import connection, transaction
from django.db.models import F, Sum
from django.utils import timezone

from apps.ledger.services import post
from apps.ledger.types import Transfer
from apps.payments.locks import lock_agents, lock_channels, lock_cursor
from apps.payments.models import Channel, Reversal
from apps.payments.services import chain_postings
from apps.payments.services.chain_postings import Parties
from apps.payments.services.network import current_network

CHANNELS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Reversed:
    """What one channel's vendor lost for now. `intents` payments are REVERSED."""

    channel: str
    agent: str
    gateway: str
    vendor: str
    amount_atomic: int
    intents: int


def reverse_uncovered(agent: str, *, unsettled_before: datetime) -> list[Reversed]:
    """Reverse what the agent's used-up bond leaves unpaid on channels that have waited since `unsettled_before`, and
    what a gateway charged beyond the agent's highest voucher, which nothing can pay; at most `CHANNELS_AT_ONCE`, since
    everything else waits for the chain cursor meanwhile. Safe to repeat."""
    mint = str(current_network().mint)
    with transaction.atomic():
        cursor = lock_cursor()
        (row,) = lock_agents([agent]).values()
        # A mirror ahead of the ledger shows a bond that settlements have used which the ledger has not posted.
        if row.slot > cursor.slot:
            return []
        rows = Channel.objects.filter(agent=agent, unsettled_since__lte=unsettled_before)
        if row.bond_atomic + row.forfeited_atomic:
            rows = rows.filter(highest_cumulative_atomic__lte=F("settled_atomic"))
        addresses = rows.order_by("unsettled_since").values_list("address", flat=True)
        channels = lock_channels(addresses[:CHANNELS_AT_ONCE])
        if Channel.objects.filter(agent=agent, in_flight__isnull=False).exists():
            return []
        found = [_reverse(channel, mint) for channel in channels.values()]
        post([transfer for _, transfer in found if transfer is not None])
    return [each for each, transfer in found if transfer is not None]


def collected(amounts: Mapping[str, int]) -> None:
    """Note what of each channel's reversed credit was paid after all, the oldest first; the channels are locked."""
    paid = {channel: amount for channel, amount in amounts.items() if amount}
    rows = Reversal.objects.filter(channel__in=paid, collected_at=None).order_by("id") if paid else []
    for row in rows:
        amount = min(paid[row.channel_id], row.amount_atomic - row.collected_atomic)
        if amount:
            paid[row.channel_id] -= amount
            row.collected_atomic += amount
            if row.collected_atomic == row.amount_atomic:
                row.collected_at = timezone.now()
            row.save(update_fields=["collected_atomic", "collected_at"])


def _reverse(channel: Channel, mint: str) -> tuple[Reversed, Transfer | None]:
    amount = channel.credited_atomic - channel.settled_atomic - channel.uncollected_atomic
    intents = _mark_reversed(channel) if amount else 0
    channel.uncollected_atomic += amount
    # Not due before the bond rises again.
    channel.unsettled_since = None
    channel.save(update_fields=["uncollected_atomic", "unsettled_since"])
    seen = Reversed(channel.address, channel.agent_id, channel.gateway_id, channel.vendor, amount, intents)
    if not amount:
        return seen, None
    before = Reversal.objects.filter(channel=channel).aggregate(total=Sum("amount_atomic"))["total"] or 0
    Reversal.objects.create(
        channel=channel,
        agent=channel.agent_id,
        gateway=channel.gateway_id,
        vendor=channel.vendor,
        amount_atomic=amount,
        settled_atomic=channel.settled_atomic,
        intents=intents,
    )
    parties = Parties(channel.address, channel.agent_id, channel.gateway_id, channel.vendor, mint)
    return seen, chain_postings.reverse(parties, amount=amount, total=int(before) + amount)


# An intent that the watermark covers in part is reversed too: its vendor was not paid for it.
_MARK_REVERSED: Final = """
UPDATE payment_intents SET status = 'REVERSED'
WHERE channel = %s AND charged_through_atomic > %s AND status IN ('PENDING', 'PROCESSING')
"""


def _mark_reversed(channel: Channel) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_MARK_REVERSED, [channel.address, channel.settled_atomic])
        return int(cursor.rowcount)
