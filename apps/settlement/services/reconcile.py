"""Reconciliation: at one finalised slot, what the vault holds is what the accounts add up to, and what the ledger says.

    vault = sum of bonds + sum of owed + sum of forfeited + surplus
    custodial wallet = sum of custodial balances + payouts under way + unclaimed deposits

Each term is compared agent by agent and vendor by vendor; what only this database knows (unsettled, uncollected)
against the channels' own totals. The surplus is what strangers sent to the vault; it is never negative. Nothing is
corrected here: a difference is reported with the agent or vendor it belongs to, and people find out why.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final, Self

import structlog
from django.contrib.auth import get_user_model
from django.db import connection, transaction

from apps.core import live
from apps.core.errors import DomainError
from apps.ledger import chart
from apps.ledger.chart import AccountKind
from apps.ledger.selectors import balance, balances, trial_balance
from apps.ledger.types import Book
from apps.payments import models
from apps.payments.models import Channel
from apps.payments.services.chain_mirror import apply_chain_snapshot
from apps.settlement.chain import ChainSession
from apps.settlement.errors import SettlementPaused
from apps.settlement.services.announce import announce
from apps.settlement.services.custody import CustodyTerm, compare_custody
from apps.settlement.services.sync import newest_transactions
from machpay.chain.client import Snapshot
from machpay.chain.errors import ChainError
from machpay.protocol.encoding import to_rfc3339

log = structlog.get_logger(__name__)

# The vault is another program's account and is read apart from ours. Its reading counts when it was the same
# before and after; a payment that lands in between asks for another look.
_LOOKS_MAX: Final = 40
_LOOK_PAUSE_S: Final = 0.1
_DIFFERENCES_KEPT: Final = 1_000
# A vault that changed and changed back between the two readings looks like a difference, once.
_MISMATCHES_BEFORE_BELIEF: Final = 3

Owner = tuple[str, str]
"""Whose amount: (agent, "") or (vendor, gateway)."""

# What the chain does not know: the books against the channels' own totals, by the same owners.
_OWN_TERMS: Final = (AccountKind.SPENT_UNSETTLED, AccountKind.UNSETTLED, AccountKind.UNCOLLECTED)
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
class Line:
    """One agent's or one vendor's part of a term. `gateway` is empty for agents."""

    term: str
    owner: str
    gateway: str
    chain_atomic: int
    ledger_atomic: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Both sides at finalised `slot`. `surplus_atomic` is what the vault holds beyond its terms; `lines` has every part
    that is not zero on both sides, `custody` the custodial wallet where there is one."""

    slot: int
    vault_atomic: int
    surplus_atomic: int
    trial_balance_atomic: int
    terms: tuple[Term, ...]
    lines: tuple[Line, ...]
    custody: CustodyTerm | None = None

    @property
    def differences(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.chain_atomic != line.ledger_atomic)

    @property
    def ok(self) -> bool:
        return (
            not self.differences
            and not self.trial_balance_atomic
            and self.surplus_atomic >= 0
            and all(term.chain_atomic == term.ledger_atomic for term in self.terms)
            and (self.custody is None or not self.custody.difference_atomic)
        )


