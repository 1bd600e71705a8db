"""Lease mode: a part of the agent's bond set aside for this gateway, and nothing charged beyond it.

A lease says up to which total of charges on the channel this gateway may go, and until when. It is asked for
with the first payment, renewed in the background while payments go on, and given back when they stop. The
relayer renews only what it has heard everything about, so a renewal first waits for the delivery of what
happened before it. While the relayer is away, a lease serves until it ends.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.changes import Change, NetworkRules
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.leases import LeaseRequest, ReleaseRequest
from machpay.protocol.screening import Attempt
from machpay.protocol.settlements import intent_item
from machpay_gateway.decide import Credit
from machpay_gateway.errors import RelayerError
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings
from machpay_gateway.solvency.looking_up import LookUps
from machpay_gateway.solvency.optimistic import changed
from machpay_gateway.solvency.reading import Leased, read_lease

FIRST_PAYMENTS: Final = 1_000
"""How many payments like the present one a lease is asked for at least."""
HORIZON_S: Final = 120.0
"""A renewal asks for what the agent spends in this time at its present rate: enough for a lease's whole life,
and for the relayer to be away meanwhile."""
RENEW_AT: Final = 0.5
"""The part of a lease's amount or time that is used when it is renewed."""
REFUSED_FOR_S: Final = 0.5
"""How long a refusal stands before the relayer is asked again."""
RETRY_S: Final = 1.0
SWEEP_S: Final = 0.5
DELIVERY_LOOK_S: Final = 0.02
DELIVERY_WAIT_S: Final = 5.0
RELEASE_FOR_S: Final = 120.0
"""How long a release is tried: long after a lease's end the relayer has freed it by itself."""
RELEASES_AT_ONCE: Final = 8
TEMPORARY: Final = frozenset({"not_delivered", "revoked", "halted"})
"""Refusals that say nothing about the agent."""

logger = logging.getLogger(__name__)


class Position(Protocol):
    """What of the book this mode needs."""

    @property
    def delivered(self) -> int:
        """How much of the log the relayer has."""

    def committed(self, agent: Pubkey) -> int:
        """served + reserved of the channel."""

    def open_payments(self, agent: Pubkey) -> int:
        """Payments of the channel that are not complete."""

    def last_seq(self, agent: Pubkey) -> int:
        """The place of the channel's last completed payment in the log; 0 if it has none."""


@dataclass(slots=True)
class Held:
    """One agent's lease. `granted_at`, `ends_at` and `renew_at` are on the monotonic clock, `renew_above` is a total of
    the channel, `start` the total when the lease was granted."""

    credit: Credit
    lease_id: str
    up_to: int
    granted_at: float
    ends_at: float
    renew_at: float
    renew_above: int
    start: int
    proof: Attempt
    used_at: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """The relayer leased nothing to an agent that wanted to pay `amount`; what is smaller may still be asked for."""

    credit: Credit
    amount: int
    until: float


@dataclass(slots=True)
class Ending:
    """A lease that is used no more and waits to be given back. Once a release was `sent` it may be over at any
    time."""

    agent: Pubkey
    lease_id: str
    until: float
    sent: bool = False


