"""Periodic work of the payments app."""

from celery import shared_task

from apps.payments.services import changes, gateways, leases, retention


@shared_task(name="payments.mark_stale_gateways")
def mark_stale_gateways() -> int:
    """Show gateways that stopped reporting as down."""
    return gateways.mark_stale()


@shared_task(name="payments.free_lapsed_leases")
def free_lapsed_leases() -> int:
    """Free what gateways that fell silent had leased."""
    return leases.free_lapsed()


@shared_task(name="payments.forget_changes")
def forget_changes() -> int:
    """Delete entries of the change stream that nobody needs any more."""
    return changes.forget_old()


@shared_task(name="payments.forget_leases")
def forget_leases() -> int:
    """Delete ended leases that no unpaid charge refers to."""
    return retention.forget_leases()


@shared_task(name="payments.forget_days")
def forget_days() -> int:
    """Delete old day totals."""
    return retention.forget_days()
