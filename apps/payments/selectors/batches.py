"""How far the anchoring of payments is."""

from dataclasses import dataclass
from datetime import datetime

from apps.payments.models import Batch, UnbatchedPayment


@dataclass(frozen=True, slots=True)
class LastBatch:
    """The newest batch; `head` is the chain's after it."""

    sequence: int
    head: bytes
    leaf_count: int
    cut_at: datetime


def last_batch() -> LastBatch | None:
    """The batch with the highest sequence, None before the first."""
    row = Batch.objects.order_by("-sequence").first()
    if row is None:
        return None
    return LastBatch(row.sequence, bytes(row.head), row.leaf_count, row.cut_at)


def payments_wait() -> bool:
    """Whether a payment is in no batch yet."""
    return UnbatchedPayment.objects.exists()
