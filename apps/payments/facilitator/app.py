"""The facilitator's HTTP: `/supported`, `/verify`, `/settle` as stock x402 servers call them, and hosted gateways.

Anybody may call it. `/verify` changes nothing; `/settle` charges only what an agent signed for the vendor it names, at
most once. A payment that is not valid is an answer with its reason (200); a request that the seller's server got wrong
is a problem (400).
"""

import base64
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from solders.message import Message, MessageV0, from_bytes_versioned, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature

from apps.core import asgi
from apps.payments.errors import UnknownGateway
from apps.payments.facilitator.judge import Judged, Refusal, judge
from apps.payments.facilitator.keys import HostedKeys
from apps.payments.relayer import metrics
from apps.payments.relayer.directory import Directory
from apps.payments.relayer.threads import Threads
from apps.payments.selectors.bonds import has_bond
from apps.payments.services.facilitation import Declined, Order, charge, preview
from machpay.chain.instructions import register_gateway
from machpay.chain.network import Network
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.facilitator import (
    CosignAnswer,
    CosignRequest,
    FacilitatorRequest,
    HostedGateway,
    SettleAnswer,
    SupportedAnswer,
    SupportedKind,
    VerifyAnswer,
)
from machpay.protocol.keys import SigningKey
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.x402 import INTENT_VERSION, SCHEME, VERSION, correction_json

BODY_BYTES_MAX: Final = 64 * 1024
REQUESTS_IN_FLIGHT_MAX: Final = 256
MESSAGE_BYTES_MAX: Final = 1232

T = TypeVar("T")
_request_decoder = msgspec.json.Decoder(FacilitatorRequest)
_cosign_decoder = msgspec.json.Decoder(CosignRequest)


