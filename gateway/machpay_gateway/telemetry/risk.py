"""Agents whose bond will not last another hour at the rate they spend here: `com.machpay.agent.insolvency_risk`.

Looked at once a period, never in a request's way. What an agent spends elsewhere counts through the relayer's snapshot;
its rate is what this gateway charged it in the last hour.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from solders.pubkey import Pubkey

from machpay.protocol.events import INSOLVENCY_RISK
from machpay_gateway.book import Book, Channel
from machpay_gateway.decide import Credit

WINDOW_S: Final = 3_600.0
QUIET_S: Final = 3_600.0
"""An agent is told of at most this often."""
_SLICE: Final = 1_000
"""Channels looked at between two turns of the event loop."""

Emit = Callable[[str, str, Callable[[], dict[str, Any]]], None]


@dataclass(slots=True)
class _Spending:
    """What one agent was charged, as (when, how much) per look, the oldest first."""

    charges: deque[tuple[float, int]] = field(default_factory=deque)
    told_at: float | None = None

    def in_window(self, now: float) -> int:
        while self.charges and now - self.charges[0][0] > WINDOW_S:
            self.charges.popleft()
        return sum(amount for _, amount in self.charges)


class RiskWatch:
    """`credit` gives what may be relied on now, without asking anybody."""

    def __init__(self, book: Book, credit: Callable[[Pubkey], Credit | None], emit: Emit) -> None:
        self._book = book
        self._credit = credit
        self._emit = emit
        self._served = {agent: channel.served for agent, channel in book.channels.items()}
        self._spending: dict[Pubkey, _Spending] = {}

    async def run(self, period_s: float) -> None:
        """Look once a period, for ever."""
        while True:
            await asyncio.sleep(period_s)
            await self.look(time.monotonic())

    async def look(self, now: float) -> None:
        """Find who spent since the last look and tell of those whose bond will not last; `now` is monotonic seconds."""
        for number, (agent, channel) in enumerate(list(self._book.channels.items())):
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            charged = channel.served - self._served.get(agent, 0)
            self._served[agent] = channel.served
            if charged > 0:
                self._spending.setdefault(agent, _Spending()).charges.append((now, charged))
                self._judge(agent, channel, now)
        for agent in [agent for agent, spent in self._spending.items() if not spent.in_window(now)]:
            del self._spending[agent]

    def _judge(self, agent: Pubkey, channel: Channel, now: float) -> None:
        spending, credit = self._spending[agent], self._credit(agent)
        if credit is None:
            return
        remaining, rate = max(0, left_of(credit, channel)), spending.in_window(now)
        if remaining >= rate or (spending.told_at is not None and now - spending.told_at < QUIET_S):
            return
        spending.told_at = now
        data = {
            "agent_id": channel.agent_text,
            "remaining_balance": str(remaining),
            "burn_rate_1h": str(rate),
        }
        self._emit(INSOLVENCY_RISK, channel.agent_text, lambda: data)


def left_of(credit: Credit, channel: Channel) -> int:
    """What of the bond nobody has a right to yet, in atomic units."""
    here = max(0, channel.committed - credit.settled)
    return credit.bond - credit.pending_withdrawal - credit.claims - credit.external - here
