"""`POST /leases`, `POST /leases/{id}/release` and `GET /changes`, for registered gateways."""

from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qs
from uuid import UUID

import msgspec
from solders.pubkey import Pubkey

from apps.core import asgi
from apps.core.errors import DomainError
from apps.payments.errors import NotYours
from apps.payments.relayer import metrics
from apps.payments.relayer.auth import authenticate
from apps.payments.relayer.directory import Directory
from apps.payments.relayer.threads import Threads
from apps.payments.relayer.waiting import Followers
from apps.payments.selectors.bonds import has_bond
from apps.payments.selectors.changes import changes_since
from apps.payments.selectors.liability import liability_answer, no_bond
from apps.payments.services import leases
from apps.payments.services.leases import Granted, Refused, Wish
from apps.payments.verification import signed_at
from machpay.chain.network import Network
from machpay.protocol.encoding import U64_MAX, parse_pubkey, parse_u64, to_rfc3339
from machpay.protocol.errors import MalformedError
from machpay.protocol.leases import LeaseAnswer, LeaseRequest, ReleaseAnswer, ReleaseRequest
from machpay.protocol.nonces import CLOCK_SKEW_S, MAX_LIFETIME_S, lifetime_is_allowed
from machpay.protocol.settlements import ResolvedPayment, parse_item, verify_item
from machpay.protocol.snapshots import ChannelState, Snapshot

BODY_BYTES_MAX: Final = 16 * 1024
INTENT_AGE_MAX: Final = timedelta(seconds=MAX_LIFETIME_S + CLOCK_SKEW_S)
"""An intent proves that its agent is a client of the gateway while it could still be served, and no longer."""

_request_decoder = msgspec.json.Decoder(LeaseRequest)
_release_decoder = msgspec.json.Decoder(ReleaseRequest)


class IntentRefused(DomainError):
    """What came with the request does not prove that the agent wants to pay this gateway now."""

    code = "intent_refused"
    status = 403


class LeaseEndpoints:
    """Handlers; the relayer routes to them. `network` is what every channel is derived from."""

    def __init__(
        self, *, network: Network, directory: Directory, threads: Threads, followers: Followers
    ) -> None:
        self._network = network
        self._directory = directory
        self._threads = threads
        self._followers = followers

    async def grant(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Lease, or renew: 200 also when nothing is granted, with the reason and the agent's standing."""
        body = await asgi.read_body(scope, receive, limit=BODY_BYTES_MAX)
        signer = await authenticate(scope, body, self._threads)
        vendor = await self._directory.vendor_of(signer.pubkey)
        request = asgi.decode(_request_decoder, body, "the body is not a lease request")
        payment = await self._threads.verify(self._intent, request, signer.key)
        wish = Wish(
            agent=request.agent,
            channel=request.channel,
            gateway=signer.pubkey,
            vendor=vendor,
            amount=_amount(request.amount),
            intent_amount=payment.intent.amount,
            last_seq=request.last_seq,
        )
        if not await self._threads.database(has_bond, wish.agent):
            # Nobody is told "no bond" from a mirror that may only be late.
            await self._directory.refresh_agent(wish.agent, asker="gateway")
        outcome, answer = await self._threads.database(_grant, wish)
        metrics.LEASES.labels(outcome).inc()
        await asgi.respond_json(send, answer)

    async def release(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        body = await asgi.read_body(scope, receive, limit=BODY_BYTES_MAX)
        signer = await authenticate(scope, body, self._threads)
        request = asgi.decode(_release_decoder, body, "not the release of a lease")
        try:
            lease_id = UUID(scope["path"].split("/")[-2])
        except ValueError as error:
            raise asgi.BadRequest(f"not the id of a lease: {error}") from error
        freed = await self._threads.database(
            leases.release, lease_id=lease_id, gateway=signer.pubkey, last_seq=request.last_seq
        )
        metrics.LEASES.labels("released").inc()
        await asgi.respond_json(send, ReleaseAnswer(str(lease_id), str(freed)))

    async def changes(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer when something changed, or with nothing after a few seconds."""
        body = await asgi.read_body(scope, receive, limit=0)
        signer = await authenticate(scope, body, self._threads)
        await self._directory.vendor_of(signer.pubkey)
        after = parse_qs(scope["query_string"].decode("latin-1")).get("after", [])
        cursor = after[0] if after else None
        if cursor is not None:
            await self._followers.wait(cursor)
        answer = await self._threads.database(changes_since, cursor, gateway=signer.pubkey)
        await asgi.respond_json(send, answer)

    def _intent(self, request: LeaseRequest, gateway: Pubkey) -> ResolvedPayment:
        """The intent, if it is the agent's for the asking gateway's channel and recent."""
        try:
            agent = parse_pubkey(request.agent, "agent")
            channel = self._network.channel(agent, gateway)
            payment = parse_item(request.intent, gateway=gateway, channel=channel)
        except MalformedError as error:
            raise asgi.BadRequest(error.detail) from error
        if request.channel != str(channel):
            raise NotYours("the channel is not the one of this agent and this gateway")
        if payment.agent != agent or not verify_item(payment):
            raise IntentRefused("the intent is not signed by the agent for this channel")
        intent = payment.intent
        age = datetime.now(UTC) - signed_at(intent.nonce)
        if not lifetime_is_allowed(intent.nonce, intent.deadline) or not (
            -timedelta(seconds=CLOCK_SKEW_S) <= age <= INTENT_AGE_MAX
        ):
            raise IntentRefused("the intent is not recent")
        if not request.last_seq >= 0:
            raise asgi.BadRequest("last_seq is negative")
        return payment


def _amount(value: str | int) -> int:
    try:
        amount = parse_u64(value, "amount")
    except MalformedError as error:
        raise asgi.BadRequest(error.detail) from error
    if not amount:
        raise asgi.BadRequest("amount is zero")
    return amount


def _grant(wish: Wish) -> tuple[str, LeaseAnswer]:
    """The service's decision, and the standing after it."""
    decision = leases.grant(wish)
    standing = liability_answer(agent=wish.agent, asking_gateway=wish.gateway) or no_bond(wish.agent)
    if isinstance(decision, Refused):
        answer = LeaseAnswer(
            lease_id=None,
            amount="0",
            up_to="0",
            expires_at="",
            valid_ms=0,
            snapshot=standing.snapshot,
            channel=standing.channel,
            refused=decision.code,
        )
        return decision.code, answer
    return "granted", _granted(decision, standing.snapshot, standing.channel)


def _granted(lease: Granted, snapshot: Snapshot, channel: ChannelState | None) -> LeaseAnswer:
    return LeaseAnswer(
        lease_id=str(lease.id),
        amount=str(lease.amount),
        up_to=str(min(lease.up_to, U64_MAX)),
        expires_at=to_rfc3339(int(lease.expires_at.timestamp())),
        valid_ms=int(lease.valid.total_seconds() * 1000),
        snapshot=snapshot,
        channel=channel,
    )
