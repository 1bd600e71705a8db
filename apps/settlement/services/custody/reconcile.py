"""Reconciliation's custodial term: the wallet holds every user's balance, what payouts have set aside, and what nobody
has claimed yet.

    wallet = sum of spendable balances + payouts under way + unclaimed deposits
"""

import time
from dataclasses import dataclass
from typing import Final

from django.conf import settings

from apps.payments.selectors.custody import custody_books
from apps.settlement.chain import ChainSession
from apps.settlement.errors import SettlementPaused
from apps.settlement.services.custody.deposits import sync_deposits
from apps.settlement.services.custody.wallet import custodial_wallet
from apps.settlement.services.payouts.follow import follow_payouts

# The wallet is read before and after the books; a transfer that becomes final in between asks for another look.
_LOOKS_MAX: Final = 20
_LOOK_PAUSE_S: Final = 0.1
_MISMATCHES_BEFORE_BELIEF: Final = 3


@dataclass(frozen=True, slots=True)
class CustodyTerm:
    """Both sides at one finalised moment."""

    wallet_atomic: int
    spendable_atomic: int
    held_atomic: int
    unclaimed_atomic: int

    @property
    def difference_atomic(self) -> int:
        """What the wallet has beyond the ledger; zero, or something is wrong."""
        return self.wallet_atomic - self.spendable_atomic - self.held_atomic - self.unclaimed_atomic


def compare_custody(chain: ChainSession) -> CustodyTerm | None:
    """Take over what is final, then compare; None on a network that keeps nobody's money (no `CUSTODY_KEYPAIR`).

    Raises `SettlementPaused` while the wallet never rests long enough to be read, `ChainError`.
    """
    if not settings.CUSTODY_KEYPAIR:
        return None
    wallet = custodial_wallet(chain)
    found: CustodyTerm | None = None
    mismatches = 0
    for look in range(_LOOKS_MAX):
        if look:
            time.sleep(_LOOK_PAUSE_S)
        sync_deposits(chain)
        follow_payouts(chain)
        before = chain.run(chain.client.token_balance(wallet, "finalized"))
        books = custody_books(str(chain.network.mint))
        after = chain.run(chain.client.token_balance(wallet, "finalized"))
        if before != after:
            continue
        found = CustodyTerm(before, books.spendable_atomic, books.held_atomic, books.unclaimed_atomic)
        mismatches += found.difference_atomic != 0
        if not found.difference_atomic or mismatches == _MISMATCHES_BEFORE_BELIEF:
            break
    if found is None:
        raise SettlementPaused("the custodial wallet changed during every look; try again")
    return found
