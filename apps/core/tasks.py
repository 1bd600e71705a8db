"""Enqueueing after commit, and the task that keeps partitions ahead of time."""

from typing import Any

import structlog
from celery import current_app, shared_task
from django.db import transaction
from kombu.exceptions import OperationalError

log = structlog.get_logger(__name__)


def enqueue(name: str, *args: Any) -> None:
    """Send the task `name` once the surrounding transaction has committed (at once outside of one).

    `args` are ids and other JSON values. A broker that is down loses the message, not the work: every task is also
    run by the beat schedule, so this only makes it sooner.
    """
    transaction.on_commit(lambda: _send(name, args))


def _send(name: str, args: tuple[Any, ...]) -> None:
    try:
        current_app.send_task(name, args=args, retry=False)
    except OperationalError as error:
        log.warning("enqueue_failed", task=name, error=str(error))


@shared_task(name="core.ensure_partitions")  # type: ignore[untyped-decorator, unused-ignore]
def ensure_partitions() -> int:
    """Create the missing partitions of every registered table; returns how many were created."""
    from apps.core import partitions

    return sum(len(partitions.ensure(table)) for table in partitions.registered())
