"""Optimistic mode: what the relayer says about agents' credit, cached, refreshed in the background.

When the relayer is away, what it said last counts for `stale_s`; this gateway's own charges are always counted
exactly, so the risk is what other gateways accept meanwhile.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from solders.pubkey import Pubkey

from machpay.protocol.changes import Change, NetworkRules
from machpay.protocol.encoding import parse_pubkey, parse_u64
from machpay.protocol.errors import MalformedError
from machpay.protocol.screening import Attempt
from machpay_gateway.decide import Credit
from machpay_gateway.errors import RelayerError
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings
from machpay_gateway.solvency.looking_up import LookUps
from machpay_gateway.solvency.reading import read_credit

MAX_AGENTS: Final = 50_000
MAX_REFRESHES: Final = 8

logger = logging.getLogger(__name__)


class OptimisticSolvency:
    """Credit per agent. `on_credit` is told every answer before anybody can use it."""

    def __init__(self, settings: Settings, peers: Peers, on_credit: Callable[[Pubkey, Credit], None]) -> None:
        self._settings = settings.solvency
        self._network = settings.network
        self._gateway = settings.key.public
        self._relayer_url = settings.relayer_url
        self._peers = peers
        self._on_credit = on_credit
        self._credits: OrderedDict[Pubkey, Credit] = OrderedDict()
        self._active: set[Pubkey] = set()
        self._last_active = 0
        self._look_ups: LookUps[Credit] = LookUps(settings.solvency.lookup_timeout_ms / 1000)
        self._halted = False
        self.last_answer_at: float | None = None
        self.failure: str | None = None

    @property
    def active_agents(self) -> int:
        return max(self._last_active, len(self._active))

    def credit(self, agent: Pubkey) -> Credit | None:
        """What is known of the agent, unless it is older than `stale_s`. Marks the agent for the next refresh."""
        credit = self._credits.get(agent)
        if credit is None or self._halted or time.monotonic() - credit.read_at > self._settings.stale_s:
            return None
        self._active.add(agent)
        return credit

    async def look_up(self, attempt: Attempt) -> Credit | None:
        known = await self._look_ups.ask(attempt.agent, lambda: self._fetch(attempt.agent))
        return None if self._halted else known or self.credit(attempt.agent)

    def accepted(self, attempt: Attempt) -> None:
        """Nothing to do: own charges are counted by the book."""

    def apply(self, changes: list[Change], rules: NetworkRules, *, reset: bool) -> None:
        self._halted = rules.halted
        for change in changes:
            agent = parse_pubkey(change.agent, "agent")
            credit = self._credits.get(agent)
            if credit is not None:
                self._credits[agent] = changed(credit, change)

    async def run(self) -> None:
        """Refresh the agents that paid since the last round, for ever."""
        while True:
            await asyncio.sleep(self._settings.refresh_s)
            active, self._active = self._active, set()
            self._last_active = len(active)
            queue = iter(active)
            await asyncio.gather(*(self._refresh(queue) for _ in range(min(MAX_REFRESHES, len(active)))))

    async def close(self) -> None:
        await self._look_ups.close()

    async def release_all(self) -> None:
        """Nothing is held."""

    async def _refresh(self, queue: Iterator[Pubkey]) -> None:
        for agent in queue:
            await self._fetch(agent)

    async def _fetch(self, agent: Pubkey) -> Credit | None:
        target = f"/liability/{agent}?exclude_gateway={self._gateway}"
        try:
            body = await self._peers.get(self._relayer_url, target)
            credit = read_credit(body, agent, self._gateway, self._network)
        except (RelayerError, MalformedError) as error:
            if self.failure is None:
                logger.warning("liability of %s: %s", agent, error)
            self.failure = str(error)
            return None
        self.failure = None
        self.last_answer_at = credit.read_at
        self._on_credit(agent, credit)
        self._credits[agent] = credit
        self._credits.move_to_end(agent)
        if len(self._credits) > MAX_AGENTS:
            self._credits.popitem(last=False)
        return credit


def changed(credit: Credit, change: Change) -> Credit:
    """`credit` with what the change stream says of the agent. Raises `MalformedError`."""
    per_call = change.limits.per_call
    return replace(
        credit,
        bond=parse_u64(change.bond, "bond"),
        pending_withdrawal=parse_u64(change.pending_withdrawal, "pending_withdrawal"),
        claims=parse_u64(change.claims, "claims"),
        status=change.status,
        per_call=None if per_call is None else parse_u64(per_call, "per_call"),
    )
