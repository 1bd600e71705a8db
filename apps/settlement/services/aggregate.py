"""Settles many channels of one agent with one signature of its own, where the agent co-signs.

    propose -> the agent signs (relayer) -> sign and store -> send -> follow -> the channels are owed -> distribute

A transaction holds up to sixteen channels without a lookup table, each for a sixteenth of two signatures' fees, where
`settle_cumulative` pays for a signature per channel. What nobody co-signs in time is settled the ordinary way.
"""

from datetime import timedelta
from typing import Final

import structlog
from django.conf import settings
from django.db import transaction

from apps.payments.selectors.due import DuePolicy
from apps.payments.services.aggregations import (
    claim_signed,
    end_aggregations,
    propose,
    signed_ids,
    store_aggregated,
)
from apps.settlement.chain import ChainSession
from apps.settlement.services.send import Outgoing, send_all
from apps.settlement.services.signing import Signing
from machpay.chain.instructions import settle_aggregated

log = structlog.get_logger(__name__)

# 1,206 of 1,232 bytes with both compute-budget instructions.
CHANNELS_MAX: Final = 16
PROPOSALS_PER_RUN: Final = 200
SENT_PER_RUN: Final = 200
# Sixteen channels take 7,000 units.
COMPUTE_UNIT_LIMIT: Final = 20_000


def propose_aggregations(policy: DuePolicy) -> int:
    """Offer due channels to agents that co-sign; returns how many proposals were made."""
    end_aggregations()
    made = propose(
        policy=policy,
        channels_min=settings.AGGREGATION_CHANNELS_MIN,
        channels_max=CHANNELS_MAX,
        life=timedelta(seconds=settings.AGGREGATION_LIFE_S),
        asked_within=timedelta(seconds=settings.AGGREGATION_ASKED_S),
        limit=PROPOSALS_PER_RUN,
    )
    if made:
        log.info("aggregations_proposed", proposals=made)
    return made


def settle_aggregated_ones(chain: ChainSession, signing: Signing) -> list[int]:
    """Send what agents have co-signed; returns the ids of the settlements stored by this call."""
    outgoing = []
    for aggregation_id in signed_ids(limit=SENT_PER_RUN):
        with transaction.atomic():
            claimed = claim_signed(aggregation_id, network=chain.network)
            if claimed is None:
                continue
            steps = settle_aggregated(
                chain.network,
                relayer=signing.relayer.pubkey(),
                aggregate=claimed.aggregate,
                signature=claimed.signature,
            )
            signed = signing.sign(steps, compute_units=COMPUTE_UNIT_LIMIT)
            settlement_id = store_aggregated(
                claimed,
                raw_transaction=signed.raw,
                signature=signed.signature,
                last_valid_block_height=signed.last_valid_block_height,
            )
        outgoing.append(Outgoing(settlement_id, signed.raw, send_count=0))
    send_all(chain, outgoing)
    return [item.settlement_id for item in outgoing]
