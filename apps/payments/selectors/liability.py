"""What an agent can still be trusted with, as one snapshot of the database.

Read with a single SQL statement, so every number belongs to the same moment; and to the same chain slot, since mirrors
and settlements are written together.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db import connection
from django.utils import timezone

from apps.payments.selectors.changes import effective_status
from machpay.protocol.encoding import U64_MAX, to_b64, to_rfc3339
from machpay.protocol.snapshots import (
    ChannelState,
    GatewayLiability,
    Lease,
    LiabilityAnswer,
    Limits,
    Snapshot,
)

_READ: Final = """
SELECT a.status, a.stopped, a.bond_atomic, a.pending_withdrawal_atomic, a.open_claims_atomic,
       a.limit_per_call_atomic, a.limit_per_day_atomic,
       greatest(a.slot, (SELECT max(slot) FROM payments_chain_cursor)),
       CASE WHEN a.limit_per_day_atomic IS NOT NULL THEN (
           SELECT coalesce(sum(d.charged_atomic), 0) FROM payments_agent_day d WHERE d.agent = a.agent AND d.day >= %s
       ) END,
       r.mode, r.cap_atomic,
       c.gateway, c.address, c.charged_total_atomic, c.settled_atomic,
       c.highest_cumulative_atomic, c.highest_context, c.highest_signature, l.id, l.up_to_atomic, l.expires_at
FROM payments_agent a
LEFT JOIN payments_rules r ON r.id = 1
LEFT JOIN payments_channel c ON c.agent = a.agent
LEFT JOIN payments_lease l ON l.channel = c.address AND l.state = 'LIVE'
WHERE a.agent = %s
ORDER BY c.gateway
"""


class _Row(NamedTuple):
    """One channel of the agent; the agent's own columns are the same in every row."""

    status: str
    stopped: bool
    bond: int
    pending_withdrawal: int
    claims: int
    per_call: int | None
    per_day: int | None
    slot: int
    spent_today: int | None
    mode: str | None
    cap: int | None
    gateway: str | None
    address: str
    charged: int
    settled: int
    highest: int
    context: bytes | None
    signature: bytes | None
    lease_id: UUID | None
    up_to: int
    expires_at: datetime | None

    @property
    def liability(self) -> int:
        return max(0, int(self.charged) - int(self.settled))

    @property
    def leased(self) -> int:
        """What is left of the channel's lease."""
        return 0 if self.lease_id is None else max(0, int(self.up_to) - int(self.charged))


def liability_answer(
    *, agent: str, exclude_gateway: str | None = None, asking_gateway: str | None = None
) -> LiabilityAnswer | None:
    """The answer of `GET /liability/{agent}`, or None for an agent the network has never heard of.

    `external_liability` and `gateways` leave `exclude_gateway` out; `snapshot.liability` covers every gateway;
    `channel` is that of `asking_gateway`, if it has one with this agent. Liability is what was charged and is not
    settled, never below zero.
    """
    today = timezone.now().astimezone(UTC).date()
    with connection.cursor() as cursor:
        cursor.execute(_READ, [today, agent])
        rows = [_Row(*row) for row in cursor.fetchall()]
    if not rows:
        return None
    channels = [row for row in rows if row.gateway is not None]
    gateways = [
        GatewayLiability(gateway_id=row.gateway, liability=_u64(row.liability))
        for row in channels
        if row.gateway is not None and row.liability and row.gateway != exclude_gateway
    ]
    own = next((row for row in channels if row.gateway == asking_gateway), None)
    return LiabilityAnswer(
        agent=agent,
        external_liability=_u64(sum(gateway.liability for gateway in gateways)),
        gateways=gateways,
        snapshot=_snapshot(rows[0], channels, own),
        channel=None if own is None else _channel(own),
    )


def _snapshot(row: _Row, channels: Sequence[_Row], own: _Row | None) -> Snapshot:
    remaining = None if row.per_day is None else max(0, row.per_day - (row.spent_today or 0))
    return Snapshot(
        bond=str(_u64(row.bond)),
        pending_withdrawal=str(_u64(row.pending_withdrawal)),
        claims=str(_u64(row.claims)),
        liability=str(_u64(sum(channel.liability for channel in channels))),
        leases=str(_u64(sum(channel.leased for channel in channels))),
        lease=None if own is None else _lease(own),
        status=effective_status(row.status, row.stopped),
        limits=Limits(
            per_call=None if row.per_call is None else str(_u64(row.per_call)),
            per_day=None if row.per_day is None else str(_u64(row.per_day)),
        ),
        remaining_today=None if remaining is None else str(_u64(remaining)),
        slot=row.slot or 0,
        mode=row.mode or "lease",
        cap=None if row.cap is None else str(_u64(row.cap)),
    )


def _lease(row: _Row) -> Lease | None:
    if row.lease_id is None or row.expires_at is None:
        return None
    return Lease(
        lease_id=str(row.lease_id),
        channel=row.address,
        amount=str(_u64(row.leased)),
        expires_at=to_rfc3339(int(row.expires_at.timestamp())),
        up_to=str(_u64(row.up_to)),
    )


def _channel(row: _Row) -> ChannelState:
    return ChannelState(
        address=row.address,
        charged_total=str(_u64(row.charged)),
        settled=str(_u64(row.settled)),
        highest=None
        if row.signature is None
        else {
            "channel": row.address,
            "cumulative": str(_u64(row.highest)),
            "context": bytes(row.context or b"").hex(),
            "signature": to_b64(bytes(row.signature)),
        },
    )


def _u64(amount: Any) -> int:
    """Sums of dishonest charges can pass 2^64; what is that large is simply beyond any bond."""
    return min(int(amount), U64_MAX)


def no_bond(agent: str) -> LiabilityAnswer:
    """The answer for an agent that has no bond account and never paid."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce((SELECT max(slot) FROM payments_chain_cursor), 0), r.mode, r.cap_atomic"
            " FROM (SELECT 1) one LEFT JOIN payments_rules r ON r.id = 1"
        )
        slot, mode, cap = cursor.fetchone()
    snapshot = Snapshot(
        bond="0",
        pending_withdrawal="0",
        claims="0",
        liability="0",
        leases="0",
        lease=None,
        status="ACTIVE",
        limits=Limits(),
        remaining_today=None,
        slot=slot,
        mode=mode or "lease",
        cap=None if cap is None else str(_u64(cap)),
    )
    return LiabilityAnswer(agent=agent, external_liability=0, gateways=[], snapshot=snapshot)
