"""Keeps lookup tables: puts channels that pay into them, so that a settlement transaction holds five and not two.

Outside the hot path, in the order that makes it safe to die anywhere: read the chain -> record the change with the
last height at which it can land -> commit -> send. A change that landed is found in the finalised table; one that
did not is forgotten once its height is final, and planned anew. Entries are used from then on only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from django.conf import settings
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from apps.payments.selectors.lookup_tables import (
    UnlistedChannel,
    pending_tables,
    tables_of,
    unlisted_channels,
    vendors_to_list,
)
from apps.payments.services.lookup_tables import begin_extension, begin_table, forget_table, record_entries
from apps.settlement.chain import ChainSession, relayer_keypair
from apps.settlement.services.outcome import EXPIRY_MARGIN_BLOCKS
from machpay.chain.errors import TransactionFailed, TransactionRejected
from machpay.chain.lookup_tables import (
    EXTENSION_ADDRESSES_MAX,
    TABLE_ADDRESSES_MAX,
    LookupTable,
    create_table,
    extend_table,
    pair_addresses,
    shared_addresses,
    table_address,
)
from machpay.chain.network import Network
from machpay.chain.transactions import SignedTransaction, sign_transaction

log = structlog.get_logger(__name__)

VENDORS_PER_RUN: Final = 20
# Ten extensions fill a table; more would wait for the next one in any case.
EXTENSIONS_PER_CHANGE: Final = 10
CHANNELS_PER_CHANGE: Final = 120
# A few places stay free for what changes later: a vendor's new payout account, another gateway.
PAIRS_FILL_MAX: Final = TABLE_ADDRESSES_MAX - 8


@dataclass(frozen=True, slots=True)
class _Basis:
    """What changes are built from, read before they are recorded. `slot` is finalised."""

    network: Network
    relayer: Keypair
    slot: int
    blockhash: Hash
    last_valid_block_height: int

    def sign(self, instructions: Sequence[Instruction]) -> SignedTransaction:
        return sign_transaction(
            instructions,
            payer=self.relayer,
            signers=[],
            blockhash=self.blockhash,
            last_valid_block_height=self.last_valid_block_height,
        )


def extend_tables(chain: ChainSession) -> list[str]:
    """Take over what landed, then begin what is missing; returns the addresses of tables that change.

    Safe to run twice and by several workers: one vendor has one change under way. Raises `SettlementPaused`,
    `RpcUnavailable`.
    """
    relayer = relayer_keypair()
    _follow(chain)
    vendors = vendors_to_list(channels_min=settings.LOOKUP_TABLE_CHANNELS_MIN, limit=VENDORS_PER_RUN)
    changed = []
    for vendor in vendors:
        account = chain.run(chain.client.vendor(Pubkey.from_string(vendor), "finalized"))
        if account is None:
            continue
        slot = chain.run(chain.client.slot("finalized"))
        basis = _Basis(chain.network, relayer, slot, *chain.run(chain.client.latest_blockhash()))
        shared = shared_addresses(chain.network, vendor=account.authority, payout=account.payout)
        begun = _begin(basis, vendor, shared)
        if begun is not None:
            address, transactions = begun
            _send(chain, address, transactions)
            changed.append(address)
    return changed


def _follow(chain: ChainSession) -> None:
    """Take over every change that is final, and end those that cannot land any more."""
    pending = pending_tables()
    if not pending:
        return
    # The height first: a change that could still land when it was read is seen by the next run.
    height = chain.run(chain.client.block_height("finalized"))
    for row in pending:
        table = chain.run(chain.client.lookup_table(Pubkey.from_string(row.address), "finalized"))
        ended = height > row.pending_until_height + EXPIRY_MARGIN_BLOCKS
        if table is not None:
            new = record_entries(row.address, addresses=[str(key) for key in table.addresses], ended=ended)
            if new:
                log.info("lookup_table_extended", table=row.address, new=new, entries=len(table.addresses))
        elif ended and forget_table(row.address):
            log.warning("lookup_table_never_created", table=row.address)


def _begin(
    basis: _Basis, vendor: str, shared: Sequence[Pubkey]
) -> tuple[str, list[SignedTransaction]] | None:
    """Record the next change for `vendor` and sign it; None if another worker did."""
    unlisted = unlisted_channels(vendor, limit=CHANNELS_PER_CHANGE)
    groups = [_addresses(basis.network, channel) for channel in unlisted]
    if not groups:
        return None
    table = next((each for each in tables_of(vendor) if _has_room(each, shared, groups[0])), None)
    if table is None:
        return _begin_table(basis, vendor, shared, groups)
    return _begin_extension(basis, table, shared, groups)


def _has_room(table: LookupTable, shared: Sequence[Pubkey], group: Sequence[Pubkey]) -> bool:
    missing = {*shared, *group}.difference(table.addresses)
    return len(table.addresses) + len(missing) <= PAIRS_FILL_MAX


def _begin_table(
    basis: _Basis, vendor: str, shared: Sequence[Pubkey], groups: Sequence[Sequence[Pubkey]]
) -> tuple[str, list[SignedTransaction]] | None:
    """A new table, created with as many entries as its first transaction holds."""
    relayer = basis.relayer.pubkey()
    address = table_address(relayer, basis.slot)
    (first, *_) = pack(groups, known=(), room=TABLE_ADDRESSES_MAX, lead=shared)
    signed = basis.sign(
        [
            create_table(authority=relayer, payer=relayer, recent_slot=basis.slot),
            extend_table(table=address, authority=relayer, payer=relayer, addresses=first),
        ]
    )
    begun = begin_table(
        address=str(address),
        vendor=vendor,
        recent_slot=basis.slot,
        pending_length=len(first),
        until_height=basis.last_valid_block_height,
    )
    return (str(address), [signed]) if begun else None


def _begin_extension(
    basis: _Basis, table: LookupTable, shared: Sequence[Pubkey], groups: Sequence[Sequence[Pubkey]]
) -> tuple[str, list[SignedTransaction]] | None:
    """More entries for a table; its transactions may land in any order, and each is useful alone."""
    relayer, length = basis.relayer.pubkey(), len(table.addresses)
    # A payout account that the vendor changed since is missing in the table like a new pair.
    lead = [address for address in shared if address not in table.addresses]
    parts = pack(groups, known=table.addresses, room=PAIRS_FILL_MAX - length, lead=lead)
    parts = parts[:EXTENSIONS_PER_CHANGE]
    signed = [
        basis.sign([extend_table(table=table.address, authority=relayer, payer=relayer, addresses=part)])
        for part in parts
    ]
    begun = begin_extension(
        str(table.address),
        length=length,
        pending_length=length + sum(len(part) for part in parts),
        until_height=basis.last_valid_block_height,
    )
    return (str(table.address), signed) if begun else None


def pack(
    groups: Iterable[Sequence[Pubkey]], *, known: Iterable[Pubkey], room: int, lead: Sequence[Pubkey]
) -> list[list[Pubkey]]:
    """Cut what is missing into extensions of at most 24 addresses and `room` together, `lead` first. Pure.

    A group (what one channel needs) is never divided, so an extension that does not land leaves whole
    channels out. For the same reason an address counts as there only if it is in `known` or in the same part.
    """
    final = set(known)
    parts: list[list[Pubkey]] = [list(lead)] if lead else []
    used = len(lead)
    for group in groups:
        missing = [address for address in group if address not in final]
        if parts:
            here = [address for address in missing if address not in parts[-1]]
            if len(parts[-1]) + len(here) <= EXTENSION_ADDRESSES_MAX:
                if used + len(here) > room:
                    break
                parts[-1] += here
                used += len(here)
                continue
        if used + len(missing) > room:
            break
        parts.append(missing)
        used += len(missing)
    return parts


def _addresses(network: Network, channel: UnlistedChannel) -> list[Pubkey]:
    return pair_addresses(
        network, agent=Pubkey.from_string(channel.agent), gateway=Pubkey.from_string(channel.gateway)
    )


def _send(chain: ChainSession, address: str, transactions: Sequence[SignedTransaction]) -> None:
    """Send each once. What is refused or lost is not repeated: the change ends at its height and is planned
    anew."""
    for transaction in transactions:
        try:
            chain.run(chain.client.send(transaction.raw))
        except (TransactionRejected, TransactionFailed) as error:
            log.warning("lookup_table_refused", table=address, error=str(error))
            return
    log.info("lookup_table_changes", table=address, transactions=len(transactions))
