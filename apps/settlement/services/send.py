"""Sends stored transactions. Nothing is ever sent that the database does not hold, and every send is
recorded before it leaves."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from apps.payments.services.settlements import begin_sends, mark_failed, mark_unknown
from apps.settlement.chain import ChainSession
from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError, RpcUnavailable, TransactionFailed, TransactionRejected

log = structlog.get_logger(__name__)

_CONCURRENT_SENDS: Final = 8


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A stored settlement that should be sent; `send_count` sends were begun before."""

    settlement_id: int
    raw_transaction: bytes
    send_count: int


def send_all(chain: ChainSession, outgoing: Sequence[Outgoing]) -> int:
    """Send each transaction whose turn it still is; returns how many the RPC server took.

    A refused first send ends its settlement as FAILED: these bytes were never anywhere else. A refused
    repetition says nothing, because the transaction may have landed meanwhile. No answer leaves UNKNOWN,
    which only a look-up ends.

    Raises `RpcUnavailable` after everything is recorded, if there was one.
    """
    if not outgoing:
        return 0
    turns = begin_sends({item.settlement_id: item.send_count for item in outgoing})
    begun = [item for item in outgoing if item.settlement_id in turns]
    if not begun:
        return 0
    outcomes = chain.run(_send(chain.client, [item.raw_transaction for item in begun]))
    for item, error in zip(begun, outcomes, strict=True):
        if isinstance(error, RpcUnavailable):
            mark_unknown(item.settlement_id, error=str(error))
        elif error is not None:
            _refused(item, error)
    for error in outcomes:
        if isinstance(error, RpcUnavailable):
            raise error
    return sum(error is None for error in outcomes)


def _refused(item: Outgoing, error: ChainError) -> None:
    if item.send_count == 0:
        mark_failed(item.settlement_id, error=str(error), send_count=1)
        log.warning("settlement_refused", settlement=item.settlement_id, error=str(error))
    else:
        log.info("settlement_resend_refused", settlement=item.settlement_id, error=str(error))


async def _send(client: ChainClient, transactions: Sequence[bytes]) -> list[ChainError | None]:
    """None for a transaction that was taken, else what the RPC server answered or failed to answer."""
    slots = asyncio.Semaphore(_CONCURRENT_SENDS)

    async def send(raw: bytes) -> ChainError | None:
        async with slots:
            try:
                await client.send(raw)
            except (TransactionRejected, TransactionFailed, RpcUnavailable) as error:
                return error
            return None

    return await asyncio.gather(*(send(raw) for raw in transactions))
