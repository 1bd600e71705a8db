"""Paying out what vendors left of forfeited bonds: which are ready for it, and the transaction of each.

An agent has one sweep under way, kept by its row's lock. The program decides who gets what, and twice pays once.
"""

from datetime import timedelta
from typing import Final

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from apps.payments.locks import lock_agents
from apps.payments.models import AgentMirror, Channel, Settlement

# What is left after a sweep waits for claims, or for an account that cannot receive: neither changes quickly.
AFTER_ANOTHER: Final = timedelta(hours=1)
_ENDED: Final = (Settlement.State.FINALIZED, Settlement.State.FAILED)


def sweepable(*, chain_time: int, limit: int) -> list[str]:
    """Agents with something forfeited whose slashing window has ended by the chain's clock (unix seconds) and whose
    vendors have nothing to wait for: what a settlement could still pay is theirs."""
    unpaid = Channel.objects.filter(agent=OuterRef("pk")).filter(
        Q(unsettled_since__isnull=False) | Q(in_flight__isnull=False)
    )
    rows = AgentMirror.objects.filter(
        ~Exists(unpaid), forfeited_atomic__gt=0, window_end__gt=0, window_end__lte=chain_time
    ).filter(Q(sweep=None) | Q(sweep__state__in=_ENDED, sweep__ended_at__lte=timezone.now() - AFTER_ANOTHER))
    # In no order, so that those of which only claims are left hold up no other.
    return list(rows.order_by("?").values_list("agent", flat=True)[:limit])


def store_sweep(
    agent: str, *, planned_atomic: int, raw_transaction: bytes, signature: str, last_valid_block_height: int
) -> int | None:
    """Store the signed transaction; send it only after that has committed. Returns its settlement's id, None if another
    worker has one under way."""
    with transaction.atomic():
        (row,) = lock_agents([agent]).values()
        if row.sweep is not None and row.sweep.state not in _ENDED:
            return None
        row.sweep = Settlement.objects.create(
            kind=Settlement.Kind.SWEEP,
            signature=signature,
            raw_transaction=raw_transaction,
            last_valid_block_height=last_valid_block_height,
            channel_count=0,
            planned_atomic=planned_atomic,
        )
        row.save(update_fields=["sweep"])
        return row.sweep.id
