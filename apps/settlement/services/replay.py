"""Replaying the program's history: every event from some slot on is read again, and so is every account.

What is stored already stays as it is; what was missed is added; an event that the chain now shows differently is
reported, never overwritten. Mirrors and ledger then follow the accounts as they are, so replaying moves nothing that is
right.
"""

from dataclasses import dataclass, field
from typing import Final

import structlog

from apps.payments.services import chain_index
from apps.payments.services.chain_index import ReadTransaction
from apps.settlement.chain import ChainSession
from apps.settlement.services.index import list_down_to, read_and_store, read_transactions
from apps.settlement.services.sync import take_everything
from machpay.chain.errors import DecodeError

log = structlog.get_logger(__name__)

_READ_TOGETHER: Final = 200


@dataclass(slots=True)
class Replayed:
    """What a replay found: `listed` transactions in the history, `events` that were new, transactions that are not
    shown (`missing`), and those whose stored events the chain does not show like that (`differing`). `slot` is what the
    ledger followed afterwards, `moved` whether that moved any money."""

    from_slot: int
    listed: int = 0
    events: int = 0
    missing: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    slot: int = 0
    moved: bool = False


def replay(chain: ChainSession, *, from_slot: int) -> Replayed:
    """Read the history from `from_slot` on again, then every account. Safe to repeat, and beside everything else.

    Raises `RpcUnavailable`; what was stored by then stays.
    """
    result = Replayed(from_slot)
    listed = chain.run(list_down_to(chain.client, from_slot - 1)).seen[::-1]
    result.listed = len(listed)
    for start in range(0, len(listed), _READ_TOGETHER):
        part = listed[start : start + _READ_TOGETHER]
        known = {each.signature for each in part} - chain_index.not_read(each.signature for each in part)
        _, new = read_and_store(chain, [each for each in part if each.signature not in known])
        result.events += new
        stored = [each for each in part if each.signature in known]
        shown = chain.run(read_transactions(chain.client, stored))
        for seen, events in zip(stored, shown, strict=True):
            if events is None:
                result.missing.append(seen.signature)
            elif isinstance(events, DecodeError) or chain_index.differing(ReadTransaction(seen, events)):
                result.differing.append(seen.signature)
        result.missing += sorted(chain_index.not_read(each.signature for each in part))
    applied = take_everything(chain, f"replay from slot {from_slot}")
    result.slot, result.moved = applied.slot, applied.applied and applied.moved
    log.info("chain_replayed", from_slot=from_slot, listed=result.listed, new_events=result.events)
    return result
