"""Will this agent's payments be settled? What the relayer says about it, in one of two modes.

leases      a part of the bond is set aside for this gateway; it charges under its lease and nothing else (the default)
optimistic  the bond is shared by all; each gateway counts what the relayer last said and its own charges
following   the change stream: what stops an agent takes effect within seconds, in both modes

In both, a payment costs a few dict look-ups. Only an agent of which nothing is known makes a payment wait for
the relayer: after its signature was verified, once per agent at a time, and never longer than
`lookup_timeout_ms`.
"""

from typing import Protocol

from solders.pubkey import Pubkey

from machpay.protocol.changes import Change, NetworkRules
from machpay.protocol.screening import Attempt
from machpay_gateway.decide import Credit


class Solvency(Protocol):
    """What admission asks. `run` works in the background for ever; `close` cancels what still runs."""

    failure: str | None
    """Why the last question failed; None while the relayer answers."""
    last_answer_at: float | None
    """When the relayer last answered, on the monotonic clock."""

    @property
    def active_agents(self) -> int:
        """How many agents paid, or tried to, lately."""

    def credit(self, agent: Pubkey) -> Credit | None:
        """What may be relied on now, or None if the relayer has to be asked."""

    async def look_up(self, attempt: Attempt) -> Credit | None:
        """Ask the relayer now, for a payment whose signature is good; None when there is no answer in time."""

    def accepted(self, attempt: Attempt) -> None:
        """A payment was admitted and reserved."""

    def apply(self, changes: list[Change], rules: NetworkRules, *, reset: bool) -> None:
        """Take over what the change stream says. With `reset` anything may have changed."""

    async def run(self) -> None: ...

    async def close(self) -> None: ...

    async def release_all(self) -> None:
        """Give everything back, at the end, after the log was delivered."""
