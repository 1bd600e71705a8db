"""Periodic work of the ledger."""

from celery import shared_task
from django.utils import timezone

from apps.ledger.services import expire


@shared_task(name="ledger.expire_holds")
def expire_holds() -> int:
    """Give back what is held longer than it was asked for; returns how many holds ended."""
    return expire(now=timezone.now())
