"""Payments of both kinds, newest first, page by page."""

from datetime import datetime
from heapq import nlargest

from django.db.models import Q, QuerySet

from apps.payments.models import CustodialPayment, PaymentIntent, Transaction


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
    limit = max(1, min(limit, 500))
    anybody = agent is None and vendor is None and user_id is None
    parties, keys, users = Q(), Q(), Q()
    if agent is not None:
        parties |= Q(from_agent=agent)
        keys |= Q(agent=agent)
    if vendor is not None:
        parties |= Q(to_vendor=vendor)
        keys |= Q(vendor=vendor)
    if user_id is not None:
        parties |= Q(from_agent_id=user_id) | Q(to_vendor_id=user_id)
        users |= Q(payer=user_id) | Q(payee=user_id)
    # The view cannot stop after a page: it is asked for the page's times only, which the tables' own indexes know.
    times: list[datetime] = []
    if keys or anybody:
        charged = PaymentIntent.objects.filter(keys, nonce_time__gte=since, charged_atomic__gt=0)
        times += _newest(charged, "nonce_time", before, limit)
    if users or anybody:
        paid = CustodialPayment.objects.filter(users, created_at__gte=since)
        times += _newest(paid, "created_at", before, limit)
    newest = nlargest(limit, times)
    rows = Transaction.objects.filter(parties, created_at__gte=newest[-1] if len(newest) == limit else since)
    if before is not None:
        created_at, id_ = before
        rows = rows.filter(created_at__lte=created_at)
        rows = rows.filter(Q(created_at__lt=created_at) | Q(id__lt=id_))
    return list(rows.order_by("-created_at", "-id")[:limit])


def _newest(
    rows: QuerySet[PaymentIntent] | QuerySet[CustodialPayment],
    time: str,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[datetime]:
    """The times of the newest `limit` rows older than `before`."""
    if before is not None:
        rows = rows.filter(**{f"{time}__lt": before[0]})
    return list(rows.order_by(f"-{time}").values_list(time, flat=True)[:limit])
