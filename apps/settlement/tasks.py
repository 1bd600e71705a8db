"""What beat runs for recon. Thin: open the chain, call one service, and turn what stops everybody into one
line of log.

Each task is safe to run twice and by several workers at once, and its next run does what this one could
not.
"""

from collections.abc import Callable

import structlog
from celery import shared_task
from django.db import InterfaceError, InternalError, OperationalError

from apps.core.errors import DomainError
from apps.settlement import chain
from apps.settlement.services.anchor import commit_batch
from apps.settlement.services.custody import sync_deposits
from apps.settlement.services.follow import follow
from apps.settlement.services.fraud import look_for_fraud
from apps.settlement.services.payouts import follow_payouts, pay_payouts
from apps.settlement.services.reconcile import reconcile
from apps.settlement.services.settle import settle
from apps.settlement.services.solvency import watch_solvency
from apps.settlement.services.sweep import sweep
from apps.settlement.services.sync import sync_chain
from apps.settlement.services.tables import extend_tables
from apps.settlement.services.watch import watch_confirmed
from machpay.chain.errors import ChainError

log = structlog.get_logger(__name__)


@shared_task(name="settlement.settle")  # type: ignore[untyped-decorator, unused-ignore]
def settle_channels() -> None:
    """Pay every channel that is due. Fraud first: who is caught is proven before anything is netted, and its vendors
    are then paid with everybody's, from what it forfeits."""

    def check_and_settle(session: chain.ChainSession) -> None:
        look_for_fraud(session)
        settle(session)

    _run("settlement.settle", check_and_settle)


@shared_task(name="settlement.follow")  # type: ignore[untyped-decorator, unused-ignore]
def follow_transactions() -> None:
    """Find out what became of the transactions that are under way."""
    _run("settlement.follow", follow)


@shared_task(name="settlement.commit_batch")  # type: ignore[untyped-decorator, unused-ignore]
def anchor_payments() -> None:
    """Commit the Merkle root over payments that are in no batch yet, when it is time."""
    _run("settlement.commit_batch", commit_batch)


@shared_task(name="settlement.sync_chain")  # type: ignore[untyped-decorator, unused-ignore]
def mirror_chain() -> None:
    """Take over the newest finalised slot."""
    _run("settlement.sync_chain", sync_chain)


@shared_task(name="settlement.look_for_fraud")  # type: ignore[untyped-decorator, unused-ignore]
def find_fraud() -> None:
    """Look for fraud, and prove double signing to the chain."""
    _run("settlement.look_for_fraud", look_for_fraud)


@shared_task(name="settlement.watch_solvency")  # type: ignore[untyped-decorator, unused-ignore]
def suspend_and_reverse() -> None:
    """Suspend agents that owe more than they have, and take credit back that no bond covers."""
    _run("settlement.watch_solvency", lambda _chain: watch_solvency())


@shared_task(name="settlement.watch_confirmed")  # type: ignore[untyped-decorator, unused-ignore]
def watch_bonds() -> None:
    """Revoke leases of agents whose bonds are about to shrink, before that is final."""
    _run("settlement.watch_confirmed", watch_confirmed)


@shared_task(name="settlement.extend_tables")  # type: ignore[untyped-decorator, unused-ignore]
def extend_lookup_tables() -> None:
    """Put channels that pay into lookup tables."""
    _run("settlement.extend_tables", extend_tables)


@shared_task(name="settlement.settle_vendor")  # type: ignore[untyped-decorator, unused-ignore]
def settle_vendor(vendor: str) -> None:
    """Settle everything that one vendor has earned, however little: it wants to withdraw."""
    _run("settlement.settle_vendor", lambda session: settle(session, vendor=vendor, everything=True))


@shared_task(name="settlement.pay_payouts")  # type: ignore[untyped-decorator, unused-ignore]
def carry_out_payouts() -> None:
    """Follow the payouts that were sent, then send those that were asked for."""

    def follow_and_pay(session: chain.ChainSession) -> None:
        follow_payouts(session)
        pay_payouts(session)

    _run("settlement.pay_payouts", follow_and_pay)


@shared_task(name="settlement.sync_deposits")  # type: ignore[untyped-decorator, unused-ignore]
def credit_deposits() -> None:
    """Credit what came into the custodial wallet and is final."""
    _run("settlement.sync_deposits", sync_deposits)


@shared_task(name="settlement.sweep")  # type: ignore[untyped-decorator, unused-ignore]
def sweep_forfeits() -> None:
    """Pay reporters and the treasury what vendors left of forfeited bonds."""
    _run("settlement.sweep", sweep)


@shared_task(name="settlement.reconcile")  # type: ignore[untyped-decorator, unused-ignore]
def reconcile_with_chain() -> None:
    """Compare vault, accounts and ledger at one finalised slot; a difference is an error in the log."""
    _run("settlement.reconcile", reconcile)


def _run(task: str, service: Callable[[chain.ChainSession], object]) -> None:
    """A chain or database that is away, a wrong configuration and refused chain state concern every run
    alike: they are logged without a traceback, and the next beat tries again. Anything else is a bug and
    passes."""
    try:
        with chain.connect() as session:
            service(session)
    except (DomainError, ChainError) as error:
        log.warning("settlement_paused", task=task, reason=type(error).__name__, detail=str(error))
    # Internal is also what a standby says that takes no writes yet.
    except (OperationalError, InterfaceError, InternalError) as error:
        log.warning("settlement_paused", task=task, reason="DatabaseUnavailable", detail=str(error).strip())
