"""Handing work to Celery by name, after the transaction that asks for it has committed.

A message that is lost only delays: whatever it asks for is also in rows that beat's tasks look at.
"""

from functools import partial

from celery import current_app
from django.db import transaction


def enqueue_after_commit(task: str, *args: object) -> None:
    """Send `task` once the current transaction has committed, or at once outside one; never after a rollback."""
    transaction.on_commit(partial(current_app.send_task, task, args=args))
