"""The task that keeps partitions ahead of time."""

from celery import shared_task

from apps.core import partitions


@shared_task(name="core.ensure_partitions")
def ensure_partitions() -> int:
    """Create the missing partitions of every registered table; returns how many were created."""
    return sum(len(partitions.ensure(table)) for table in partitions.registered())