@dataclass(frozen=True, slots=True)
class Books:
    """The ledger's side: balances by kind of account, and what ever came in; and what the channels' totals say about
    the terms that only this database knows."""

    by_kind: Mapping[AccountKind, Mapping[Owner, int]]
    by_channels: Mapping[AccountKind, Mapping[Owner, int]]
    deposited: int
    trial_balance: int

    @classmethod
    def read(cls, mint: str) -> Self:
        """Of one moment only inside a transaction that reads one snapshot of the database."""
        totals = {each.currency: each.total_atomic for each in trial_balance() if each.book == Book.MAIN}
        return cls(
            by_kind={kind: balances(kind, mint) for kind in (*_AGENT_TERMS, *_VENDOR_TERMS, *_OWN_TERMS)},
            by_channels=_channel_side(),
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
    try:
        found = replace(found, custody=compare_custody(chain))
    except (DomainError, ChainError):
        # A custodial wallet that cannot be looked at keeps no difference of the vault from anybody.
        if not found.ok:
            store(found)
            _report(found)
        raise
    store(found)
    _report(found)
    return found


def compare(snapshot: Snapshot, vault_atomic: int, books: Books) -> Reconciliation:
    """Both sides, term by term. Pure."""
    chain = {**_chain_side(snapshot), **books.by_channels}
    terms, lines = [], []
    for kind in (*_AGENT_TERMS, *_VENDOR_TERMS, *_OWN_TERMS):
        theirs, ours = chain[kind], books.by_kind[kind]
        terms.append(Term(kind.value, sum(theirs.values()), sum(ours.values())))
        lines += [
            Line(kind.value, *owner, theirs.get(owner, 0), ours.get(owner, 0))
            for owner in sorted(theirs.keys() | ours.keys())
            if theirs.get(owner, 0) or ours.get(owner, 0)
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
        lines=tuple(lines),
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


def _channel_side() -> Mapping[AccountKind, Mapping[Owner, int]]:
    sums: dict[AccountKind, Counter[Owner]] = {kind: Counter() for kind in _OWN_TERMS}
    columns = ("agent_id", "vendor", "gateway_id", "credited_atomic", "settled_atomic", "uncollected_atomic")
    for agent, vendor, gateway, credited, settled, uncollected in Channel.objects.values_list(*columns):
        sums[AccountKind.SPENT_UNSETTLED][agent, ""] -= credited - settled
        sums[AccountKind.UNSETTLED][vendor, gateway] += credited - settled - uncollected
        sums[AccountKind.UNCOLLECTED][vendor, gateway] += uncollected
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
    transactions = newest_transactions()
    announce(apply_chain_snapshot(snapshot), transactions)
    books = _books_at(snapshot.slot, str(chain.network.mint))
    return None if books is None else compare(snapshot, before, books)


def _books_at(slot: int, mint: str) -> Books | None:
    """Ledger and channels as of one moment at which they follow `slot`; None if another worker took them further."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            # Charges are stored all the time: everything below is read from one snapshot of the database.
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        followed = models.ChainCursor.objects.values_list("slot", flat=True).first()
        return Books.read(mint) if followed == slot else None


def store(found: Reconciliation) -> None:
    """Keep the result: dashboards and alarms read the newest one."""
    models.Reconciliation.objects.create(
        slot=found.slot,
        equal=found.ok,
        terms=_facts(found),
        differences=[
            asdict(line) | {"chain_atomic": str(line.chain_atomic), "ledger_atomic": str(line.ledger_atomic)}
            for line in found.differences[:_DIFFERENCES_KEPT]
        ],
    )


def _facts(found: Reconciliation) -> dict[str, int]:
    facts = {
        "vault_atomic": found.vault_atomic,
        "surplus_atomic": found.surplus_atomic,
        "trial_balance_atomic": found.trial_balance_atomic,
        **{f"{term.name}_atomic": term.chain_atomic for term in found.terms},
    }
    if found.custody is not None:
        facts["custodial_wallet_atomic"] = found.custody.wallet_atomic
        facts["custodial_difference_atomic"] = found.custody.difference_atomic
    return facts


def _report(found: Reconciliation) -> None:
    """One line a run, to be alarmed on: `reconciled`, or `reconciliation_mismatch` with what differs, which staff see
    on their live pages too."""
    facts = {"slot": found.slot, **_facts(found)}
    if found.ok:
        log.info("reconciled", **facts)
        return
    worst = [f"{each.term} of {each.owner}" for each in found.differences[:10]]
    log.error("reconciliation_mismatch", differences=len(found.differences), first_differences=worst, **facts)
    alert = {
        "type": "reconciliation_mismatch",
        "time": to_rfc3339(int(time.time())),
        "slot": found.slot,
        "differences": len(found.differences),
        "first_differences": worst,
        "surplus_atomic": str(found.surplus_atomic),
    }
    for staff in get_user_model().objects.filter(is_staff=True, is_active=True).values_list("pk", flat=True):
        live.publish(f"user:{staff}", "alert", alert)
