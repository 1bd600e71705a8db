"""What an agent can still be trusted with, as one snapshot of the database.

Read with a single SQL statement, so every number belongs to the same moment; and to the same chain slot, since mirrors
and settlements are written together.
"""

from datetime import UTC
from typing import Any, Final

from django.db import connection
from django.utils import timezone

from machpay.protocol.encoding import U64_MAX, to_b64
from machpay.protocol.snapshots import ChannelState, GatewayLiability, LiabilityAnswer, Limits, Snapshot

_READ: Final = """
SELECT a.status, a.bond_atomic, a.pending_withdrawal_atomic, a.open_claims_atomic, a.limit_per_call_atomic,
       a.limit_per_day_atomic, greatest(a.slot, (SELECT max(slot) FROM payments_chain_cursor)),
       CASE WHEN a.limit_per_day_atomic IS NOT NULL THEN (
           SELECT coalesce(sum(i.charged_atomic), 0) FROM payment_intents i
           WHERE i.agent = a.agent AND i.nonce_time >= %s
       ) END,
       c.gateway, c.address, c.charged_total_atomic, c.settled_atomic,
       c.highest_cumulative_atomic, c.highest_context, c.highest_signature
FROM payments_agent a
LEFT JOIN payments_channel c ON c.agent = a.agent
WHERE a.agent = %s
ORDER BY c.gateway
"""


def liability_answer(
    *, agent: str, exclude_gateway: str | None = None, asking_gateway: str | None = None
) -> LiabilityAnswer | None:
    """The answer of `GET /liability/{agent}`, or None for an agent the network has never heard of.

    `external_liability` and `gateways` leave `exclude_gateway` out; `snapshot.liability` covers every gateway;
    `channel` is that of `asking_gateway`, if it has one with this agent. Liability is what was charged and is not
    settled, never below zero.
    """
    today = timezone.now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with connection.cursor() as cursor:
        cursor.execute(_READ, [today, agent])
        rows = cursor.fetchall()
    if not rows:
        return None
    liabilities = {row[8]: max(0, int(row[10]) - int(row[11])) for row in rows if row[8] is not None}
    gateways = [
        GatewayLiability(gateway_id=gateway, liability=_u64(amount))
        for gateway, amount in liabilities.items()
        if amount and gateway != exclude_gateway
    ]
    own = next((row for row in rows if row[8] is not None and row[8] == asking_gateway), None)
    return LiabilityAnswer(
        agent=agent,
        external_liability=_u64(sum(gateway.liability for gateway in gateways)),
        gateways=gateways,
        snapshot=_snapshot(rows[0], sum(liabilities.values())),
        channel=None if own is None else _channel(own),
    )


def _snapshot(row: tuple[Any, ...], liability: int) -> Snapshot:
    status, bond, pending, claims, per_call, per_day, slot, spent_today = row[:8]
    return Snapshot(
        bond=str(_u64(bond)),
        pending_withdrawal=str(_u64(pending)),
        claims=str(_u64(claims)),
        liability=str(_u64(liability)),
        leases="0",
        lease=None,
        status=status,
        limits=Limits(
            per_call=None if per_call is None else str(_u64(per_call)),
            per_day=None if per_day is None else str(_u64(per_day)),
        ),
        remaining_today=None if per_day is None else str(_u64(max(0, per_day - spent_today))),
        slot=slot,
    )


def _channel(row: tuple[Any, ...]) -> ChannelState:
    address, charged, settled, highest, context, signature = row[9:]
    return ChannelState(
        address=address,
        charged_total=str(_u64(charged)),
        settled=str(_u64(settled)),
        highest=None
        if signature is None
        else {
            "channel": address,
            "cumulative": str(_u64(highest)),
            "context": bytes(context).hex(),
            "signature": to_b64(bytes(signature)),
        },
    )


def _u64(amount: Any) -> int:
    """Sums of dishonest charges can pass 2^64; what is that large is simply beyond any bond."""
    return min(int(amount), U64_MAX)


def no_bond(agent: str) -> LiabilityAnswer:
    """The answer for an agent that has no bond account and never paid."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(slot), 0) FROM payments_chain_cursor")
        (slot,) = cursor.fetchone()
    row = ("ACTIVE", 0, 0, 0, None, None, slot, None)
    return LiabilityAnswer(agent=agent, external_liability=0, gateways=[], snapshot=_snapshot(row, 0))
