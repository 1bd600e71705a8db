"""Since when a relayer answers: leases end their grace only while gateways can deliver."""

from datetime import timedelta
from typing import Final

from django.db import connection
from django.utils import timezone

from apps.payments.models import RelayerPulse

EVERY: Final = timedelta(seconds=3)
AWAY_AFTER: Final = timedelta(seconds=15)

_BEAT: Final = """
INSERT INTO payments_relayer_pulse AS p (id, up_since, last_at) VALUES (1, now(), now())
ON CONFLICT (id) DO UPDATE SET
    up_since = CASE WHEN p.last_at < now() - %s::interval THEN now() ELSE p.up_since END, last_at = now()
"""


def beat() -> None:
    """A relayer is there. Every relayer process calls this, every `EVERY`."""
    with connection.cursor() as cursor:
        cursor.execute(_BEAT, [str(AWAY_AFTER)])


def reachable_for() -> timedelta | None:
    """How long gateways have been able to deliver without a break: nothing while no relayer is there, None if none ever
    was, and so nothing can wait for it."""
    row = RelayerPulse.objects.first()
    if row is None:
        return None
    now = timezone.now()
    return timedelta(0) if row.last_at < now - AWAY_AFTER else now - row.up_since
