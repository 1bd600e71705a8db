"""Relayer and receiver for tests of the gateway alone: real HTTP, real signature checks, answers in the shapes of
`machpay.protocol`. The end-to-end tests use the real processes."""

import asyncio
import dataclasses
import time
import uuid
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import msgspec
from aiohttp import web

from machpay.chain.network import Network
from machpay.protocol.changes import Change, ChangesAnswer, NetworkRules
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.events import GATEWAY_TELEMETRY, LOG
from machpay.protocol.leases import LeaseAnswer, LeaseRequest, ReleaseRequest
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
    """What the stand-in says about one agent. Its leases are bounded by `lease_max`, last `lease_valid_s`, and are
    refused with `refuse_lease`."""

    bond: int = BOND
    pending_withdrawal: int = 0
    claims: int = 0
    external: int = 0
    status: str = "ACTIVE"
    limits: Limits = field(default_factory=Limits)
    remaining_today: str | None = None
    channel: ChannelState | None = None
    lease_id: str | None = None
    up_to: int = 0
    lease_max: int = 2**63
    lease_valid_s: float = 60.0
    refuse_lease: str | None = None


@dataclass
class NetworkStandIn:
    """Remembers what it was told. Switch `down` on and every request is answered 503."""

    accounts: dict[str, Account] = field(default_factory=dict)
    default: Account = field(default_factory=Account)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Stored settlement items by digest, in order of arrival."""
    batches: list[SettlementBatch] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    """What happened to requests and payments, in order of arrival."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    """What gateways say about themselves: packets and log lines."""
    heartbeats: list[dict[str, Any]] = field(default_factory=list)
    look_ups: list[str] = field(default_factory=list)
    verdicts: dict[int, ItemResult] = field(default_factory=dict)
    """What to answer for the item with this seq instead of storing it."""
    lease_requests: list[LeaseRequest] = field(default_factory=list)
    releases: list[tuple[str, int]] = field(default_factory=list)
    """Lease and last log position of every release."""
    changes: list[tuple[int, Change]] = field(default_factory=list)
    rules: NetworkRules = field(default_factory=NetworkRules)
    polls: int = 0
    """How often the change stream was read."""
    down: bool = False
    clock_offset_s: float = 0
    """How far this server's clock is ahead."""
    receiver_down: bool = False
    """The same for events alone."""
    refuse_batches_with: int | None = None
    refused_batches: int = 0
    registered: bool = True
    look_up_delay: Any = None
    """An `asyncio.Event` that look-ups wait for."""
    served: Served | None = None
    network: Network = field(default_factory=network)

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
        app.router.add_post("/leases", self._lease)
        app.router.add_post("/leases/{id}/release", self._release)
        app.router.add_get("/changes", self._changes)
        app.router.add_get("/health", self._health)
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
        if self.receiver_down:
            raise web.HTTPServiceUnavailable
        events = await request.json()
        assert all(event["source"] == f"gateway:{signer}" for event in events)
        known = {event["id"] for event in (*self.events, *self.reports)}
        events = [event for event in events if event["id"] not in known]
        about_itself = (GATEWAY_TELEMETRY, LOG)
        self.events.extend(event for event in events if event["type"] not in about_itself)
        self.reports.extend(event for event in events if event["type"] in about_itself)
        return web.Response(status=202)

    async def _health(self, request: web.Request) -> web.Response:
        date = formatdate(time.time() + self.clock_offset_s, usegmt=True)
        status, code = ("down", 503) if self.down else ("ok", 200)
        return web.json_response({"status": status}, status=code, headers={"Date": date})

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
            snapshot=self._snapshot(account),
            channel=account.channel,
        )
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    def _snapshot(self, account: Account) -> Snapshot:
        return Snapshot(
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
            mode=self.rules.mode,
            cap=self.rules.cap,
        )

    def _charged(self, agent: str) -> tuple[int, int]:
        """(charged, settled) of the agent's channel, by what was delivered or is said in its account."""
        state = self.accounts.get(agent, self.default).channel
        if state is not None:
            return int(state.charged_total), int(state.settled)
        return sum(int(item["charged"]) for item in self.items.values() if item["agent"] == agent), 0

    async def _lease(self, request: web.Request) -> web.Response:
        signer = await self._signer(request)
        asked = msgspec.json.decode(await request.read(), type=LeaseRequest)
        gateway, agent = parse_pubkey(signer, "gateway"), parse_pubkey(asked.agent, "agent")
        channel = self.network.channel(agent, gateway)
        assert asked.channel == str(channel)
        assert verify_item(parse_item(asked.intent, gateway=gateway, channel=channel))
        self.lease_requests.append(asked)
        self.look_ups.append(asked.agent)
        if self.look_up_delay is not None:
            await self.look_up_delay.wait()
        account = self.accounts.setdefault(asked.agent, dataclasses.replace(self.default))
        charged, settled = self._charged(asked.agent)
        taken = account.pending_withdrawal + account.claims + account.external + charged - settled
        room = min(int(asked.amount), account.bond - taken, account.lease_max)
        delivered = max((batch.seq_to for batch in self.batches), default=0)
        refused = account.refuse_lease
        if refused is None and account.lease_id is not None and asked.last_seq > delivered:
            refused = "not_delivered"
        if refused is None and account.status != "ACTIVE":
            refused = "agent_suspended"
        if refused is None and room < int(asked.intent.amount):
            refused = "insufficient_bond"
        if refused is None:
            account.lease_id = account.lease_id or str(uuid.uuid4())
            account.up_to = max(account.up_to, charged + room)
        answer = LeaseAnswer(
            lease_id=None if refused else account.lease_id,
            amount=str(0 if refused else account.up_to - charged),
            up_to=str(0 if refused else account.up_to),
            expires_at="",
            valid_ms=0 if refused else int(account.lease_valid_s * 1000),
            snapshot=self._snapshot(account),
            channel=account.channel,
            refused=refused,
        )
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def _release(self, request: web.Request) -> web.Response:
        await self._signer(request)
        last_seq = msgspec.json.decode(await request.read(), type=ReleaseRequest).last_seq
        lease_id = request.match_info["id"]
        self.releases.append((lease_id, last_seq))
        for account in self.accounts.values():
            if account.lease_id == lease_id:
                account.lease_id, account.up_to = None, 0
        return web.json_response({"lease_id": lease_id, "freed": "0"})

    def announce(self, agent: str, *, revoked: bool = False) -> None:
        """Tell followers how the agent's account is now."""
        account = self.accounts[agent]
        change = Change(
            agent=agent,
            status=account.status,
            limits=account.limits,
            bond=str(account.bond),
            pending_withdrawal=str(account.pending_withdrawal),
            claims=str(account.claims),
            slot=1,
            revoked=[account.lease_id] if revoked and account.lease_id is not None else [],
        )
        self.changes.append((len(self.changes) + 1, change))

    async def _changes(self, request: web.Request) -> web.Response:
        await self._signer(request)
        self.polls += 1
        after = request.query.get("after")
        seen = len(self.changes) if after is None else int(after)
        rules = msgspec.json.encode(self.rules)
        for _ in range(50):
            if (
                after is None
                or len(self.changes) > seen
                or msgspec.json.encode(self.rules) != rules
                or self.down
            ):
                break
            await asyncio.sleep(0.01)
        answer = ChangesAnswer(
            cursor=str(len(self.changes)),
            changes=[change for number, change in self.changes if number > seen],
            rules=self.rules,
        )
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
