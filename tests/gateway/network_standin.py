"""Relayer and receiver for tests of the gateway alone: real HTTP, real signature checks, answers in the shapes of
`machpay.protocol`. The end-to-end tests use the real processes."""

import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.settlements import (
    ItemResult,
    SettlementAnswer,
    SettlementBatch,
    decode_item,
    parse_item,
    verify_item,
)
from machpay.protocol.signed_requests import verify_request
from machpay.protocol.snapshots import ChannelState, GatewayLiability, LiabilityAnswer, Limits, Snapshot
from tests.gateway.factories import BOND, network
from tests.gateway.servers import Served, serve


@dataclass
class Account:
    """What the stand-in says about one agent."""

    bond: int = BOND
    pending_withdrawal: int = 0
    claims: int = 0
    external: int = 0
    status: str = "ACTIVE"
    limits: Limits = field(default_factory=Limits)
    remaining_today: str | None = None
    channel: ChannelState | None = None


@dataclass
class NetworkStandIn:
    """Remembers what it was told. Switch `down` on and every request is answered 503."""

    accounts: dict[str, Account] = field(default_factory=dict)
    default: Account = field(default_factory=Account)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Stored settlement items by digest, in order of arrival."""
    batches: list[SettlementBatch] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    heartbeats: list[dict[str, Any]] = field(default_factory=list)
    look_ups: list[str] = field(default_factory=list)
    verdicts: dict[int, ItemResult] = field(default_factory=dict)
    """What to answer for the item with this seq instead of storing it."""
    down: bool = False
    refuse_batches_with: int | None = None
    refused_batches: int = 0
    registered: bool = True
    look_up_delay: Any = None
    """An `asyncio.Event` that look-ups wait for."""
    served: Served | None = None

    @property
    def url(self) -> str:
        assert self.served is not None
        return self.served.url

    @property
    def charged(self) -> int:
        return sum(int(item["charged"]) for item in self.items.values())

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_post("/settlements", self._settlements)
        app.router.add_post("/heartbeat", self._heartbeat)
        app.router.add_post("/v1/ingest", self._ingest)
        app.router.add_get("/liability/{agent}", self._liability)
        self.served = await serve(app, port)

    async def stop(self) -> None:
        if self.served is not None:
            await self.served.stop()

    async def _signer(self, request: web.Request) -> str:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        signer = verify_request(request.method, request.path_qs, body, headers, now=time.time())
        if self.down:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "0"})
        return signer.pubkey

    async def _settlements(self, request: web.Request) -> web.Response:
        signer = await self._signer(request)
        if self.refuse_batches_with is not None:
            self.refused_batches += 1
            return web.Response(status=self.refuse_batches_with)
        batch = msgspec.json.decode(await request.read(), type=SettlementBatch)
        assert batch.gateway_id == signer
        self.batches.append(batch)
        results = [self._store(raw, signer) for raw in batch.batch]
        counts = {s: sum(r.status == s for r in results) for s in ("accepted", "rejected", "duplicate")}
        answer = SettlementAnswer(counts["accepted"], counts["rejected"], counts["duplicate"], results)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    def _store(self, raw: msgspec.Raw, signer: str) -> ItemResult:
        gateway = parse_pubkey(signer, "gateway")
        item = decode_item(raw)
        payment = parse_item(
            item, gateway=gateway, channel=network().channel(parse_pubkey(item.agent, "agent"), gateway)
        )
        digest = payment.intent.digest.hex()
        if payment.seq in self.verdicts:
            return self.verdicts[payment.seq]
        if not verify_item(payment):
            return ItemResult(digest, "rejected", retry=False, code="invalid_signature")
        if digest in self.items:
            return ItemResult(digest, "duplicate", retry=False)
        self.items[digest] = msgspec.to_builtins(item)
        return ItemResult(digest, "accepted", retry=False)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        await self._signer(request)
        self.heartbeats.append(await request.json())
        return web.json_response({"status": "ok", "registered": self.registered})

    async def _ingest(self, request: web.Request) -> web.Response:
        signer = await self._signer(request)
        events = await request.json()
        assert all(event["source"] == f"gateway:{signer}" for event in events)
        self.events.extend(events)
        return web.Response(status=202)

    async def _liability(self, request: web.Request) -> web.Response:
        await self._signer(request)
        agent = request.match_info["agent"]
        self.look_ups.append(agent)
        if self.look_up_delay is not None:
            await self.look_up_delay.wait()
        account = self.accounts.get(agent, self.default)
        answer = LiabilityAnswer(
            agent=agent,
            external_liability=account.external,
            gateways=[GatewayLiability("other", account.external)] if account.external else [],
            snapshot=Snapshot(
                bond=str(account.bond),
                pending_withdrawal=str(account.pending_withdrawal),
                claims=str(account.claims),
                liability=str(account.external),
                leases="0",
                lease=None,
                status=account.status,
                limits=account.limits,
                remaining_today=account.remaining_today,
                slot=1,
            ),
            channel=account.channel,
        )
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
