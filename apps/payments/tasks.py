"""Periodic work of the payments app."""

from celery import shared_task

from apps.payments.services import gateways


@shared_task(name="payments.mark_stale_gateways")
def mark_stale_gateways() -> int:
    """Show gateways that stopped reporting as down."""
    return gateways.mark_stale()
