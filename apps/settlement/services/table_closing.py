"""Closes lookup tables that no settlement needs any more, so that their rent comes back to the relayer.

A table that has been idle leaves the registry first, so that nothing new is planned with it; then it is deactivated,
and some 512 slots later closed, when everything signed with it has long ended. How far a table is stands on the chain
alone: after a death anywhere the next run goes on, and two runs at once do no harm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import structlog
from solders.instruction import Instruction
from solders.keypair import Keypair

from apps.payments.selectors.lookup_tables import idle_tables, registered_tables
from apps.payments.services.lookup_tables import retire_tables
from apps.settlement.chain import ChainSession, relayer_keypair
from machpay.chain.errors import TransactionFailed, TransactionRejected
from machpay.chain.lookup_tables import CLOSABLE_AFTER_SLOTS, LookupTable, close_table, deactivate_table

log = structlog.get_logger(__name__)


Action = Literal["deactivate", "wait", "close"]


@dataclass(frozen=True, slots=True)
class ClosingTable:
    """A table on its way: what is done with it now, and what it holds in rent. `refused` is why it was not done."""

    address: str
    action: Action
    lamports: int
    slots_left: int = 0
    refused: str = ""


def close_tables(chain: ChainSession, *, idle_since: datetime, dry_run: bool) -> Iterator[ClosingTable]:
    """Take every table of the relayer's that the registry does not name one step further, after taking those out of
    it none of whose channels was paid on since `idle_since`.

    Raises `SettlementPaused`, `RpcUnavailable`, `ConfirmationTimeout`; calling again goes on where it ended.
    """
    relayer = relayer_keypair()
    leaving = set(idle_tables(idle_since))
    if not dry_run:
        retire_tables(idle_since)
    slot = chain.run(chain.client.slot("finalized"))
    tables = chain.run(chain.client.lookup_tables_of(relayer.pubkey(), "finalized"))
    # After the chain: a table's row is committed before the table is created.
    registered = set(registered_tables()) - (leaving if dry_run else set())
    for table in tables:
        if str(table.address) not in registered:
            yield _step(chain, relayer, table, slot, dry_run=dry_run)


def _step(
    chain: ChainSession, relayer: Keypair, table: LookupTable, slot: int, *, dry_run: bool
) -> ClosingTable:
    address, lamports = table.address, chain.run(chain.client.lamports(table.address, "finalized"))
    if table.deactivated_at is None:
        action: Action = "deactivate"
        step: Instruction = deactivate_table(table=address, authority=relayer.pubkey())
    else:
        left = table.deactivated_at + CLOSABLE_AFTER_SLOTS + 1 - slot
        if left > 0:
            return ClosingTable(str(address), "wait", lamports, slots_left=left)
        action = "close"
        step = close_table(table=address, authority=relayer.pubkey(), recipient=relayer.pubkey())
    refused = ""
    if not dry_run:
        try:
            chain.run(chain.client.send_and_confirm([step], relayer, commitment="finalized"))
            log.info("lookup_table_closing", table=str(address), action=action, lamports=lamports)
        except (TransactionRejected, TransactionFailed) as error:
            # A cluster that skipped slots lets a table be closed later; another run may have been faster.
            refused = str(error)
    return ClosingTable(str(address), action, lamports, refused=refused)
