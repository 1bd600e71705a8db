"""One request to the relayer: who answers it; and how the process is."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import redis
from django.db import connection

from apps.core import asgi
from apps.core.redis import async_redis
from apps.payments.facilitator.app import Facilitator
from apps.payments.relayer.aggregations import AggregationEndpoints
from apps.payments.relayer.complaints import ComplaintEndpoint
from apps.payments.relayer.directory import Directory
from apps.payments.relayer.heartbeats import HeartbeatEndpoint
from apps.payments.relayer.leases import LeaseEndpoints
from apps.payments.relayer.liability import LiabilityEndpoint
from apps.payments.relayer.settlements import SettlementEndpoint
from apps.payments.relayer.threads import DatabaseUnavailable, Threads
from apps.payments.relayer.waiting import Followers
from machpay.chain.network import Network

Handler = Callable[[asgi.Scope, asgi.Receive, asgi.Send], Awaitable[None]]


class Relayer:
    """Routes requests. `network` is what every channel is derived from."""

    def __init__(
        self,
        *,
        network: Network,
        directory: Directory,
        threads: Threads,
        followers: Followers,
        facilitator: Facilitator | None,
    ) -> None:
        self._network = network
        self._threads = threads
        self._facilitator = facilitator
        self._settlements = SettlementEndpoint(network=network, directory=directory, threads=threads)
        self._heartbeats = HeartbeatEndpoint(directory=directory, threads=threads)
        self._liability = LiabilityEndpoint(directory=directory, threads=threads)
        self._leases = LeaseEndpoints(
            network=network, directory=directory, threads=threads, followers=followers
        )
        self._aggregations = AggregationEndpoints(network=network, threads=threads)
        self._complaints = ComplaintEndpoint(network=network, directory=directory, threads=threads)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one HTTP request. Every path also exists below `/v1`."""
        path: str = scope["path"]
        if path.startswith("/v1/"):
            path = path.removeprefix("/v1")
        if path.startswith("/facilitator/"):
            if self._facilitator is None:
                raise asgi.NotFound("this relayer runs no facilitator: FACILITATOR_KEYPAIR is not set")
            await self._facilitator(path.removeprefix("/facilitator"), scope, receive, send)
        elif path == "/health":
            await self._health(send)
        elif path == "/metrics":
            await asgi.respond_metrics(send)
        else:
            method, handler = self._handler(path)
            await self._only(method, handler, scope, receive, send)

    def _handler(self, path: str) -> tuple[str, Handler]:
        """Who answers `path`, and to which method."""
        parts = path.split("/")[1:] or [path]
        key = (parts[0], *("{}" if index == 1 else part for index, part in enumerate(parts) if index))
        handlers: dict[tuple[str, ...], tuple[str, Handler]] = {
            ("settlements",): ("POST", self._settlements.deliver),
            ("heartbeat",): ("POST", self._heartbeats.beat),
            ("liability", "{}"): ("GET", self._liability.tell),
            ("leases",): ("POST", self._leases.grant),
            ("leases", "{}", "release"): ("POST", self._leases.release),
            ("changes",): ("GET", self._leases.changes),
            ("aggregations",): ("GET", self._aggregations.listed),
            ("aggregations", "{}", "sign"): ("POST", self._aggregations.sign),
            ("complaints",): ("POST", self._complaints.complain),
            ("network",): ("GET", self._describe),
        }
        found = handlers.get(key)
        if found is None:
            raise asgi.NotFound(
                "this process answers /settlements, /heartbeat, /liability/{agent}, /leases, /leases/{id}/release,"
                " /changes, /aggregations, /aggregations/{id}/sign, /complaints, /network, /health, /metrics"
            )
        return found

    async def _only(
        self,
        method: str,
        handler: Handler,
        scope: asgi.Scope,
        receive: asgi.Receive,
        send: asgi.Send,
    ) -> None:
        if scope["method"] != method:
            raise asgi.MethodNotAllowed(method)
        await handler(scope, receive, send)

    async def _describe(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """What a new gateway's configuration needs; public, and to be compared with the chain by who reads it."""
        network = self._network
        body = {
            "network": network.caip2,
            "program_id": str(network.program_id),
            "mint": str(network.mint),
            "domain": str(network.domain),
        }
        await asgi.respond_json(send, body)

    async def _health(self, send: asgi.Send) -> None:
        intake = self._settlements.in_flight
        database, cache = await asyncio.gather(self._database_answers(), _redis_answers())
        components: dict[str, dict[str, Any]] = {
            "database": {"status": "ok" if database else "down"},
            "redis": {"status": "ok" if cache else "down"},
            "intake": {
                "status": "degraded" if intake.is_full else "ok",
                "batches_in_flight": intake.count,
            },
        }
        # Without either of the first two no request can be answered.
        usable = database and cache
        healthy = all(component["status"] == "ok" for component in components.values())
        status = "down" if not usable else "ok" if healthy else "degraded"
        body = {"status": status, "service": "relayer", "components": components}
        await asgi.respond_json(send, body, status=200 if usable else 503)

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(2):
                await self._threads.database(_ping)
        except (DatabaseUnavailable, TimeoutError):
            return False
        return True


def _ping() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


async def _redis_answers() -> bool:
    try:
        return bool(await async_redis().ping())
    except redis.RedisError:
        return False