class LeaseSolvency:
    """Leases per agent. `on_credit` is told every answer before anybody can use it."""

    def __init__(
        self,
        settings: Settings,
        peers: Peers,
        position: Position,
        on_credit: Callable[[Pubkey, Credit], None],
    ) -> None:
        self._settings = settings.solvency
        self._network = settings.network
        self._gateway = settings.key.public
        self._relayer_url = settings.relayer_url
        self._peers = peers
        self._position = position
        self._on_credit = on_credit
        self._held: dict[Pubkey, Held] = {}
        self._refusals: dict[Pubkey, Refusal] = {}
        self._ending: dict[str, Ending] = {}
        self._look_ups: LookUps[Credit] = LookUps(settings.solvency.lookup_timeout_ms / 1000)
        self._overtaken: set[Pubkey] = set()
        """Agents that the change stream spoke of while they were asked about: the answer may be the older word."""
        self._halted = False
        self.last_answer_at: float | None = None
        self.failure: str | None = None

    @property
    def active_agents(self) -> int:
        return len(self._held)

    # --- In a payment's way -----------------------------------------------------------------------------------------

    def credit(self, agent: Pubkey) -> Credit | None:
        """The lease's credit while it lasts."""
        held = self._held.get(agent)
        if held is None or self._halted or time.monotonic() >= held.ends_at:
            return None
        return held.credit

    def accepted(self, attempt: Attempt) -> None:
        """Remember the intent, which proves that the agent is a client, and renew in time."""
        held = self._held.get(attempt.agent)
        if held is None:
            return
        now = time.monotonic()
        held.proof, held.used_at = attempt, now
        if now >= held.renew_at or self._position.committed(attempt.agent) >= held.renew_above:
            self._renew(held, now)

    def _renew(self, held: Held, now: float) -> None:
        proof = held.proof
        # Not again before this one is answered or has failed.
        held.renew_at, held.renew_above = now + RETRY_S, held.up_to + 1
        self._look_ups.start(proof.agent, lambda: self._obtain(proof), is_stranger=False)

    async def look_up(self, attempt: Attempt) -> Credit | None:
        refusal = self._refusals.get(attempt.agent)
        if (
            refusal is not None
            and attempt.intent.amount >= refusal.amount
            and time.monotonic() < refusal.until
        ):
            return None if self._halted else refusal.credit
        # What is held was not enough, or there would be no question.
        known = await self._look_ups.ask(attempt.agent, lambda: self._obtain(attempt))
        return None if self._halted else known

    # --- The change stream ------------------------------------------------------------------------------------------

    def apply(self, changes: list[Change], rules: NetworkRules, *, reset: bool) -> None:
        self._halted = rules.halted
        for change in changes:
            agent = parse_pubkey(change.agent, "agent")
            if self._look_ups.is_running(agent):
                self._overtaken.add(agent)
            # The next payment asks, and hears how things are.
            self._refusals.pop(agent, None)
            held = self._held.get(agent)
            if held is None:
                continue
            if held.lease_id in change.revoked:
                self._end(agent, held)
            else:
                held.credit = changed(held.credit, change)
        if reset:
            now = time.monotonic()
            for held in self._held.values():
                held.renew_at = min(held.renew_at, now)

    # --- In the background ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Give back what is over, revoked or idle, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for agent, held in list(self._held.items()):
                in_flight = self._position.open_payments(agent)
                if now >= held.ends_at or (not in_flight and now - held.used_at > self._settings.idle_s):
                    self._end(agent, held)
                elif in_flight and now >= held.renew_at:
                    # What is being served has to be charged under a lease, however long it takes.
                    self._renew(held, now)
            for agent, refusal in list(self._refusals.items()):
                if now >= refusal.until:
                    del self._refusals[agent]
            await self._release_ready()

    async def close(self) -> None:
        await self._look_ups.close()

    async def release_all(self) -> None:
        for agent, held in list(self._held.items()):
            self._end(agent, held)
        await self._release_ready()

    def _end(self, agent: Pubkey, held: Held) -> None:
        """Use this lease no more."""
        self._held.pop(agent, None)
        self._let_go(agent, held.lease_id)

    def _let_go(self, agent: Pubkey, lease_id: str) -> None:
        self._ending.setdefault(lease_id, Ending(agent, lease_id, time.monotonic() + RELEASE_FOR_S))

    async def _release_ready(self) -> None:
        """Release ended leases under which nothing is in flight and everything is delivered."""
        now, ready = time.monotonic(), []
        for ending in list(self._ending.values()):
            if now > ending.until:
                self._ending.pop(ending.lease_id, None)
            elif self._is_quiet(ending.agent):
                ready.append(ending)
        queue = iter(ready)

        async def work() -> None:
            for ending in queue:
                await self._release(ending)

        await asyncio.gather(*(work() for _ in range(min(RELEASES_AT_ONCE, len(ready)))))

    def _is_quiet(self, agent: Pubkey) -> bool:
        position = self._position
        return position.open_payments(agent) == 0 and position.delivered >= position.last_seq(agent)

    async def _release(self, ending: Ending) -> None:
        if self._ending.get(ending.lease_id) is not ending:
            # Taken up again while this waited for its turn.
            return
        ending.sent = True
        body = msgspec.json.encode(ReleaseRequest(self._position.last_seq(ending.agent)))
        try:
            await self._peers.post(self._relayer_url, f"/leases/{ending.lease_id}/release", body)
        except RelayerError as error:
            if error.status is None or error.status >= 500 or error.status in (401, 409):
                logger.info("release of %s: %s", ending.lease_id, error)
                return
            logger.warning("release of %s: %s", ending.lease_id, error)
        self._ending.pop(ending.lease_id, None)

    # --- Asking -----------------------------------------------------------------------------------------------------

    async def _obtain(self, attempt: Attempt) -> Credit | None:
        """Ask for a lease or a longer one; None if that has to be tried again."""
        agent, held = attempt.agent, self._held.get(attempt.agent)
        last_seq = self._position.last_seq(agent)
        patience = time.monotonic() + DELIVERY_WAIT_S
        while self._position.delivered < last_seq:
            if time.monotonic() > patience:
                return None
            await asyncio.sleep(DELIVERY_LOOK_S)
        asked_at = time.monotonic()
        self._overtaken.discard(agent)
        try:
            body = await self._peers.post(
                self._relayer_url, "/leases", msgspec.json.encode(self._request(attempt, held, last_seq))
            )
            leased = read_lease(body, agent, self._gateway, self._network)
        except (RelayerError, MalformedError) as error:
            if self.failure is None:
                logger.warning("lease of %s: %s", agent, error)
            self.failure = str(error)
            return None
        self.failure, self.last_answer_at = None, time.monotonic()
        return self._take(attempt, leased, asked_at)

    def _request(self, attempt: Attempt, held: Held | None, last_seq: int) -> LeaseRequest:
        agent, intent = attempt.agent, attempt.intent
        committed = self._position.committed(agent)
        spent = 0
        if held is not None:
            elapsed = max(time.monotonic() - held.granted_at, 0.1)
            spent = int((committed - held.start) / elapsed * HORIZON_S)
        recorded = committed if held is None else held.credit.charged_total
        amount = max(FIRST_PAYMENTS * intent.amount, spent) + max(0, committed - recorded)
        return LeaseRequest(
            agent=str(agent),
            channel=str(intent.channel),
            amount=str(amount),
            intent=intent_item(agent, self._gateway, intent, attempt.signature),
            last_seq=last_seq,
        )

    def _take(self, attempt: Attempt, leased: Leased, asked_at: float) -> Credit | None:
        """Put an answer to use."""
        agent, credit, now = attempt.agent, leased.credit, time.monotonic()
        self._on_credit(agent, credit)
        if agent in self._overtaken:
            self._overtaken.discard(agent)
            self._held.pop(agent, None)
            if leased.lease_id is not None:
                self._let_go(agent, leased.lease_id)
            return None
        if leased.lease_id is None:
            return self._refused(attempt, leased, now)
        ending = self._ending.get(leased.lease_id)
        if ending is not None and ending.sent:
            # A release of it is on its way and may yet arrive.
            return None
        self._ending.pop(leased.lease_id, None)
        up_to = credit.up_to or 0
        # Measured from before the question, so that it ends here before it ends there.
        valid_s = leased.valid_s - self._settings.lease_skew_s
        start = self._position.committed(agent)
        self._held[agent] = Held(
            credit=credit,
            lease_id=leased.lease_id,
            up_to=up_to,
            granted_at=asked_at,
            ends_at=asked_at + valid_s,
            renew_at=asked_at + valid_s * RENEW_AT,
            renew_above=start + int((up_to - start) * RENEW_AT),
            start=start,
            proof=attempt,
            used_at=now,
        )
        # An answer that took as long as the lease lasts came too late to be used.
        return self.credit(agent)

    def _refused(self, attempt: Attempt, leased: Leased, now: float) -> Credit | None:
        """A running lease is left as it is, unless it was revoked. The refusal is remembered for a moment."""
        agent = attempt.agent
        held = self._held.get(agent)
        if held is not None and leased.refused in ("revoked", "agent_suspended", "agent_slashed", "held"):
            self._end(agent, held)
        if leased.refused in TEMPORARY:
            return None
        # Only these two depend on how much was asked for.
        sized = leased.refused in ("insufficient_bond", "budget_exceeded")
        amount = attempt.intent.amount if sized else 0
        self._refusals[agent] = Refusal(leased.credit, amount, now + REFUSED_FOR_S)
        return leased.credit
