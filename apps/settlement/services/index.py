"""The indexer: every event of the program, from the finalised history of its event authority.

The history is listed from the newest down to a little below where the index ends, so that a transaction which a server
lists late is still met, and until it meets a transaction that is known: a history that ends before, or that is too long
for one task to list, is a gap. What was listed and cannot be shown yet is remembered and asked for again; so is the
history of before the first start. Several workers may do all of this at once.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from apps.payments.services import chain_index
from apps.payments.services.chain_index import ReadTransaction
from apps.settlement.chain import ChainSession
from machpay.chain.client import SIGNATURES_PER_CALL_MAX, ChainClient, SignatureSeen
from machpay.chain.errors import DecodeError
from machpay.chain.traces import Recorded

log = structlog.get_logger(__name__)

# A server indexes a block's transactions a moment after the block, and an address may be several servers.
OVERLAP_SLOTS: Final = 64
# The first look of a quiet network is small; a page is what a cluster answers at most.
_FIRST_PAGE: Final = 50
_CONCURRENT_READS: Final = 8
_STORED_TOGETHER: Final = 200
_WAITING_PER_RUN: Final = 500
# A task that listed for longer would be ended before it has stored anything, and the next one like it.
_LIST_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Indexed:
    """What one look found: it reaches finalised `slot`, at which the vault held `vault_atomic`; `transactions` were
    read, with `events` new events."""

    slot: int
    vault_atomic: int
    transactions: int
    events: int


def index_events(chain: ChainSession) -> Indexed:
    """Bring the index up to the newest finalised slot. Raises `RpcUnavailable`; what was stored by then stays."""
    reached = chain_index.position().slot
    # Before the list: what the vault shows at this slot is then listed.
    vault_atomic, slot = chain.run(chain.client.token_balance_at(chain.network.vault(), "finalized"))
    floor = max(reached - OVERLAP_SLOTS, 0)
    history = chain.run(list_down_to(chain.client, floor, seconds=_LIST_SECONDS))
    if history.is_cut or (not history.met and chain_index.newest_known_slot(below=floor) is not None):
        # The last slot that is known to be indexed was not met: something between may be lost.
        down_to = history.seen[-1].slot if history.seen else slot
        log.error("chain_index_gap", indexed_through=reached, listed_down_to=down_to, is_cut=history.is_cut)
        chain_index.want_snapshot(f"the history was not listed down to slot {floor}", slot=slot)
    unread = chain_index.not_read(each.signature for each in history.seen)
    # What a whole snapshot has taken over, or is about to, is history: it is read bit by bit and holds nothing up.
    past = slot if history.is_cut else chain_index.position().snapshot_slot
    fresh = [each for each in history.seen if each.signature in unread and each.slot > past]
    chain_index.store_listed(
        [each for each in history.seen if each.signature in unread and each.slot <= past]
    )
    wanted = {each.signature: each for each in (*chain_index.waiting(limit=_WAITING_PER_RUN), *fresh)}
    read, events = read_and_store(chain, sorted(wanted.values(), key=lambda each: each.slot))
    chain_index.advance(slot)
    return Indexed(slot, vault_atomic, read, events)


def read_and_store(chain: ChainSession, wanted: Sequence[SignatureSeen]) -> tuple[int, int]:
    """Read these transactions and store their events; returns how many were shown, and how many events are new."""
    shown = new = 0
    for start in range(0, len(wanted), _STORED_TOGETHER):
        part = wanted[start : start + _STORED_TOGETHER]
        answers = chain.run(read_transactions(chain.client, part))
        missing = [seen for seen, answer in zip(part, answers, strict=True) if answer is None]
        found = []
        for seen, answer in zip(part, answers, strict=True):
            if isinstance(answer, DecodeError):
                log.error("chain_transaction_unreadable", signature=seen.signature, error=str(answer))
                chain_index.store_unreadable(seen, error=str(answer))
            elif answer is not None:
                found.append(ReadTransaction(seen, answer))
        new += chain_index.store(found)
        shown += len(found)
        if missing:
            log.warning("chain_transactions_missing", count=len(missing), first=missing[0].signature)
            chain_index.store_missing(missing)
    return shown, new


@dataclass(frozen=True, slots=True)
class Listed:
    """Successful transactions above a slot, the newest first. `met` says that the history reached one at or below it;
    `is_cut` that there was no time to list all of them."""

    seen: list[SignatureSeen]
    met: bool = False
    is_cut: bool = False


async def list_down_to(client: ChainClient, floor: int, *, seconds: float = math.inf) -> Listed:
    """The event authority's history above slot `floor`, as much of it as is listed within about `seconds`."""
    network = client.network
    if network is None:
        raise ValueError("this client was made without a network")
    seen: list[SignatureSeen] = []
    before, limit, ends = None, _FIRST_PAGE, time.monotonic() + seconds
    while True:
        page = await client.signatures_of(network.event_authority(), before=before, limit=limit)
        seen += [each for each in page if each.slot > floor and not each.failed]
        if page and page[-1].slot <= floor:
            return Listed(seen, met=True)
        if len(page) < limit:
            return Listed(seen)
        if time.monotonic() >= ends:
            return Listed(seen, is_cut=True)
        before, limit = page[-1].signature, SIGNATURES_PER_CALL_MAX


async def read_transactions(
    client: ChainClient, wanted: Sequence[SignatureSeen]
) -> list[Sequence[Recorded] | DecodeError | None]:
    """What each transaction recorded; None for one that the server does not show (yet)."""
    slots = asyncio.Semaphore(_CONCURRENT_READS)

    async def read(seen: SignatureSeen) -> Sequence[Recorded] | DecodeError | None:
        async with slots:
            try:
                return await client.events(seen.signature, "finalized")
            except DecodeError as error:
                return error

    return await asyncio.gather(*(read(each) for each in wanted))
