"""Takes over the newest finalised slot of the chain, and tells live pages what it changed.

The index says which transactions are new and so which accounts moved; those are read at one slot, and the ledger
follows the accounts. All accounts are read at the first start, after a gap in the history, when a transaction stays
unreadable, and nightly by the reconciliation. So a look costs what moved since the last one, not what there ever was.
"""

from collections.abc import Collection, Mapping
from typing import Final

import structlog

from apps.payments.errors import IncompleteSnapshot
from apps.payments.selectors.settlements import channels_to_end
from apps.payments.services import chain_index
from apps.payments.services.chain_mirror import Applied, Part, apply_chain_snapshot
from apps.settlement.chain import ChainSession
from apps.settlement.services.announce import announce
from apps.settlement.services.index import index_events
from apps.settlement.services.touched import touched_by, transactions_of
from machpay.chain.client import Snapshot

log = structlog.get_logger(__name__)

# Beyond this many accounts their calls seldom fall into one slot, and one call for all is quicker.
_TOUCHED_MAX: Final = 1_000
# Transactions that land while accounts are read make the reading incomplete: it is repeated with theirs.
_LOOKS_MAX: Final = 8
# A server that lists a transaction shows it a moment later; after this many times all accounts are read instead.
_ASKED_MAX: Final = 3


def sync_chain(chain: ChainSession) -> Applied:
    """Mirror the newest finalised slot: deposits, settlements and intents follow it, whoever sent the
    transactions.

    Returns what it changed: nothing, if another worker applied this slot or a later one already. Events are published
    after the commit by the one worker whose commit it was, so each rise is shown once. Raises `RpcUnavailable`.
    """
    if not chain_index.position().snapshot_slot:
        return take_everything(chain, "the first start")
    indexed = index_events(chain)
    reached = indexed.slot
    for _ in range(_LOOKS_MAX):
        reason = chain_index.position().snapshot_wanted
        if reason:
            return take_everything(chain, reason)
        missing = chain_index.least_asked_missing()
        if missing is not None and missing < _ASKED_MAX:
            return Applied(reached, applied=False)
        if missing is not None:
            return take_everything(chain, "a transaction that is listed is not shown")
        transactions = chain_index.unapplied()
        ending = channels_to_end(through_slot=reached)
        if not transactions and not ending:
            return _apply(Snapshot(reached, vault_atomic=indexed.vault_atomic), (), ())
        touched = touched_by(chain_index.events_of(transactions), mint=str(chain.network.mint))
        for address, agent in ending.items():
            touched.channels.add(address)
            touched.agents.add(agent)
        if touched.count > _TOUCHED_MAX:
            return take_everything(chain, f"{touched.count} accounts moved")
        snapshot = chain.run(
            chain.client.accounts_at_one_slot(touched.addresses(chain.network), least_slot=reached)
        )
        indexed = index_events(chain)
        reached = indexed.slot
        if snapshot is None or reached < snapshot.slot:
            continue
        later = chain_index.slots_of(set(chain_index.unapplied()) - set(transactions))
        if any(slot <= snapshot.slot for slot in later):
            continue
        try:
            return _apply(snapshot, transactions, touched.channels)
        except IncompleteSnapshot as error:
            # The server may be about to list the transaction that explains it.
            log.warning("chain_snapshot_incomplete", slot=snapshot.slot, detail=str(error))
    return take_everything(chain, "transactions kept landing while accounts were read")


def take_everything(chain: ChainSession, reason: str) -> Applied:
    """Read every account and take over that slot. Raises `RpcUnavailable`."""
    snapshot = chain.run(chain.client.program_accounts("finalized"))
    log.info("chain_snapshot_taken", slot=snapshot.slot, reason=reason, channels=len(snapshot.channels))
    transactions = newest_transactions()
    applied = apply_chain_snapshot(snapshot)
    announce(applied, transactions)
    return applied


def newest_transactions() -> Mapping[tuple[str, str], str]:
    """What a snapshot of everything will take over, as far as the index knows it: see `transactions_of`."""
    return transactions_of(chain_index.events_of(chain_index.unapplied()))


def _apply(snapshot: Snapshot, transactions: Collection[str], looked_at: Collection[str]) -> Applied:
    applied = apply_chain_snapshot(snapshot, part=Part(transactions, looked_at))
    announce(applied, transactions_of(chain_index.events_of(transactions)) if transactions else {})
    return applied
