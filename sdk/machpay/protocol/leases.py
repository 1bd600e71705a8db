"""Leases: a part of an agent's bond set aside for one gateway, asked for, renewed and given back.

    POST /leases                {agent, channel, amount, intent, last_seq} -> LeaseAnswer
    POST /leases/{id}/release   {last_seq} -> ReleaseAnswer

A lease is a ceiling on the channel's total, not an amount that is counted down: while it lasts, the gateway may
charge until everything it ever charged on the channel reaches `up_to`. A charge is therefore never counted
twice and never forgotten, whichever of lease and delivery the relayer sees first.
"""

import msgspec

from machpay.protocol.settlements import SettlementItem
from machpay.protocol.snapshots import ChannelState, Snapshot


class LeaseRequest(msgspec.Struct):
    """The body of `POST /leases`, signed by the gateway.

    `amount` is how much more than what the relayer has recorded the gateway would like to be able to charge.
    `intent` is a recent intent of the agent for `channel`, as an item of `POST /settlements` without its
    outcome. `last_seq` is the place of the channel's last completed payment in the gateway's log (0: none): a
    running lease is renewed only when the relayer has everything up to there.
    """

    agent: str
    channel: str
    amount: str | int
    intent: SettlementItem
    last_seq: int = 0


class LeaseAnswer(msgspec.Struct):
    """A lease as it now is. `amount` is what is left of it by the relayer's records, `up_to` the total of
    charges on the channel that it covers. It ends `valid_ms` after the relayer answered, which is at
    `expires_at` by the relayer's clock. `snapshot` is the agent's standing with this lease in it, `channel`
    what the relayer holds of the channel.

    With `refused` nothing was granted, or not renewed, and `lease_id` is None: `insufficient_bond`,
    `budget_exceeded`, `agent_suspended`, `agent_slashed`, `held` (the chain shows something that is not final
    yet), `revoked` (release the old lease first), `not_delivered` (deliver up to `last_seq` first), `halted`,
    `gateway_blacklisted`, or `gateway_revoked` (by its vendor, on chain).
    """

    lease_id: str | None
    amount: str
    up_to: str
    expires_at: str
    valid_ms: int
    snapshot: Snapshot
    channel: ChannelState | None = None
    refused: str | None = None


class ReleaseRequest(msgspec.Struct):
    """The body of a release: the place of the channel's last completed payment in the gateway's log. From here
    on the gateway charges nothing under the lease. Refused with 409 `not_delivered` while the relayer does not have
    everything up to there."""

    last_seq: int


class ReleaseAnswer(msgspec.Struct):
    """What of the lease was unused and is free again, in atomic units."""

    lease_id: str
    freed: str
