"""What the relayer says about agents' credit: cached, refreshed in the background, looked up once for a new agent.

A look-up happens only for a payment whose signature was already verified; there is one per agent at a time, few at
once, and none is waited for longer than `lookup_timeout_ms`. When the relayer is away, what it said last counts for
`stale_s`; this gateway's own charges are always counted exactly, so the risk is what other gateways accept meanwhile.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.protocol.encoding import parse_u64
from machpay.protocol.errors import MalformedError
from machpay.protocol.intents import Voucher
from machpay.protocol.snapshots import ChannelState, LiabilityAnswer
from machpay.protocol.x402 import parse_voucher
from machpay_gateway.decide import Credit
from machpay_gateway.errors import RelayerError
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings

MAX_AGENTS: Final = 50_000
MAX_LOOK_UPS: Final = 32
"""Look-ups at the same time; more wait their turn within their own time limit."""
MAX_WAITING: Final = 256
"""Agents being looked up or waiting for it; for more the answer is "unknown" at once, so that strangers with fresh keys
cannot pile up work."""
MAX_REFRESHES: Final = 8
RECHECK_S: Final = 0.5
"""An agent that is refused for lack of bond is asked about again if the answer is older than this."""
RETRY_AFTER_S: Final = 1

logger = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(LiabilityAnswer)


class Solvency:
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
        self._running: dict[Pubkey, asyncio.Task[Credit | None]] = {}
        self._slots = asyncio.Semaphore(MAX_LOOK_UPS)
        self.last_answer_at: float | None = None
        """When the relayer last answered, on the monotonic clock."""
        self.failure: str | None = None
        """Why the last question failed; None while the relayer answers."""

    @property
    def active_agents(self) -> int:
        """How many agents paid, or tried to, in the last round of refreshing."""
        return max(self._last_active, len(self._active))

    def credit(self, agent: Pubkey) -> Credit | None:
        """What is known of the agent, unless it is older than `stale_s`. Marks the agent for the next refresh."""
        credit = self._credits.get(agent)
        if credit is None or time.monotonic() - credit.read_at > self._settings.stale_s:
            return None
        self._active.add(agent)
        return credit

    async def look_up(self, agent: Pubkey) -> Credit | None:
        """Ask the relayer now and wait a bounded time; None when there is no answer in time."""
        task = self._running.get(agent)
        if task is None:
            if len(self._running) >= MAX_WAITING:
                return None
            task = asyncio.create_task(self._look_up(agent))
            self._running[agent] = task
            task.add_done_callback(lambda _task: self._running.pop(agent, None))
        try:
            return await asyncio.wait_for(asyncio.shield(task), self._settings.lookup_timeout_ms / 1000)
        except TimeoutError:
            return None

    async def run(self) -> None:
        """Refresh the agents that paid since the last round, for ever."""
        while True:
            await asyncio.sleep(self._settings.refresh_s)
            active, self._active = self._active, set()
            self._last_active = len(active)
            queue = iter(active)
            await asyncio.gather(*(self._refresh(queue) for _ in range(min(MAX_REFRESHES, len(active)))))

    async def close(self) -> None:
        """Cancel the look-ups that still run."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _refresh(self, queue: Iterator[Pubkey]) -> None:
        for agent in queue:
            await self._fetch(agent)

    async def _look_up(self, agent: Pubkey) -> Credit | None:
        async with self._slots:
            return await self._fetch(agent)

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


def read_credit(body: bytes, agent: Pubkey, gateway: Pubkey, network: Network) -> Credit:
    """The relayer's answer as `Credit`. Raises `MalformedError`."""
    try:
        answer = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise MalformedError(str(error)) from error
    if answer.agent != str(agent):
        raise MalformedError("the answer is about another agent")
    snapshot, limits, channel = answer.snapshot, answer.snapshot.limits, answer.channel
    return Credit(
        bond=parse_u64(snapshot.bond, "bond"),
        pending_withdrawal=parse_u64(snapshot.pending_withdrawal, "pending_withdrawal"),
        claims=parse_u64(snapshot.claims, "claims"),
        external=parse_u64(answer.external_liability, "external_liability"),
        status=snapshot.status,
        per_call=None if limits.per_call is None else parse_u64(limits.per_call, "per_call"),
        remaining_today=(
            None
            if snapshot.remaining_today is None
            else parse_u64(snapshot.remaining_today, "remaining_today")
        ),
        settled=0 if channel is None else parse_u64(channel.settled, "settled"),
        charged_total=0 if channel is None else parse_u64(channel.charged_total, "charged_total"),
        voucher=None if channel is None else _voucher(channel, agent, network.channel(agent, gateway)),
        read_at=time.monotonic(),
    )


def _voucher(state: ChannelState, agent: Pubkey, address: Pubkey) -> Voucher | None:
    """The relayer's highest voucher, if it really is the agent's for this channel: clients check it, so we do too."""
    if state.highest is None:
        return None
    voucher = parse_voucher(state.highest)
    if voucher.channel != address or not voucher.is_signed_by(agent):
        raise MalformedError("the voucher is not the agent's for this channel")
    return voucher
