"""The change stream: `GET /changes?after=<cursor>`, a long poll by a gateway.

Answers as soon as anything changed that decides whether agents of this gateway may go on spending, and with an
empty list when nothing did for a few seconds. Each change says how things are now, not what happened: reading
one twice does no harm.
"""

from typing import Literal

import msgspec

from machpay.protocol.snapshots import Limits

SolvencyMode = Literal["lease", "optimistic"]


class Change(msgspec.Struct):
    """An agent's standing, with the meanings of `Snapshot`. `revoked` are the asking gateway's leases with this
    agent (their ids) that it may not charge under any more."""

    agent: str
    status: str
    limits: Limits
    bond: str
    pending_withdrawal: str
    claims: str
    slot: int
    revoked: list[str] = []


class NetworkRules(msgspec.Struct):
    """What holds for the whole network. `cap` bounds what one agent may owe all gateways together in optimistic
    mode (None: its bond only), in atomic units; `halted` stops every payment."""

    mode: SolvencyMode = "lease"
    cap: str | None = None
    halted: bool = False


class ChangesAnswer(msgspec.Struct):
    """`cursor` is what to ask `after` next. With `reset` the relayer cannot say what changed since the given
    cursor: what is remembered of agents has to be asked for again."""

    cursor: str
    changes: list[Change]
    rules: NetworkRules
    reset: bool = False
