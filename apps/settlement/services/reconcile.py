"""Reconciliation: at one finalised slot, what the vault holds is what the accounts add up to, and what the ledger says.

    vault = sum of bonds + sum of owed + sum of forfeited + surplus

The surplus is what strangers sent to the vault; it is never negative. Nothing is corrected here: a difference
is reported with the agent or vendor it belongs to, and people find out why.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import structlog
from django.db import transaction

from apps.ledger import chart
from apps.ledger.chart import AccountKind
from apps.ledger.selectors import balance, balances, trial_balance
from apps.ledger.types import Book
from apps.payments.services.chain_mirror import apply_chain_snapshot
from apps.settlement.chain import ChainSession
from apps.settlement.errors import SettlementPaused
from apps.settlement.services.announce import announce
from apps.settlement.services.sync import newest_transactions
from machpay.chain.client import Snapshot

log = structlog.get_logger(__name__)

# The vault is another program's account and is read apart from ours. Its reading counts when it was the same
# before and after; a payment that lands in between asks for another look.
_LOOKS_MAX: Final = 40
_LOOK_PAUSE_S: Final = 0.1
# A vault that changed and changed back between the two readings looks like a difference, once.
_MISMATCHES_BEFORE_BELIEF: Final = 3

Owner = tuple[str, str]
"""Whose amount: (agent, "") or (vendor, gateway)."""

_AGENT_TERMS: Final = (AccountKind.BOND, AccountKind.FORFEITED, AccountKind.WITHDRAWN, AccountKind.SWEPT)
_VENDOR_TERMS: Final = (AccountKind.OWED, AccountKind.SETTLED)
_IN_VAULT: Final = (AccountKind.BOND, AccountKind.OWED, AccountKind.FORFEITED)


@dataclass(frozen=True, slots=True)
class Term:
    """One sum on both sides."""

    name: str
    chain_atomic: int
    ledger_atomic: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One agent's or one vendor's part of a term that differs. `gateway` is empty for agents."""

    term: str
    owner: str
    gateway: str
    chain_atomic: int
    ledger_atomic: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Both sides at finalised `slot`. `surplus_atomic` is what the vault holds beyond its terms."""

    slot: int
    vault_atomic: int
    surplus_atomic: int
    trial_balance_atomic: int
    terms: tuple[Term, ...]
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return (
            not self.differences
            and not self.trial_balance_atomic
            and self.surplus_atomic >= 0
            and all(term.chain_atomic == term.ledger_atomic for term in self.terms)
        )


@dataclass(frozen=True, slots=True)
class Books:
    """The ledger's side: balances by kind of account, and what ever came in."""

    by_kind: Mapping[AccountKind, Mapping[Owner, int]]
    deposited: int
    trial_balance: int

    @classmethod
    def read(cls, mint: str) -> Self:
        """Consistent with the chain cursor only while its lock is held."""
        totals = {each.currency: each.total_atomic for each in trial_balance() if each.book == Book.MAIN}
        return cls(
            by_kind={kind: balances(kind, mint) for kind in (*_AGENT_TERMS, *_VENDOR_TERMS)},
            deposited=-balance(chart.deposits(mint)),
            trial_balance=totals.get(mint, 0),
        )


def reconcile(chain: ChainSession) -> Reconciliation:
    """Compare chain and ledger at one finalised slot, which the ledger takes over first.

    Raises `SettlementPaused` if the program is not initialised, or while the vault never rests long enough to
    be read; `ChainError` if the chain is away.
    """
    found: Reconciliation | None = None
    mismatches = 0
    for look in range(_LOOKS_MAX):
        if look:
            time.sleep(_LOOK_PAUSE_S)
        seen = _look(chain)
        if seen is None:
            continue
        found, mismatches = seen, mismatches + (not seen.ok)
        if seen.ok or mismatches == _MISMATCHES_BEFORE_BELIEF:
            break
    if found is None:
        raise SettlementPaused("the vault changed during every look; try again")
    _report(found)
    return found


def compare(snapshot: Snapshot, vault_atomic: int, books: Books) -> Reconciliation:
    """Both sides, term by term. Pure."""
    chain = _chain_side(snapshot)
    terms, differences = [], []
    for kind in (*_AGENT_TERMS, *_VENDOR_TERMS):
        theirs, ours = chain[kind], books.by_kind[kind]
        terms.append(Term(kind.value, sum(theirs.values()), sum(ours.values())))
        differences += [
            Difference(kind.value, *owner, theirs.get(owner, 0), ours.get(owner, 0))
            for owner in sorted(theirs.keys() | ours.keys())
            if theirs.get(owner, 0) != ours.get(owner, 0)
        ]
    deposited = sum(account.deposited_total for account in snapshot.agents.values())
    terms.append(Term(AccountKind.DEPOSITS.value, deposited, books.deposited))
    held = sum(sum(chain[kind].values()) for kind in _IN_VAULT)
    return Reconciliation(
        slot=snapshot.slot,
        vault_atomic=vault_atomic,
        surplus_atomic=vault_atomic - held,
        trial_balance_atomic=books.trial_balance,
        terms=tuple(terms),
        differences=tuple(differences),
    )


def _chain_side(snapshot: Snapshot) -> Mapping[AccountKind, Mapping[Owner, int]]:
    sums: dict[AccountKind, Counter[Owner]] = {kind: Counter() for kind in (*_AGENT_TERMS, *_VENDOR_TERMS)}
    for agent, account in snapshot.agents.items():
        owner = (str(agent), "")
        sums[AccountKind.BOND][owner] += account.bond
        sums[AccountKind.FORFEITED][owner] += account.forfeited
        sums[AccountKind.WITHDRAWN][owner] += account.withdrawn_total
        sums[AccountKind.SWEPT][owner] += account.swept_total
    for channel in snapshot.channels.values():
        owner = (str(channel.vendor), str(channel.gateway))
        sums[AccountKind.OWED][owner] += channel.owed
        sums[AccountKind.SETTLED][owner] += channel.settled - channel.owed
    return sums


def _look(chain: ChainSession) -> Reconciliation | None:
    """One comparison; None if the vault moved meanwhile, or another worker has taken the ledger further."""
    vault = chain.network.vault()
    before = chain.run(chain.client.token_balance(vault, "finalized"))
    snapshot = chain.run(chain.client.program_accounts("finalized"))
    after = chain.run(chain.client.token_balance(vault, "finalized"))
    if snapshot.bond is None:
        raise SettlementPaused("the program is not initialised for this mint")
    if before != after:
        return None
    with transaction.atomic():
        # It locks the chain cursor, so until the commit nobody takes the ledger to another slot.
        transactions = newest_transactions()
        applied = apply_chain_snapshot(snapshot)
        books = Books.read(str(chain.network.mint)) if applied.slot == snapshot.slot else None
    announce(applied, transactions)
    return None if books is None else compare(snapshot, before, books)


def _report(found: Reconciliation) -> None:
    """One line a run, to be alarmed on: `reconciled`, or `reconciliation_mismatch` with what differs."""
    facts = {
        "slot": found.slot,
        "vault_atomic": found.vault_atomic,
        "surplus_atomic": found.surplus_atomic,
        "trial_balance_atomic": found.trial_balance_atomic,
        **{f"{term.name}_atomic": term.chain_atomic for term in found.terms},
    }
    if found.ok:
        log.info("reconciled", **facts)
    else:
        worst = [f"{each.term} of {each.owner}" for each in found.differences[:10]]
        log.error(
            "reconciliation_mismatch", differences=len(found.differences), first_differences=worst, **facts
        )
