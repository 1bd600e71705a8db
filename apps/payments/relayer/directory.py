"""What the database does not know yet and the chain may: new gateways, and bonds newer than the mirror.

Look-ups are single-flight per key, bounded in number and in waiting time, and remembered for a moment when they found
nothing, so that made-up keys can neither queue up nor crowd out real ones. Money is only ever read at `finalized`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Literal, TypeVar

import structlog
from solders.pubkey import Pubkey

from apps.payments.errors import ChainUnavailable, UnknownGateway
from apps.payments.models import Gateway
from apps.payments.relayer.metrics import LOOK_UPS
from apps.payments.relayer.threads import Threads
from apps.payments.services import chain_mirror, gateways
from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError

T = TypeVar("T")
Asker = Literal["gateway", "facilitator", "agent"]
"""On whose behalf an agent is looked up."""

LOOK_UP_TIMEOUT_S: Final = 0.4
_RETRY_AFTER_S: Final = 1
_ABSENT_FOR_S: Final = 1.0
_REMEMBERED: Final = 10_000

log = structlog.get_logger(__name__)


class LookUps(Generic[T]):
    """Bounded single-flight look-ups of one kind."""

    def __init__(self, kind: str, fetch: Callable[[str], Awaitable[T | None]], *, limit: int) -> None:
        self._kind = kind
        self._fetch = fetch
        self._limit = limit
        self._running: dict[str, asyncio.Task[T | None]] = {}
        self._absent: OrderedDict[str, float] = OrderedDict()

    async def get(self, key: str) -> T | None:
        """What the chain holds under `key`, or None. Raises `ChainUnavailable` when that cannot be said in time; the
        look-up itself goes on, so that a later call finds its result."""
        absent_since = self._absent.get(key)
        if absent_since is not None and time.monotonic() - absent_since < _ABSENT_FOR_S:
            return None
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= self._limit:
                self._count("refused")
                raise ChainUnavailable("too many look-ups are under way", retry_after_s=_RETRY_AFTER_S)
            task = asyncio.create_task(self._run(key))
            self._running[key] = task
            task.add_done_callback(lambda _task: self._running.pop(key, None))
        try:
            return await asyncio.wait_for(asyncio.shield(task), LOOK_UP_TIMEOUT_S)
        except TimeoutError as error:
            self._count("timeout")
            raise ChainUnavailable(
                "the chain did not answer in time", retry_after_s=_RETRY_AFTER_S
            ) from error
        except ChainError as error:
            self._count("error")
            log.warning("chain_look_up_failed", kind=self._kind, error=str(error))
            raise ChainUnavailable("the chain cannot be asked", retry_after_s=_RETRY_AFTER_S) from error

    async def close(self) -> None:
        """Cancel what still runs."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: str) -> T | None:
        found = await self._fetch(key)
        if found is None:
            self._count("absent")
            self._absent[key] = time.monotonic()
            self._absent.move_to_end(key)
            if len(self._absent) > _REMEMBERED:
                self._absent.popitem(last=False)
        else:
            self._count("found")
            self._absent.pop(key, None)
        return found

    def _count(self, result: str) -> None:
        LOOK_UPS.labels(self._kind, result).inc()


class Directory:
    """Gateways and bonds, from memory, the database and, last, the chain."""

    def __init__(self, chain: ChainClient, threads: Threads) -> None:
        self._chain = chain
        self._threads = threads
        self._vendors: OrderedDict[str, str] = OrderedDict()
        self._gateways = LookUps("gateway", self._fetch_gateway, limit=16)
        # Anybody can make keys and ask as an agent, or through the facilitator: neither can use up the gateways' share.
        self._agents: dict[Asker, LookUps[int]] = {
            "gateway": LookUps("agent", self._fetch_agent, limit=64),
            "facilitator": LookUps("agent_facilitated", self._fetch_agent, limit=32),
            "agent": LookUps("agent_itself", self._fetch_agent, limit=8),
        }

    async def close(self) -> None:
        await self._gateways.close()
        for look_ups in self._agents.values():
            await look_ups.close()

    async def vendor_of(self, gateway: str) -> str:
        """The vendor that `gateway` serves, for ever. Raises `UnknownGateway`, or `ChainUnavailable` if that cannot be
        said."""
        vendor = self._vendors.get(gateway)
        if vendor is None:
            vendor = await self._threads.database(_stored_vendor, gateway)
        if vendor is None:
            vendor = await self._gateways.get(gateway)
        if vendor is None:
            raise UnknownGateway(
                "this gateway is not registered on chain, or not finally so yet", retry_after_s=2
            )
        self._vendors[gateway] = vendor
        if len(self._vendors) > _REMEMBERED:
            self._vendors.popitem(last=False)
        return vendor

    async def refresh_agent(self, agent: str, *, asker: Asker) -> bool:
        """Bring the agent's mirror up to date from the chain. False if the agent has no bond account there."""
        return await self._agents[asker].get(agent) is not None

    async def _fetch_gateway(self, gateway: str) -> str | None:
        account = await self._chain.gateway(Pubkey.from_string(gateway), "finalized")
        if account is None:
            return None
        await self._threads.database(gateways.remember, [account])
        return str(account.vendor)

    async def _fetch_agent(self, agent: str) -> int | None:
        # The slot is read first: the account is then at least as new as the slot it is stored under.
        slot = await self._chain.slot("finalized")
        account = await self._chain.agent(Pubkey.from_string(agent), "finalized")
        if account is None:
            return None
        await self._threads.database(chain_mirror.refresh_agent, slot, account)
        return slot


def _stored_vendor(gateway: str) -> str | None:
    return Gateway.objects.filter(pubkey=gateway).values_list("vendor", flat=True).first()
