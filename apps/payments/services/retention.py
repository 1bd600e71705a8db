"""Deletes what nothing refers to any more, a bounded part at a time: ended leases and day totals.

What money rests on is never deleted here: a lease decides who is paid first of a bond that does not cover everything,
so it stays until the chain has settled every charge it covered, reversed ones included.
"""

from datetime import UTC, timedelta
from typing import Final

from django.conf import settings
from django.db import connection
from django.utils import timezone

_DELETED_AT_ONCE: Final = 10_000

_FORGET_LEASES: Final = """
DELETE FROM payments_lease WHERE id IN (
    SELECT l.id FROM payments_lease l JOIN payments_channel c ON c.address = l.channel
    WHERE l.state <> 'LIVE' AND l.ended_at < %s
        AND least(l.up_to_atomic, l.ended_total_atomic) <= c.settled_atomic
    ORDER BY l.ended_at LIMIT %s
)
"""


_FORGET_DAYS: Final = """
DELETE FROM payments_agent_day WHERE (agent, day) IN (
    SELECT agent, day FROM payments_agent_day WHERE day < %s LIMIT %s
)
"""


def forget_leases() -> int:
    """Delete leases that ended `LEASES_KEPT_DAYS` ago and whose charges are all settled; returns how many."""
    before = timezone.now() - timedelta(days=settings.LEASES_KEPT_DAYS)
    with connection.cursor() as cursor:
        cursor.execute(_FORGET_LEASES, [before, _DELETED_AT_ONCE])
        return int(cursor.rowcount)


def forget_days() -> int:
    """Delete what agents were charged a day longer than `AGENT_DAYS_KEPT` ago; returns how many rows. Limits look at
    today only."""
    before = timezone.now().astimezone(UTC).date() - timedelta(days=settings.AGENT_DAYS_KEPT)
    with connection.cursor() as cursor:
        cursor.execute(_FORGET_DAYS, [before, _DELETED_AT_ONCE])
        return int(cursor.rowcount)
