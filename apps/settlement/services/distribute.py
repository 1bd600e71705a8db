"""Pays vendors what their channels are owed on the chain: after an aggregated settlement, or once a payout account that
could not receive can.

Anybody may distribute, and twice pays once, so losing a race costs a fee and nothing else.
"""

from datetime import timedelta
from typing import Final

import structlog
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.payments.selectors.lookup_tables import tables_of
from apps.payments.selectors.owed import Owed, owed_vendors
from apps.payments.selectors.vendors import payout_accounts
from apps.payments.services.settlements import store_distribution
from apps.settlement.chain import ChainSession
from apps.settlement.services.send import Outgoing, send_all
from apps.settlement.services.signing import Signing
from machpay.chain.instructions import DISTRIBUTED_CHANNELS_MAX, distribute
from machpay.chain.lookup_tables import LookupTable
from machpay.chain.transactions import SignedTransaction

log = structlog.get_logger(__name__)

VENDORS_PER_RUN: Final = 100
# 1,222 of 1,232 bytes with both compute-budget instructions and no lookup table.
CHANNELS_WITHOUT_TABLE_MAX: Final = 24
# A transaction locks at most 64 accounts, and the compute-budget program is one more than the instruction needs.
CHANNELS_WITH_TABLE_MAX: Final = DISTRIBUTED_CHANNELS_MAX - 1
# Fifty-five channels take 10,000 units.
COMPUTE_UNIT_LIMIT: Final = 30_000
# A payout account that cannot receive stays so for a while.
AFTER_FAILURE: Final = timedelta(minutes=10)


def distribute_owed(chain: ChainSession, signing: Signing, *, vendor: str | None = None) -> list[int]:
    """Pay out what is owed, one transaction a vendor; returns the ids of the settlements stored by this call."""
    owed = owed_vendors(limit=VENDORS_PER_RUN, vendor=vendor, not_failed_since=timezone.now() - AFTER_FAILURE)
    payouts = payout_accounts(each.vendor for each in owed)
    outgoing = []
    for each in owed:
        if each.vendor not in payouts:
            continue
        signed, amount = _sign(signing, each, payouts[each.vendor])
        settlement_id = store_distribution(
            vendor=each.vendor,
            owed_atomic=amount,
            raw_transaction=signed.raw,
            signature=signed.signature,
            last_valid_block_height=signed.last_valid_block_height,
        )
        if settlement_id is not None:
            outgoing.append(Outgoing(settlement_id, signed.raw, send_count=0))
    send_all(chain, outgoing)
    return [item.settlement_id for item in outgoing]


def _sign(signing: Signing, owed: Owed, payout: Pubkey) -> tuple[SignedTransaction, int]:
    """One transaction over as many channels as it holds, those with most owed first; and what they are owed."""
    table = _best_table(owed)
    if table is None:
        chosen = owed.channels[:CHANNELS_WITHOUT_TABLE_MAX]
    else:
        listed = set(table.addresses)
        in_table = [each for each in owed.channels if Pubkey.from_string(each[0]) in listed]
        chosen = in_table[:CHANNELS_WITH_TABLE_MAX]
    step = distribute(
        signing.network,
        vendor=Pubkey.from_string(owed.vendor),
        payout=payout,
        channels=[Pubkey.from_string(address) for address, _ in chosen],
    )
    signed = signing.sign(
        [step], compute_units=COMPUTE_UNIT_LIMIT, lookup_tables=() if table is None else (table,)
    )
    return signed, sum(amount for _, amount in chosen)


def _best_table(owed: Owed) -> LookupTable | None:
    """The table that holds most of the channels, if that is more than fit without one."""
    if len(owed.channels) <= CHANNELS_WITHOUT_TABLE_MAX:
        return None
    wanted = {Pubkey.from_string(address) for address, _ in owed.channels}
    tables = [table for table in tables_of(owed.vendor) if table.is_active]
    best = max(tables, key=lambda table: len(wanted.intersection(table.addresses)), default=None)
    if best is None or len(wanted.intersection(best.addresses)) <= CHANNELS_WITHOUT_TABLE_MAX:
        return None
    return best
