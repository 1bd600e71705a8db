"""Reading the change stream.

A cursor is a PostgreSQL snapshot: what had been committed when it was taken. Everything that is visible now and
was not then is new, whatever the order in which transactions began or committed; so nothing is missed and no
writer waits for another.
"""

import re
import time
from datetime import timedelta
from typing import Final

from django.db import connection

from apps.payments.models import NetworkRules
from machpay.protocol.changes import Change, ChangesAnswer
from machpay.protocol.changes import NetworkRules as Rules
from machpay.protocol.snapshots import Limits

KEPT: Final = timedelta(hours=1)
"""A gateway that was away for longer asks about its agents again."""
MAX_CURSOR: Final = 8_192
_CURSOR: Final = re.compile(r"([0-9]{1,12})\.([0-9]+:[0-9]+:[0-9,]*)")
CHANGES_MAX: Final = 1_000

_READ: Final = """
SELECT a.agent, a.status, a.stopped, a.limit_per_call_atomic, a.limit_per_day_atomic, a.bond_atomic,
       a.pending_withdrawal_atomic, a.open_claims_atomic,
       greatest(a.slot, (SELECT max(slot) FROM payments_chain_cursor)),
       coalesce(array_agg(l.id::text) FILTER (WHERE l.id IS NOT NULL), '{}')
FROM (
    SELECT DISTINCT c.agent FROM payments_agent_change c
    WHERE c.xid >= pg_snapshot_xmin(%(seen)s) AND NOT pg_visible_in_snapshot(c.xid, %(seen)s)
) n
JOIN payments_agent a ON a.agent = n.agent
JOIN payments_channel h ON h.agent = a.agent AND h.gateway = %(gateway)s
LEFT JOIN payments_lease l ON l.channel = h.address AND l.state = 'LIVE' AND l.revoked_at IS NOT NULL
GROUP BY a.agent
LIMIT %(most)s
"""
_ANY: Final = """
SELECT EXISTS (
    SELECT 1 FROM payments_agent_change c
    WHERE c.xid >= pg_snapshot_xmin(%(seen)s) AND NOT pg_visible_in_snapshot(c.xid, %(seen)s)
)
"""


def now_cursor() -> str:
    """A cursor after everything that has happened."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_snapshot()::text")
        return _cursor(cursor.fetchone()[0])


def anything_since(cursor_text: str) -> bool:
    """Whether any agent or the rules changed since."""
    seen = _parse(cursor_text)
    if seen is None:
        return True
    with connection.cursor() as cursor:
        cursor.execute(_ANY, {"seen": seen})
        return bool(cursor.fetchone()[0])


def changes_since(cursor_text: str | None, *, gateway: str) -> ChangesAnswer:
    """What changed for agents that have a channel with `gateway`. Without a cursor: nothing yet, and where to
    begin."""
    seen = None if cursor_text is None else _parse(cursor_text)
    # Taken first: what commits in between is told twice rather than never.
    following = now_cursor()
    rules = NetworkRules.objects.first() or NetworkRules()
    answer = ChangesAnswer(
        cursor=following,
        changes=[],
        rules=Rules(
            mode="optimistic" if rules.mode == NetworkRules.Mode.OPTIMISTIC else "lease",
            cap=None if rules.cap_atomic is None else str(rules.cap_atomic),
            halted=rules.halted,
        ),
        reset=cursor_text is not None and seen is None,
    )
    if seen is None:
        return answer
    with connection.cursor() as cursor:
        cursor.execute(_READ, {"seen": seen, "gateway": gateway, "most": CHANGES_MAX + 1})
        rows = cursor.fetchall()
    answer.reset = len(rows) > CHANGES_MAX
    answer.changes = [
        Change(
            agent=agent,
            status=effective_status(status, stopped),
            limits=Limits(
                per_call=None if per_call is None else str(per_call),
                per_day=None if per_day is None else str(per_day),
            ),
            bond=str(bond),
            pending_withdrawal=str(pending),
            claims=str(claims),
            slot=slot or 0,
            revoked=revoked,
        )
        for agent, status, stopped, per_call, per_day, bond, pending, claims, slot, revoked in rows
    ]
    return answer


def effective_status(status: str, stopped: bool) -> str:
    """What gateways are told: an agent whose kill switch is on is STOPPED, unless the network's own decision is
    harder."""
    return "STOPPED" if stopped and status == "ACTIVE" else status


def _cursor(snapshot: str) -> str:
    return f"{int(time.time())}.{snapshot}"


def _parse(text: str) -> str | None:
    """The snapshot inside a cursor, or None if it is none of ours, or older than entries are kept."""
    found = _CURSOR.fullmatch(text) if len(text) <= MAX_CURSOR else None
    if found is None or int(found[1]) < time.time() - KEPT.total_seconds():
        return None
    snapshot = found[2]
    with connection.cursor() as cursor:
        # Another cluster's numbers mean nothing here; ours are never ahead of the next transaction.
        cursor.execute(
            "SELECT pg_input_is_valid(%(text)s::text, 'pg_snapshot')"
            " AND pg_snapshot_xmax(CASE WHEN pg_input_is_valid(%(text)s::text, 'pg_snapshot') THEN %(text)s"
            " ELSE '1:1:' END::pg_snapshot) <= pg_snapshot_xmax(pg_current_snapshot())",
            {"text": snapshot},
        )
        return snapshot if cursor.fetchone()[0] else None
