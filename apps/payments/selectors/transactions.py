"""Payments of both kinds, newest first, page by page."""

from datetime import datetime

from django.db.models import Q

from apps.payments.models import Transaction


def transactions(
    *,
    since: datetime,
    agent: str | None = None,
    vendor: str | None = None,
    user_id: int | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int = 100,
) -> list[Transaction]:
    """Payments since a time of an agent's or vendor's key or a user (as payer or payee), or of everybody. `before` is
    the (`created_at`, `id`) of the last one of the page before. `since` bounds how many months are looked through."""
    rows = Transaction.objects.filter(created_at__gte=since)
    parties = Q()
    if agent is not None:
        parties |= Q(from_agent=agent)
    if vendor is not None:
        parties |= Q(to_vendor=vendor)
    if user_id is not None:
        parties |= Q(from_agent_id=user_id) | Q(to_vendor_id=user_id)
    if before is not None:
        created_at, id_ = before
        rows = rows.filter(Q(created_at__lt=created_at) | Q(created_at=created_at, id__lt=id_))
    return list(rows.filter(parties).order_by("-created_at", "-id")[: max(1, min(limit, 500))])
