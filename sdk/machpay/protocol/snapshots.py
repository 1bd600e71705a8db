"""What the relayer says about an agent's credit: the answer of `GET /liability/{agent}` and of `/leases`.

Every number of one answer belongs to one moment of the database and one slot of the chain.
"""

import msgspec

from machpay.protocol.encoding import parse_u64


class Lease(msgspec.Struct):
    """A part of a bond set aside for one gateway: `amount` is what is left of it, `up_to` the total of charges on the
    channel that it covers."""

    lease_id: str
    channel: str
    amount: str
    expires_at: str
    up_to: str = "0"


class Limits(msgspec.Struct):
    """Enforced spending limits in atomic units; None means there is none."""

    per_call: str | None = None
    per_day: str | None = None


class Snapshot(msgspec.Struct):
    """One agent's standing. Amounts are decimal strings of atomic units.

    `bond` is the finalised bond on chain, `pending_withdrawal` and `claims` what is on its way out of it,
    `liability` everything charged and not yet settled (all gateways), `leases` the sum set aside for
    gateways and not charged yet, `lease` the asking gateway's own, `remaining_today` what the daily limit leaves
    after what was charged, `slot` the chain's slot. `mode` is how gateways of this network
    make sure of being paid, "lease" or "optimistic"; `cap` what one agent may owe all of them together in
    optimistic mode, None for its bond only.
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
    mode: str = "lease"
    cap: str | None = None

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
