"""The change stream's entries. Whoever changes what decides whether an agent may spend notes it in the same
transaction.

An entry says that something changed, not what: gateways are told how things are when they read it.
"""

from collections.abc import Iterable
from typing import Final

from django.db import transaction
from django.utils import timezone

from apps.payments.models import AgentChange
from apps.payments.selectors.changes import KEPT

_NETWORK: Final = ""


def note(agents: Iterable[str]) -> None:
    """Tell the gateways of `agents` that bond, claims, withdrawal, status, limits or leases changed. Call it
    inside the transaction that changes them."""
    _write(sorted(set(agents)))


def note_network() -> None:
    """Tell every gateway that the network's rules changed, inside the transaction that changes them."""
    _write([_NETWORK])


def forget_old() -> int:
    """Delete entries that nobody needs any more; returns how many."""
    deleted, _ = AgentChange.objects.filter(noted_at__lt=timezone.now() - 2 * KEPT).delete()
    return deleted


def _write(agents: list[str]) -> None:
    if not transaction.get_connection().in_atomic_block:
        raise transaction.TransactionManagementError("a change is noted in the transaction that makes it")
    AgentChange.objects.bulk_create([AgentChange(agent=agent) for agent in agents])
