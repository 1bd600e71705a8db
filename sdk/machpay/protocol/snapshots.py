"""What the relayer says about an agent's credit: the answer of `GET /liability/{agent}` and of `/leases`.

Every number of one answer belongs to one moment of the database and one slot of the chain.
"""

import msgspec

from machpay.protocol.encoding import parse_u64


class Lease(msgspec.Struct):
    """A part of a bond set aside for one gateway."""

    lease_id: str
    channel: str
    amount: str
    expires_at: str


class Limits(msgspec.Struct):
    """Enforced spending limits in atomic units; None means there is none."""

    per_call: str | None = None
    per_day: str | None = None


class Snapshot(msgspec.Struct):
    """One agent's standing. Amounts are decimal strings of atomic units.

    `bond` is the finalised bond on chain, `pending_withdrawal` and `claims` what is on its way out of it,
    `liability` everything charged and not yet settled (all gateways), `leases` the sum set aside for
    gateways, `lease` the asking gateway's own, `remaining_today` what the daily limit leaves, `slot` the
    chain's slot.
    """

    bond: str
    pending_withdrawal: str
    claims: str
    liability: str
    leases: str
    lease: Lease | None
    status: str
    limits: Limits
    remaining_today: str | None
    slot: int

    def available(self) -> int:
        """The bond less everything that has a claim on it, in atomic units, never below zero."""
        taken = sum(
            parse_u64(getattr(self, name), name) for name in ("pending_withdrawal", "claims", "liability")
        )
        return max(0, parse_u64(self.bond, "bond") - taken)


class GatewayLiability(msgspec.Struct):
    gateway_id: str
    liability: int


class ChannelState(msgspec.Struct):
    """What the relayer and the chain hold of the asking gateway's channel with this agent, so that a gateway
    which lost its log starts right. `highest` is the voucher `{channel, cumulative, context, signature}`."""

    address: str
    charged_total: str
    settled: str
    highest: dict[str, str] | None


class LiabilityAnswer(msgspec.Struct):
    """`GET /liability/{agent}?exclude_gateway=`: liabilities at other gateways, and the snapshot."""

    agent: str
    external_liability: int
    gateways: list[GatewayLiability]
    snapshot: Snapshot
    channel: ChannelState | None = None
