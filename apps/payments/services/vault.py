"""Whether the vault holds what the ledger says: how a movement is noticed whose event was lost and whose agent is not
looked at, such as a distribution.

Part of `chain_mirror`, inside its transaction and under the chain cursor's lock. Only the program moves tokens out of
the vault, and anybody can put some in: what it holds beyond its terms, the surplus, rises and never falls. One that
falls means that something moved unseen, so all accounts are read.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

import structlog
from django.utils import timezone

from apps.ledger.chart import AccountKind
from apps.ledger.selectors import total
from apps.ledger.types import Transfer
from apps.payments.models import ChainCursor
from apps.payments.services import chain_index

log = structlog.get_logger(__name__)

IN_VAULT: Final = (AccountKind.BOND, AccountKind.FORFEITED, AccountKind.OWED)
# An address may be several servers, and the one that lists transactions a little behind the one that told the vault.
BELIEVED_AFTER: Final = timedelta(seconds=30)


def count_all(cursor: ChainCursor, mint: str) -> None:
    """All accounts were taken over: count what the vault has to hold from the ledger, and learn the surplus anew."""
    cursor.held_atomic = sum(total(kind, mint) for kind in IN_VAULT)
    _know(cursor, None)


def count(cursor: ChainCursor, transfers: Iterable[Transfer]) -> None:
    """Add what these transfers bring into the vault and take out of it."""
    if cursor.held_atomic is None:
        return
    cursor.held_atomic += sum(
        leg.amount_atomic for transfer in transfers for leg in transfer.legs if leg.account.kind in IN_VAULT
    )


def compare(cursor: ChainCursor, vault_atomic: int, slot: int) -> None:
    """Compare the vault at `slot`, which the ledger has just taken over, with what it has to hold. A difference that
    stays is believed: a higher surplus is a gift; a lower one has all accounts read."""
    if cursor.held_atomic is None:
        return
    surplus = vault_atomic - cursor.held_atomic
    if cursor.surplus_atomic is None or surplus == cursor.surplus_atomic:
        _know(cursor, surplus)
    elif cursor.surplus_seen_since is None or surplus != cursor.surplus_seen_atomic:
        cursor.surplus_seen_atomic, cursor.surplus_seen_since = surplus, timezone.now()
    elif timezone.now() - cursor.surplus_seen_since >= BELIEVED_AFTER:
        if surplus < cursor.surplus_atomic:
            missing = cursor.surplus_atomic - surplus
            log.error("vault_moved_unseen", slot=slot, missing_atomic=missing)
            chain_index.want_snapshot(f"the vault holds {missing} less than known events explain", slot=slot)
        else:
            _know(cursor, surplus)


def _know(cursor: ChainCursor, surplus: int | None) -> None:
    cursor.surplus_atomic, cursor.surplus_seen_atomic, cursor.surplus_seen_since = surplus, None, None
