"""Anchors payments: cuts a batch by time, commits its root on the chain, and takes its end over.

    read the chain -> cut (one transaction) -> read the chain -> sign and store -> send -> follow -> verify the account

One batch is open at a time, and it continues the chain's head as finalised. What became of its transaction is found
out by `follow`, as for every settlement; only an attempt that failed for certain is signed anew. Safe to die anywhere
and to run in several workers.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from django.conf import settings
from django.utils import timezone

from apps.payments.models import Settlement
from apps.payments.selectors.batches import last_batch, payments_wait
from apps.payments.services.batches import (
    OpenBatch,
    cut_batch,
    mark_committed,
    move_batch,
    open_batch,
    store_attempt,
)
from apps.settlement.chain import ChainSession
from apps.settlement.errors import SettlementPaused
from apps.settlement.services.send import Outgoing, send_all
from apps.settlement.services.signing import Signing
from machpay.chain.accounts import Batch as BatchAccount
from machpay.chain.accounts import GlobalBond
from machpay.chain.instructions import commit_batch as commit_instruction

log = structlog.get_logger(__name__)

# 5,000 are taken; deriving an unlucky address takes 1,500 more per bump.
COMPUTE_UNIT_LIMIT: Final = 40_000


def commit_batch(chain: ChainSession, *, now: datetime | None = None) -> int | None:
    """Take the batch that is open one step on, or cut the next one if it is time; returns the id of the batch that was
    worked on, None if there is nothing to do.

    Raises `SettlementPaused`, also when the chain continues another head than this database's last batch has;
    `RpcUnavailable`.
    """
    batch = open_batch()
    if batch is None:
        if not _is_time(now or timezone.now()):
            return None
        signing = Signing.prepare(chain)
        _require_continuity(signing.bond)
        cut_batch(
            sequence=signing.bond.batch_sequence,
            previous_head=signing.bond.batch_head,
            leaves_max=settings.BATCH_LEAVES_MAX,
        )
        batch = open_batch()
        if batch is None:
            return None
        log.info("batch_cut", batch=batch.id, sequence=batch.sequence, leaves=batch.leaf_count)
    elif batch.transaction is not None and batch.transaction not in _ENDED:
        return None
    if not _finish(chain, batch) and batch.may_be_signed:
        _attempt(chain, batch)
    return batch.id


_ENDED: Final = (Settlement.State.FINALIZED, Settlement.State.FAILED)


def _is_time(now: datetime) -> bool:
    if not payments_wait():
        return False
    last = last_batch()
    # A full batch left payments behind.
    is_full = last is not None and last.leaf_count >= settings.BATCH_LEAVES_MAX
    return last is None or is_full or last.cut_at <= now - timedelta(seconds=settings.BATCH_INTERVAL_S)


def _require_continuity(bond: GlobalBond) -> None:
    """The chain's head is that of the last batch here, or of a later one of somebody else's: never of an earlier one,
    which a server behind would tell, and never another head in the same place."""
    last = last_batch()
    if last is None:
        return
    following = last.sequence + 1
    if bond.batch_sequence < following:
        raise SettlementPaused(
            f"the RPC server is behind: it tells batch {bond.batch_sequence}, {last.sequence} is final"
        )
    if bond.batch_sequence > following:
        log.error("batches_of_others", ours=last.sequence, chain=bond.batch_sequence)
    elif bond.batch_head != bytes(last.head):
        raise SettlementPaused(f"the chain's head after batch {last.sequence} is not the one recorded here")


def _finish(chain: ChainSession, batch: OpenBatch) -> bool:
    """Record the end of `batch` if its account is final; True if it needs no further attempt now.

    The account decides, whoever's transaction made it: a database that was set back may meet its own batch.
    """
    if batch.transaction is None and batch.attempts == 0:
        return False
    slot = chain.run(chain.client.slot("finalized"))
    account = chain.run(chain.client.batch(batch.sequence, "finalized"))
    if account is None or not _is_ours(account, batch):
        return batch.transaction == Settlement.State.FINALIZED and account is None
    signature = batch.signature
    if batch.transaction != Settlement.State.FINALIZED:
        signature = _creator(chain, batch) or signature
    committed_at = datetime.fromtimestamp(account.committed_at, UTC)
    if mark_committed(batch, signature=signature, slot=slot, committed_at=committed_at):
        log.info(
            "batch_committed", batch=batch.id, sequence=batch.sequence, leaves=batch.leaf_count, slot=slot
        )
    return True


def _is_ours(account: BatchAccount, batch: OpenBatch) -> bool:
    stands = (account.root, account.leaf_count, account.total, account.head)
    return stands == (batch.root, batch.leaf_count, batch.total_atomic, batch.head)


def _creator(chain: ChainSession, batch: OpenBatch) -> str | None:
    """The transaction that created the batch's account: nothing else ever names it successfully."""
    history = chain.run(chain.client.signatures_of(chain.network.batch(batch.sequence)))
    return next((seen.signature for seen in reversed(history) if not seen.failed), None)


def _attempt(chain: ChainSession, batch: OpenBatch) -> None:
    """Sign, store and send; first move the batch if somebody else's stands in its place."""
    signing = Signing.prepare(chain)
    bond = signing.bond
    if bond.batch_sequence < batch.sequence:
        raise SettlementPaused(
            f"the RPC server is behind: it tells batch {bond.batch_sequence}, {batch.sequence} is next"
        )
    if (bond.batch_sequence, bond.batch_head) != (batch.sequence, batch.previous_head):
        log.error("batch_displaced", batch=batch.id, sequence=batch.sequence, chain=bond.batch_sequence)
        move_batch(batch, sequence=bond.batch_sequence, previous_head=bond.batch_head)
        return
    step = commit_instruction(
        chain.network,
        relayer=signing.relayer.pubkey(),
        sequence=batch.sequence,
        root=batch.root,
        leaf_count=batch.leaf_count,
        total=batch.total_atomic,
    )
    signed = signing.sign([step], compute_units=COMPUTE_UNIT_LIMIT)
    settlement_id = store_attempt(
        batch,
        raw_transaction=signed.raw,
        signature=signed.signature,
        last_valid_block_height=signed.last_valid_block_height,
    )
    if settlement_id is not None:
        send_all(chain, [Outgoing(settlement_id, signed.raw, send_count=0)])
