"""Puts one gateway together, runs its background work and takes it apart in the right order."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final, Self

from machpay_gateway import __version__
from machpay_gateway.app import GatewayApp
from machpay_gateway.bindings import Bindings
from machpay_gateway.book import Book
from machpay_gateway.delivery import Delivery
from machpay_gateway.errors import LogUnavailable
from machpay_gateway.events import Events
from machpay_gateway.free import FreeExchanges
from machpay_gateway.heartbeat import Heartbeat
from machpay_gateway.log.journal import Journal
from machpay_gateway.log.records import Identity
from machpay_gateway.metrics import Metrics
from machpay_gateway.own import OwnEndpoints
from machpay_gateway.paid import PaidExchanges
from machpay_gateway.payments import Payments
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings
from machpay_gateway.solvency import Solvency
from machpay_gateway.solvency.following import Follower
from machpay_gateway.solvency.leases import LeaseSolvency
from machpay_gateway.solvency.optimistic import OptimisticSolvency
from machpay_gateway.startup import look_around
from machpay_gateway.telemetry.log_events import LogEvents
from machpay_gateway.telemetry.packet import Packets
from machpay_gateway.telemetry.risk import RiskWatch
from machpay_gateway.telemetry.traffic import Traffic
from machpay_gateway.upstream import Upstream

LAST_DELIVERY_S: Final = 5.0
"""How long a stopping gateway tries to hand over what is left; the log keeps the rest."""
LAST_RELEASES_S: Final = 2.0
LAST_EVENTS_S: Final = 1.0
PRUNE_S: Final = 5.0
TELLING: Final = frozenset({"events", "packets", "risk", "heartbeat"})
"""Background work that only tells about this gateway: payments are taken without it."""

logger = logging.getLogger(__name__)


class Runtime:
    """Use as an async context manager; inside, `app` serves. Entering raises `LogError` and its kinds."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = settings.gateway.public_url
        self.metrics = Metrics()
        self.traffic = Traffic()
        bindings = Bindings(settings.responses.identifiers_s, settings.responses.max_identifiers)
        self.book = Book(settings.network, settings.key.public, bindings)
        self.journal = Journal(
            settings.data_dir / "log",
            self.book,
            Identity(
                gateway=settings.key.public,
                program_id=settings.network.program_id,
                mint=settings.network.mint,
                domain=bytes(settings.network.domain),
            ),
            segment_bytes=settings.gateway.segment_bytes,
        )
        self.payments = Payments(settings, self.book, self.journal)
        self.app: GatewayApp
        self._stack = AsyncExitStack()
        self._background: list[asyncio.Task[None]] = []
        self._stopped: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        settings = self.settings
        try:
            self._stack.push_async_callback(self.journal.close)
            left_open = await self.payments.start()
            if left_open:
                logger.warning("%d payments were open when this gateway last stopped", left_open)
            peers = await self._stack.enter_async_context(Peers(settings.key))
            upstream = await self._stack.enter_async_context(Upstream(settings.upstream))
        except BaseException:
            await self._stack.aclose()
            raise
        self._events = Events(settings, peers, self.metrics)
        self._stack.enter_context(LogEvents(self._events.emit))
        self._packets = Packets(settings, self.traffic, self.metrics, self._events.emit)
        self._solvency = self._new_solvency(peers)
        self._follower = Follower(settings, peers, self._solvency)
        self._delivery = Delivery(settings, self.payments, peers, self.metrics)
        self._heartbeat = Heartbeat(
            settings,
            peers,
            url=lambda: self.url,
            requests=lambda: self.app.requests_total,
            active_agents=self._active_agents,
            seq=lambda: self.book.completed,
        )
        self._show()
        self.journal.on_progress = self._delivery.wake
        self.app = GatewayApp(
            settings.routes,
            OwnEndpoints(settings, self.payments, self.metrics, self.health),
            FreeExchanges(
                upstream,
                self.metrics,
                settings.upstream.answer_timeout_s,
                settings.limits.write_timeout_s,
            ),
            PaidExchanges(settings, self.payments, self._solvency, upstream, self._events, self.metrics),
            self.metrics,
            self.traffic,
            settings.limits,
        )
        self._start("delivery", self._delivery.run())
        self._start("events", self._events.run())
        self._start("solvency", self._solvency.run())
        self._start("changes", self._follower.run())
        self._start("heartbeat", self._heartbeat.run())
        self._start("packets", self._packets.run())
        risk = RiskWatch(self.book, self._solvency.credit, self._events.emit)
        self._start("risk", risk.run(settings.telemetry.period_s))
        self._start("upkeep", self._upkeep())
        self._greeting = asyncio.create_task(
            look_around(settings, undelivered=self._delivery.undelivered), name="look around"
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        background = [*self._background, self._greeting]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._solvency.close()
        try:
            # The last answers' `sent` records must be durable before their payments may be delivered.
            await self.journal.durable()
            await self._delivery.drain(LAST_DELIVERY_S)
            async with asyncio.timeout(LAST_RELEASES_S):
                await self._solvency.release_all()
        except TimeoutError:
            logger.info("some leases end by themselves: the relayer did not take them back in time")
        except (LogUnavailable, OSError) as error:
            logger.error("stopping with a disk that fails: %s", error)
        self._packets.last()
        await self._events.drain(LAST_EVENTS_S)
        await self._stack.aclose()

    def health(self) -> tuple[str, dict[str, dict[str, Any]]]:
        """The overall status and each component's."""
        now = time.monotonic()
        last = self._solvency.last_answer_at
        log_failure = self.journal.failure
        components: dict[str, dict[str, Any]] = {
            "log": _component(log_failure, "down", segments=len(self.journal.segments)),
            "delivery": _component(self._delivery.failure, undelivered=self._delivery.undelivered),
            "receiver": _component(
                self._events.failure, queued=self._events.queued, on_disk=self._events.spilled
            ),
            "heartbeat": _component(self._heartbeat.failure, age_s=round(self._heartbeat.age_s(), 1)),
            "solvency": _component(
                self._solvency.failure, last_answer_s_ago=None if last is None else round(now - last, 1)
            ),
            "changes": _component(self._follower.failure),
            "registration": {"status": "ok", "registered": self._heartbeat.registered},
        }
        if self._heartbeat.registered is False:
            components["registration"]["status"] = "degraded"
        for name, failure in self._stopped.items():
            components[name] = _component(failure, "degraded" if name in TELLING else "down")
        statuses = {component["status"] for component in components.values()}
        overall = "down" if "down" in statuses else "degraded" if "degraded" in statuses else "ok"
        return overall, components

    def _show(self) -> None:
        """What `/metrics` reads from the parts themselves."""
        watch, count = self.metrics.watch, self.metrics.watch_counter
        self.metrics.describe(version=__version__, gateway=self.settings.key.pubkey)
        watch(
            "undelivered",
            "Completed payments that the relayer does not have",
            lambda: self._delivery.undelivered,
        )
        watch("log_healthy", "1 if the log is writable", lambda: self.journal.failure is None)
        watch("channels", "Agents that have a channel here", lambda: len(self.book.channels))
        watch("active_agents", "Agents that paid, or tried to, lately", self._active_agents)
        watch("connections", "Clients connected now", lambda: self.traffic.connections)
        watch("events_waiting", "Events to be sent, on disk or not", lambda: self._events.queued)
        watch("events_disk_bytes", "Disk that waiting events use", lambda: self._events.spilled_bytes)
        watch("registered", "1 if the relayer knows this gateway", lambda: self._heartbeat.registered is True)
        watch("heartbeat_age_seconds", "Since the relayer last took a heartbeat", self._heartbeat.age_s)
        count("received_bytes", "From clients", lambda: self.traffic.bytes_in_total)
        count("sent_bytes", "To clients: heads and bodies", lambda: self.traffic.bytes_out_total)

    @property
    def undelivered(self) -> int:
        """Completed payments that the relayer does not have."""
        return self._delivery.undelivered

    def serves_at(self, host: str, port: int) -> None:
        """Clients reach this gateway here, unless `public_url` says otherwise."""
        shown = f"[{host}]" if ":" in host else host
        self.url = self.settings.gateway.public_url or f"http://{shown}:{port}"

    def write_endpoint(self, host: str, port: int) -> None:
        """Tell other programs where this gateway listens: `data_dir/endpoint.json`, written whole or not at all."""
        self.serves_at(host, port)
        content = {
            "url": self.url,
            "host": host,
            "port": port,
            "pid": os.getpid(),
            "gateway": self.settings.key.pubkey,
        }
        target = self.settings.data_dir / "endpoint.json"
        draft = target.with_suffix(".tmp")
        draft.write_text(json.dumps(content) + "\n")
        draft.replace(target)

    def remove_endpoint(self) -> None:
        (self.settings.data_dir / "endpoint.json").unlink(missing_ok=True)

    def _new_solvency(self, peers: Peers) -> Solvency:
        if self.settings.solvency.mode == "lease":
            return LeaseSolvency(self.settings, peers, self.book, self.payments.align)
        return OptimisticSolvency(self.settings, peers, self.payments.align)

    def _active_agents(self) -> int:
        return self._solvency.active_agents

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._note_end)
        self._background.append(task)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Background work ends only by being cancelled; anything else is shown by `/health`."""
        if task.cancelled():
            return
        error = task.exception()
        self._stopped[task.get_name()] = f"stopped: {error}"
        logger.critical("%s stopped", task.get_name(), exc_info=error)

    async def _upkeep(self) -> None:
        """Forget nonces that can no longer be replayed, and keep the gauges true."""
        while True:
            self.book.guard.prune(int(time.time()))
            self.book.bindings.prune(int(time.time()))
            await asyncio.sleep(PRUNE_S)


def _component(failure: str | None, failed: str = "degraded", **details: Any) -> dict[str, Any]:
    status = {"status": "ok"} if failure is None else {"status": failed, "detail": failure}
    return {**status, **details}
