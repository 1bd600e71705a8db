"""Pays what is due: plans, signs, stores and sends settlement transactions.

The order is what makes it safe to die anywhere: read the chain -> claim, sign and store in one database
transaction without I/O -> commit -> send. Before the commit nothing has left this process; after it the
stored bytes are the only ones ever sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from django.conf import settings
from django.db import transaction
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from apps.payments.selectors.bonds import payable_bonds
from apps.payments.selectors.lookup_tables import tables_holding
from apps.payments.selectors.vendors import payout_accounts
from apps.payments.services.settlements import DueChannel, DuePolicy, claim_due_channels, store_settlement
from apps.settlement.chain import ChainSession, relayer_keypair
from apps.settlement.errors import SettlementPaused
from apps.settlement.services.plan import Plan, plan
from apps.settlement.services.send import Outgoing, send_all
from apps.settlement.services.sync import sync_chain
from machpay.chain.accounts import GlobalBond
from machpay.chain.instructions import ChannelSettlement, settle_cumulative
from machpay.chain.lookup_tables import LookupTable, choose_table, pair_addresses, shared_addresses
from machpay.chain.network import Network
from machpay.chain.transactions import sign_transaction

log = structlog.get_logger(__name__)

# Rows stay locked while a claim is signed and stored, and intake waits for them: a few dozen take some 50
# ms.
CLAIM_CHANNELS: Final = 40
CLAIMS_PER_RUN: Final = 10
# Five channels take 7,500 units, four that are created 29,000; deriving an unlucky address takes 1,500 more per bump.
COMPUTE_UNIT_LIMIT: Final = 80_000
# Micro-lamports a unit when blocks are not full: 80 lamports a transaction, beside 5,000 for each signature.
COMPUTE_UNIT_PRICE_MIN: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Basis:
    """What transactions are built from, all read before rows are locked."""

    network: Network
    relayer: Keypair
    blockhash: Hash
    last_valid_block_height: int
    unit_price: int


def settle(chain: ChainSession, *, vendor: str | None = None) -> list[int]:
    """Settle every due channel, or those of one vendor, from the newest finalised state on; returns the ids
    of the settlements stored by this call.

    Several workers may run it at once: each claims channels that no other has. Raises `SettlementPaused` if
    this process does not hold the relayer's key, `RpcUnavailable` if the chain is away; what was stored by
    then is sent by `follow`.
    """
    relayer = relayer_keypair()
    slot = sync_chain(chain).slot
    _require_relayer(chain.run(chain.client.bond("finalized")), relayer)
    unit_price = chain.run(
        chain.client.priority_price(
            [chain.network.vault()], least=COMPUTE_UNIT_PRICE_MIN, most=settings.PRIORITY_PRICE_MAX
        )
    )
    stored: list[int] = []
    for _ in range(CLAIMS_PER_RUN):
        blockhash, height = chain.run(chain.client.latest_blockhash())
        basis = _Basis(chain.network, relayer, blockhash, height, unit_price)
        outgoing = _store_due(basis, vendor)
        stored += [item.settlement_id for item in outgoing]
        send_all(chain, outgoing)
        if not outgoing:
            break
    if stored:
        log.info("settlements_sent", settlements=len(stored), first=stored[0], slot=slot)
    return stored


def due_policy() -> DuePolicy:
    """Worth a transaction: `SETTLE_MINIMUM_ATOMIC`, or any amount that has waited for
    `SETTLE_MAX_AGE_S`."""
    return DuePolicy(
        minimum_atomic=1,
        trigger_atomic=settings.SETTLE_MINIMUM_ATOMIC,
        max_age=timedelta(seconds=settings.SETTLE_MAX_AGE_S),
    )


def _require_relayer(bond: GlobalBond | None, relayer: Keypair) -> None:
    if bond is None:
        raise SettlementPaused("the program is not initialised for this mint")
    if bond.relayer != relayer.pubkey():
        raise SettlementPaused(
            f"the chain's relayer is {bond.relayer}, RELAYER_KEYPAIR holds {relayer.pubkey()}"
        )


def _store_due(basis: _Basis, vendor: str | None) -> list[Outgoing]:
    """Claim, sign and store in one transaction; what it returns is committed."""
    with transaction.atomic():
        claimed = claim_due_channels(policy=due_policy(), limit=CLAIM_CHANNELS, vendor=vendor)
        # Intake may know a gateway that was registered after the mirrored slot; the next one has its vendor.
        payouts = payout_accounts(channel.vendor for channel in claimed)
        due = [each for each in claimed if each.vendor in payouts]
        plans = plan(
            due,
            payable_bonds(channel.agent for channel in due),
            tables=_tables(basis, due, payouts),
            existing=[channel.address for channel in due if channel.on_chain],
        )
        return [_store(basis, each, payouts[each.vendor]) for each in plans]


def _tables(
    basis: _Basis, due: Sequence[DueChannel], payouts: Mapping[str, Pubkey]
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
            *shared_addresses(basis.network, vendor=vendor, payout=payout),
            *pair_addresses(basis.network, agent=agent, gateway=gateway),
        ]
        table = choose_table(listed, looked_up)
        if table is not None:
            found[channel.address] = table
    return found


def _store(basis: _Basis, plan: Plan, payout: Pubkey) -> Outgoing:
    signed = sign_transaction(
        _instructions(basis, plan, payout),
        payer=basis.relayer,
        signers=[],
        blockhash=basis.blockhash,
        last_valid_block_height=basis.last_valid_block_height,
        lookup_tables=() if plan.table is None else (plan.table,),
    )
    settlement_id = store_settlement(
        channels=plan.channels,
        raw_transaction=signed.raw,
        signature=signed.signature,
        last_valid_block_height=signed.last_valid_block_height,
    )
    return Outgoing(settlement_id, signed.raw, send_count=0)


def _instructions(basis: _Basis, plan: Plan, payout: Pubkey) -> list[Instruction]:
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
    return [
        set_compute_unit_limit(COMPUTE_UNIT_LIMIT),
        set_compute_unit_price(basis.unit_price),
        *settle_cumulative(
            basis.network,
            relayer=basis.relayer.pubkey(),
            vendor=Pubkey.from_string(plan.vendor),
            payout=payout,
            channels=channels,
        ),
    ]
