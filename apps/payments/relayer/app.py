"""One request to the relayer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

import msgspec
import redis
from django.db import connection

from apps.core import asgi
from apps.core.errors import DomainError
from apps.core.redis import async_redis
from apps.payments.errors import ChainUnavailable, NotYours, UnknownGateway
from apps.payments.facilitator.app import Facilitator
from apps.payments.relayer import metrics
from apps.payments.relayer.aggregations import AggregationEndpoints
from apps.payments.relayer.auth import authenticate
from apps.payments.relayer.complaints import ComplaintEndpoint
from apps.payments.relayer.directory import Asker, Directory
from apps.payments.relayer.leases import LeaseEndpoints
from apps.payments.relayer.threads import DatabaseUnavailable, Threads
from apps.payments.relayer.waiting import Followers
from apps.payments.selectors.liability import liability_answer, no_bond
from apps.payments.services.gateways import Heartbeat, LogPosition, record_heartbeat
from apps.payments.services.intake import record_batch
from apps.payments.services.misbehaviour import report, unsigned_charges
from apps.payments.verification import Refused, Verified, check_items
from machpay.chain.network import Network
from machpay.protocol.encoding import I64_MAX, parse_pubkey
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.intents import Voucher
from machpay.protocol.settlements import MAX_BATCH_ITEMS, ItemResult, SettlementAnswer, SettlementBatch
from machpay.protocol.signed_requests import RequestSigner
from machpay.protocol.snapshots import LiabilityAnswer
from machpay.protocol.x402 import parse_voucher

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
HEARTBEAT_BYTES_MAX: Final = 64 * 1024
BATCHES_IN_FLIGHT_MAX: Final = 32
_CHUNK: Final = 128

Handler = Callable[[asgi.Scope, asgi.Receive, asgi.Send], Awaitable[None]]

_batch_decoder = msgspec.json.Decoder(SettlementBatch)
_Counter = Annotated[int, msgspec.Meta(ge=0, le=I64_MAX)]


class HeartbeatBody(msgspec.Struct):
    """The body of `POST /heartbeat`: the brief's fields, the address clients use and the position of the gateway's
    log."""

    gateway_id: str
    version: str = ""
    uptime_seconds: _Counter = 0
    stats: dict[str, Any] = {}
    url: str = ""
    vendor: str = ""
    seq: _Counter = 0


_heartbeat_decoder = msgspec.json.Decoder(HeartbeatBody)


class BatchTooLarge(DomainError):
    code = "batch_too_large"
    status = 413


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
        self._directory = directory
        self._threads = threads
        self._facilitator = facilitator
        self._leases = LeaseEndpoints(
            network=network, directory=directory, threads=threads, followers=followers
        )
        self._aggregations = AggregationEndpoints(network=network, threads=threads)
        self._complaints = ComplaintEndpoint(network=network, directory=directory, threads=threads)
        self._in_flight = asgi.InFlight(BATCHES_IN_FLIGHT_MAX, "too many batches are being stored")

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
            ("settlements",): ("POST", self._settlements),
            ("heartbeat",): ("POST", self._heartbeat),
            ("liability", "{}"): ("GET", self._liability),
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
            raise asgi.MethodNotAllowed(f"use {method} here")
        await handler(scope, receive, send)

    async def _settlements(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        with self._in_flight, metrics.IN_FLIGHT.track_inprogress():
            body = await asgi.read_body(scope, receive, limit=BATCH_BYTES_MAX)
            with metrics.BATCH_SECONDS.time():
                results = await self._store(scope, body)
        counts = {status: sum(result.status == status for result in results) for status in _STATUSES}
        for status, count in counts.items():
            metrics.ITEMS.labels(status).inc(count)
        for result in results:
            if result.code is not None:
                metrics.REFUSED.labels(result.code).inc()
        answer = SettlementAnswer(
            accepted=counts["accepted"],
            rejected=counts["rejected"],
            duplicates=counts["duplicate"],
            results=results,
        )
        await asgi.respond_json(send, answer)

    async def _store(self, scope: asgi.Scope, body: bytes) -> list[ItemResult]:
        signer = await authenticate(scope, body, self._threads)
        batch = asgi.decode(_batch_decoder, body, "the body is not a batch of settlements")
        if max(len(batch.batch), len(batch.vouchers)) > MAX_BATCH_ITEMS:
            raise BatchTooLarge(f"a batch has at most {MAX_BATCH_ITEMS} items and as many vouchers")
        _must_be(signer, batch.gateway_id)
        vendor = await self._directory.vendor_of(signer.pubkey)
        checked = await self._check(batch.batch, signer)
        stored = await self._threads.database(
            record_batch,
            mint=str(self._network.mint),
            gateway=signer.pubkey,
            vendor=vendor,
            items=[item for item in checked if isinstance(item, Verified)],
            vouchers=_vouchers(batch.vouchers),
            position=_position(batch, checked),
        )
        await self._report_unsigned(batch.batch, checked, signer)
        recorded = iter(stored)
        return [
            ItemResult(item.digest.hex(), "rejected", item.retry, item.code)
            if isinstance(item, Refused)
            else next(recorded)
            for item in checked
        ]

    async def _report_unsigned(
        self, items: Sequence[msgspec.Raw], checked: Sequence[Verified | Refused], signer: RequestSigner
    ) -> None:
        """What a gateway charged without the agent's signature is held against it, by its own receipt."""
        refused = [
            raw
            for raw, item in zip(items, checked, strict=True)
            if isinstance(item, Refused) and item.code == RefusalCode.INVALID_SIGNATURE
        ]
        if not refused:
            return
        charged = await self._threads.verify(
            unsigned_charges, refused, network=self._network, gateway=signer.key
        )
        if charged:
            await self._threads.database(report, signer.pubkey, charged)

    async def _check(self, items: Sequence[msgspec.Raw], signer: RequestSigner) -> list[Verified | Refused]:
        """Verify in chunks, so that several cores share one batch and small batches do not wait for large ones."""
        now = datetime.now(UTC)
        chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
        results = await asyncio.gather(
            *(
                self._threads.verify(check_items, chunk, network=self._network, gateway=signer.key, now=now)
                for chunk in chunks
            )
        )
        return [item for chunk in results for item in chunk]

    async def _heartbeat(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        body = await asgi.read_body(scope, receive, limit=HEARTBEAT_BYTES_MAX)
        signer = await authenticate(scope, body, self._threads)
        heartbeat = asgi.decode(_heartbeat_decoder, body, "the body is not a heartbeat")
        if b"\\u0000" in body:
            raise asgi.BadRequest("a heartbeat holds no NUL characters")
        _must_be(signer, heartbeat.gateway_id)
        try:
            await self._directory.vendor_of(signer.pubkey)
        except UnknownGateway:
            registered = False
        else:
            registered = await self._threads.database(
                record_heartbeat,
                gateway=signer.pubkey,
                heartbeat=Heartbeat(
                    version=heartbeat.version,
                    uptime_seconds=heartbeat.uptime_seconds,
                    stats=heartbeat.stats,
                    url=heartbeat.url,
                    log_seq=heartbeat.seq,
                ),
            )
        await asgi.respond_json(send, {"status": "ok", "registered": registered})

    async def _liability(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        body = await asgi.read_body(scope, receive, limit=0)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        try:
            agent = str(parse_pubkey(scope["path"].rpartition("/")[2], "agent"))
            excluded = [str(parse_pubkey(key, "exclude_gateway")) for key in query.get("exclude_gateway", [])]
        except MalformedError as error:
            raise asgi.BadRequest(error.detail) from error
        if len(excluded) > 1:
            raise asgi.BadRequest("exclude_gateway may be given once")
        signer = await authenticate(scope, body, self._threads)
        asking_gateway = await self._asking_gateway(signer, agent)
        answer = await self._answer(agent, excluded[0] if excluded else None, asking_gateway)
        await asgi.respond_json(send, answer)

    async def _asking_gateway(self, signer: RequestSigner, agent: str) -> str | None:
        if signer.pubkey == agent:
            return None
        try:
            await self._directory.vendor_of(signer.pubkey)
        except UnknownGateway as error:
            raise NotYours(
                "only the agent itself and registered gateways see an agent's liability"
            ) from error
        return signer.pubkey

    async def _answer(self, agent: str, excluded: str | None, asking_gateway: str | None) -> LiabilityAnswer:
        async def read() -> LiabilityAnswer | None:
            return await self._threads.database(
                liability_answer, agent=agent, exclude_gateway=excluded, asking_gateway=asking_gateway
            )

        answer = await read()
        if answer is not None and answer.snapshot.bond != "0":
            return answer
        # Nobody is told "no bond" from a mirror that may only be late.
        try:
            asker: Asker = "agent" if asking_gateway is None else "gateway"
            found = await self._directory.refresh_agent(agent, asker=asker)
        except ChainUnavailable:
            if answer is None:
                raise
            return answer
        if found:
            answer = await read()
        return answer if answer is not None else await self._threads.database(no_bond, agent)

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
        database, cache = await asyncio.gather(self._database_answers(), _redis_answers())
        components: dict[str, dict[str, Any]] = {
            "database": {"status": "ok" if database else "down"},
            "redis": {"status": "ok" if cache else "down"},
            "intake": {
                "status": "degraded" if self._in_flight.is_full else "ok",
                "batches_in_flight": self._in_flight.count,
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


_STATUSES: Final = ("accepted", "rejected", "duplicate")


def _position(batch: SettlementBatch, checked: Sequence[Verified | Refused]) -> LogPosition | None:
    """The part of the gateway's log that this batch ends, unless some of it has to come again."""
    if not 0 < batch.seq_to <= I64_MAX:
        return None
    if any(isinstance(item, Refused) and item.retry for item in checked):
        return None
    return LogPosition(batch.seq_from, batch.seq_to)


def _must_be(signer: RequestSigner, gateway_id: str) -> None:
    if signer.pubkey != gateway_id:
        raise NotYours("gateway_id is not the key that signed this request")


def _vouchers(values: Sequence[Any]) -> list[Voucher]:
    """Those that parse. One that does not is dropped: it must not hold up payments that are in order."""
    vouchers = []
    for value in values:
        try:
            vouchers.append(parse_voucher(value))
        except MalformedError:
            metrics.REFUSED.labels("malformed_voucher").inc()
    return vouchers


def _ping() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


async def _redis_answers() -> bool:
    try:
        return bool(await async_redis().ping())
    except redis.RedisError:
        return False
