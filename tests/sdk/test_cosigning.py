"""Aggregated settlements are co-signed by themselves, and only when that authorises nothing new.

The relayer here is a small server with the real shapes and signature checks, so that it can propose what an honest one
would not; the settlement's own tests have the real one.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import uuid4

import msgspec
import pytest
from aiohttp import web
from solders.pubkey import Pubkey

from machpay import MachPayClient, MachPayConfig
from machpay.protocol.aggregates import (
    AggregationAnswer,
    AggregationList,
    AggregationProposal,
    AggregationSignature,
    ProposedChannel,
)
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.signed_requests import verify_request
from machpay.protocol.x402 import voucher_json
from tests.gateway.conftest import eventually
from tests.gateway.servers import Served, serve
from tests.sdk.model import AGENT, NETWORK, STRANGER

GATEWAYS = [SigningKey(bytes([number]) * 32).public for number in range(0x41, 0x44)]


def a_channel(gateway: Pubkey, *, signed: int, asked: int, key: SigningKey = AGENT) -> ProposedChannel:
    """The agent has authorised `signed`, `asked` is to be settled."""
    channel = NETWORK.channel(AGENT.public, gateway)
    intent = PaymentIntent(channel, signed, new_nonce(), 1, int(time.time()) + 60, bytes(32))
    return ProposedChannel(str(gateway), str(asked), voucher_json(intent.voucher(intent.sign(key))))


def a_proposal(*channels: ProposedChannel, agent: str = AGENT.pubkey) -> AggregationProposal:
    return AggregationProposal(str(uuid4()), agent, list(channels), "1", "2026-11-22T00:00:00Z")


@dataclass
class Relayer:
    proposals: list[AggregationProposal] = field(default_factory=list)
    signatures: dict[str, bytes] = field(default_factory=dict)
    asked: int = 0
    down: bool = False
    served: Served | None = None

    @property
    def url(self) -> str:
        assert self.served is not None
        return self.served.url

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/aggregations", self._list)
        app.router.add_post("/aggregations/{id}/sign", self._sign)
        self.served = await serve(app)

    async def _check(self, request: web.Request) -> bytes:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        signer = verify_request(request.method, request.path_qs, body, headers, now=time.time())
        assert signer.pubkey == AGENT.pubkey
        return body

    async def _list(self, request: web.Request) -> web.Response:
        await self._check(request)
        self.asked += 1
        if self.down:
            return web.Response(status=503)
        assert request.query["agent"] == AGENT.pubkey
        waiting = [each for each in self.proposals if each.id not in self.signatures]
        return web.Response(body=msgspec.json.encode(AggregationList(waiting)))

    async def _sign(self, request: web.Request) -> web.Response:
        body = await self._check(request)
        proposal = next(each for each in self.proposals if each.id == request.match_info["id"])
        self.signatures[proposal.id] = msgspec.json.decode(body, type=AggregationSignature).parse()
        return web.Response(body=msgspec.json.encode(AggregationAnswer(proposal.id, "SIGNED")))


@pytest.fixture
async def relayer() -> AsyncIterator[Relayer]:
    server = Relayer()
    await server.start()
    yield server
    assert server.served is not None
    await server.served.stop()


def a_client(relayer: Relayer, *, cosigns: bool = True) -> MachPayClient:
    return MachPayClient(
        MachPayConfig(key=AGENT, network=NETWORK, relayer_url=relayer.url, cosign_s=0.02, cosigns=cosigns)
    )


async def test_a_proposal_covered_by_the_agents_own_vouchers_is_signed(relayer):
    proposal = a_proposal(
        *(a_channel(gateway, signed=5_000, asked=5_000 - number) for number, gateway in enumerate(GATEWAYS))
    )
    relayer.proposals.append(proposal)
    async with a_client(relayer):
        await eventually(lambda: proposal.id in relayer.signatures, "the proposal is signed")
        await eventually(lambda: relayer.asked > 2, "the agent goes on asking")
    aggregate, vouchers = proposal.parse(domain=NETWORK.domain, mint=NETWORK.mint, agent=AGENT.public)
    assert aggregate.is_signed_by_agent(relayer.signatures[proposal.id])
    assert aggregate.covers(vouchers)


@pytest.mark.parametrize(
    "proposal",
    [
        a_proposal(
            a_channel(GATEWAYS[0], signed=5_000, asked=5_000), a_channel(GATEWAYS[1], signed=99, asked=100)
        ),
        a_proposal(a_channel(GATEWAYS[0], signed=5_000, asked=5_000, key=STRANGER)),
        a_proposal(a_channel(GATEWAYS[0], signed=5_000, asked=5_000), agent=STRANGER.pubkey),
        a_proposal(*[a_channel(GATEWAYS[0], signed=5_000, asked=5_000)] * 2),
        a_proposal(),
        a_proposal(ProposedChannel("x", "1", {})),
    ],
    ids=["more than signed", "another signer", "another agent", "a channel twice", "nothing", "malformed"],
)
async def test_whatever_authorises_something_new_is_refused(relayer, proposal, caplog):
    relayer.proposals.append(proposal)
    async with a_client(relayer):
        await eventually(lambda: relayer.asked > 2, "the agent has seen it")
    assert relayer.signatures == {}
    told = [record for record in caplog.records if proposal.id in record.getMessage()]
    assert len(told) == 1


async def test_a_relayer_that_is_away_is_asked_again(relayer):
    relayer.down = True
    proposal = a_proposal(a_channel(GATEWAYS[0], signed=7, asked=7))
    relayer.proposals.append(proposal)
    async with a_client(relayer):
        await eventually(lambda: relayer.asked > 1, "the agent asks")
        relayer.down = False
        await eventually(lambda: proposal.id in relayer.signatures, "the proposal is signed")


async def test_an_agent_that_does_not_co_sign_never_asks(relayer):
    async with a_client(relayer, cosigns=False) as client:
        assert client._cosigner is None
    assert relayer.asked == 0
