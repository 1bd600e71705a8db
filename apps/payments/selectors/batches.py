"""How far the anchoring of payments is."""

from dataclasses import dataclass
from datetime import datetime

from apps.payments.models import Batch, UnbatchedPayment


@dataclass(frozen=True, slots=True)
class LastBatch:
    """The newest batch; `head` is the chain's after it."""

    sequence: int
    head: bytes
    cut_at: datetime
    committed: bool


def last_batch() -> LastBatch | None:
    """The batch with the highest sequence, None before the first."""
    row = Batch.objects.order_by("-sequence").first()
    if row is None:
        return None
    return LastBatch(row.sequence, bytes(row.head), row.cut_at, row.state == Batch.State.COMMITTED)


def payments_wait() -> bool:
    """Whether a payment is in no batch yet."""
    return UnbatchedPayment.objects.exists()