class Facilitator:
    """Answers everything below `/facilitator`."""

    def __init__(self, *, network: Network, keys: HostedKeys, directory: Directory, threads: Threads) -> None:
        self._network = network
        self._keys = keys
        self._directory = directory
        self._threads = threads
        self._in_flight = asgi.InFlight(REQUESTS_IN_FLIGHT_MAX, "too many payments are being looked at")
        self._supported = msgspec.json.encode(_supported(network))

    async def __call__(self, path: str, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one request; `path` is what follows `/facilitator`."""
        method = scope["method"]
        if path == "/supported" and method == "GET":
            await asgi.respond(send, 200, self._supported)
        elif path == "/verify" and method == "POST":
            await asgi.respond_json(send, await self._bounded(self._verify, scope, receive))
        elif path == "/settle" and method == "POST":
            await asgi.respond_json(send, await self._bounded(self._settle, scope, receive))
        elif path.startswith("/gateways/") and method in ("GET", "POST"):
            vendor = _parsed(lambda: parse_pubkey(path.removeprefix("/gateways/"), "vendor"))
            if method == "GET":
                await asgi.respond_json(send, await self._hosted(vendor))
            else:
                body = await asgi.read_body(scope, receive, limit=BODY_BYTES_MAX)
                await asgi.respond_json(send, self._cosign(vendor, body))
        elif path in ("/supported", "/verify", "/settle"):
            raise asgi.MethodNotAllowed("GET" if path == "/supported" else "POST")
        else:
            raise asgi.NotFound("the facilitator answers /supported, /verify, /settle and /gateways/{vendor}")

    # ---- payments

    async def _bounded(self, handle: Callable[[bytes], Any], scope: asgi.Scope, receive: asgi.Receive) -> Any:
        with self._in_flight:
            return await handle(await asgi.read_body(scope, receive, limit=BODY_BYTES_MAX))

    async def _verify(self, body: bytes) -> VerifyAnswer:
        judged = await self._judged(body, settling=False)
        if isinstance(judged, Judged):
            found = await self._threads.database(preview, _order(judged))
            if isinstance(found, SignedReceipt):
                # Or one payment would buy any number of answers: a stock server works for whatever verifies.
                found = Declined(
                    RefusalCode.NONCE_REPLAYED,
                    "this payment was charged before: it bought one answer",
                    receipt=found,
                )
            if isinstance(found, Declined):
                judged = _refusal(judged, found)
        if isinstance(judged, Judged):
            metrics.FACILITATED.labels("verify", "valid").inc()
            return VerifyAnswer(is_valid=True, payer=str(judged.attempt.agent))
        metrics.FACILITATED.labels("verify", judged.reason).inc()
        return VerifyAnswer(
            is_valid=False,
            invalid_reason=judged.reason,
            invalid_message=judged.message,
            payer=judged.payer,
            extra=judged.extra,
        )

    async def _settle(self, body: bytes) -> SettleAnswer:
        judged = await self._judged(body, settling=True)
        if isinstance(judged, Judged):
            found = await self._threads.database(charge, _order(judged), mint=str(self._network.mint))
            if isinstance(found, SignedReceipt):
                metrics.FACILITATED.labels("settle", "charged").inc()
                return self._settled(judged, found)
            judged = _refusal(judged, found)
        metrics.FACILITATED.labels("settle", judged.reason).inc()
        return SettleAnswer(
            success=False,
            network=self._network.caip2,
            payer=judged.payer,
            error_reason=judged.reason,
            error_message=judged.message,
            extra=judged.extra,
        )

    def _settled(self, judged: Judged, receipt: SignedReceipt) -> SettleAnswer:
        return SettleAnswer(
            success=True,
            network=self._network.caip2,
            payer=str(judged.attempt.agent),
            amount=str(receipt.receipt.charged),
            extra={
                "commitmentId": receipt.receipt.digest.hex(),
                "servedTotal": str(receipt.receipt.served_total),
                "receipt": receipt.to_json(),
            },
        )

    async def _judged(self, body: bytes, *, settling: bool) -> Judged | Refusal:
        """The payment, if it is in order by itself, its vendor is hosted here and its agent is known."""
        request = asgi.decode(_request_decoder, body, "the body is not a facilitator request")
        try:
            judged = await self._threads.verify(
                judge, request, network=self._network, keys=self._keys, now=time.time(), settling=settling
            )
        except MalformedError as error:
            raise asgi.BadRequest(error.detail) from error
        if isinstance(judged, Refusal):
            return judged
        if not await self._is_hosted(judged.vendor, judged.hosted):
            raise asgi.BadRequest(
                f"{judged.hosted.pubkey} is not registered on chain as a gateway of {judged.vendor}; "
                "see /facilitator/gateways/{vendor}"
            )
        agent = str(judged.attempt.agent)
        if not await self._threads.database(has_bond, agent):
            # Nobody is told "no bond" from a mirror that may only be late.
            await self._directory.refresh_agent(agent, asker="facilitator")
        return judged

    # ---- hosted gateways

    async def _is_hosted(self, vendor: Pubkey, hosted: SigningKey) -> bool:
        try:
            return await self._directory.vendor_of(hosted.pubkey) == str(vendor)
        except UnknownGateway:
            return False

    async def _hosted(self, vendor: Pubkey) -> HostedGateway:
        hosted = self._keys.of(vendor)
        return HostedGateway(
            vendor=str(vendor), gateway=hosted.pubkey, registered=await self._is_hosted(vendor, hosted)
        )

    def _cosign(self, vendor: Pubkey, body: bytes) -> CosignAnswer:
        """Sign a transaction that registers the vendor's hosted gateway at the vendor's expense, and nothing else."""
        request = asgi.decode(_cosign_decoder, body, "the body must be {message}")
        try:
            raw = base64.b64decode(request.message, validate=True)
        except ValueError as error:
            raise asgi.BadRequest(f"message must be base64 of a transaction's message: {error}") from error
        hosted = self._keys.of(vendor)
        if len(raw) > MESSAGE_BYTES_MAX or not _registers_only(raw, self._network, vendor, hosted.public):
            raise asgi.BadRequest(
                "the message must hold one instruction, register_gateway for the vendor's hosted gateway, "
                "paid by the vendor"
            )
        return CosignAnswer(gateway=hosted.pubkey, signature=str(Signature(hosted.sign(raw))))


def _supported(network: Network) -> SupportedAnswer:
    extra = {
        "programId": str(network.program_id),
        "domain": str(network.domain),
        "asset": str(network.mint),
        "intentVersion": INTENT_VERSION,
    }
    return SupportedAnswer(
        kinds=[SupportedKind(x402_version=VERSION, scheme=SCHEME, network=network.caip2, extra=extra)]
    )


def _registers_only(raw: bytes, network: Network, vendor: Pubkey, gateway: Pubkey) -> bool:
    """Whether the message is exactly what `register_gateway` builds, with any recent blockhash."""
    try:
        message = from_bytes_versioned(raw)
    except ValueError:
        return False
    expected = register_gateway(network, gateway=gateway, authority=vendor)
    if isinstance(message, MessageV0):
        same: Message | MessageV0 = MessageV0.try_compile(vendor, [expected], [], message.recent_blockhash)
    else:
        same = Message.new_with_blockhash([expected], vendor, message.recent_blockhash)
    return raw == to_bytes_versioned(same)


def _order(judged: Judged) -> Order:
    return Order(judged.attempt, judged.nonce_time, judged.vendor, judged.hosted, judged.price_atomic)


def _refusal(judged: Judged, declined: Declined) -> Refusal:
    extra: dict[str, object] = {}
    if declined.correction is not None:
        extra = correction_json(declined.correction, declined.receipt)
    elif declined.receipt is not None:
        extra = {"receipt": declined.receipt.to_json()}
    return Refusal(declined.code, declined.detail, str(judged.attempt.agent), extra)


def _parsed(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except MalformedError as error:
        raise asgi.BadRequest(error.detail) from error
