"""In front of one process's application: is this request ours, or a sibling's?

    paid request         the identity that the payment names; a stranger's is refused by our own application
    unpaid, priced       the identity that the client knows already (its MachPay-Gateway header), else the one of its
                         address: one client is always offered the same
    anything else        ours

A request is passed on once at most and whole: method, target, headers and body as they arrived. A sibling that is not
there is 503: nobody else may decide on its channels. `/health` and `/metrics` speak for all processes of this machine,
and the look-up of a payment asks all siblings: while one is silent, nobody can say that it is not known.
"""

import asyncio
import base64
import binascii
import logging
import time
from typing import Any, Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from machpay.protocol.x402 import GATEWAY_HEADER
from machpay_gateway.answers import respond_json, respond_problem
from machpay_gateway.errors import RequestError, UpstreamError
from machpay_gateway.headers import HOP_BY_HOP, SIGNATURE
from machpay_gateway.limits import RateLimit, rate_limited
from machpay_gateway.own import manifest
from machpay_gateway.reply import ClientStalled, Reply
from machpay_gateway.request import ClientGone, Request
from machpay_gateway.routes import LOOK_UP_PREFIX, Priced
from machpay_gateway.runtime import Runtime
from machpay_gateway.siblings.family import Family
from machpay_gateway.siblings.line import Line
from machpay_gateway.siblings.merge import merge_health, merge_metrics
from machpay_gateway.siblings.seal import HEADER, unseal

RETRY_AFTER: Final = (b"retry-after", b"1")
KNOWN: Final = GATEWAY_HEADER.lower().encode()
_SAID_HERE: Final = HOP_BY_HOP | {b"date", b"x-request-id"}
"""What this process says itself about every answer."""
ASK_S: Final = 2.0
"""How long a sibling may take to answer about itself."""

logger = logging.getLogger(__name__)


class _Named(msgspec.Struct):
    gateway: str


class _Payment(msgspec.Struct):
    payload: _Named


_decoder = msgspec.json.Decoder(_Payment)


class Front:
    """An application in front of the gateway's. Use as an async context manager."""

    def __init__(self, runtime: Runtime, family: Family, secret: bytes) -> None:
        settings = runtime.settings
        self._runtime = runtime
        self._family = family
        self._secret = secret
        self._pubkey = family.pubkeys[family.own]
        self._routes = settings.routes
        limits = settings.limits
        self._rate = RateLimit(limits.rate_per_s, limits.rate_burst, limits.max_addresses)
        self._lines = {
            index: Line(family.urls[index], family.pubkeys[index], secret, settings.upstream)
            for index in family.others
        }

    async def __aenter__(self) -> "Front":
        for line in self._lines.values():
            await line.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for line in self._lines.values():
            await line.__aexit__(*exc_info)

    async def __call__(self, request: Request, reply: Reply) -> None:
        try:
            if not await self._answered(request, reply):
                await self._runtime.app(request, reply)
        except RequestError as error:
            await respond_problem(reply, error)
        except ClientGone:
            pass

    async def _answered(self, request: Request, reply: Reply) -> bool:
        """Answer what is not ours alone; False for the rest."""
        mark = request.header(HEADER)
        if mark is not None:
            origin = unseal(
                self._secret,
                mark,
                gateway=self._pubkey,
                method=request.method,
                target=request.target,
                now=time.time(),
            )
            if origin is None:
                raise RequestError(403, "not_a_sibling", f"{HEADER.decode()} is for siblings of this gateway")
            # From here on it is the client's own request, for this process whatever it is.
            request.comes_from(origin.client, origin.scheme)
            return False
        if request.path == "/health":
            await self._health(request, reply)
            return True
        if request.path == "/metrics":
            self._bound(request)
            await self._metrics(reply)
            return True
        if request.path == "/machpay.json" and request.method == "GET":
            document = manifest(self._runtime.settings, self._runtime.health()[0])
            document |= {"gateway": self._family.pubkeys[0], "gateways": list(self._family.pubkeys)}
            await respond_json(reply, 200, msgspec.json.encode(document))
            return True
        if request.path.startswith(LOOK_UP_PREFIX):
            self._bound(request)
            return await self._look_up(request, reply)
        home = self._home(request)
        if home == self._family.own:
            return False
        await self._pass_on(self._lines[home], request, reply)
        return True

    def _bound(self, request: Request) -> None:
        """Each of these asks every sibling, so that they are limited before, per address. Raises 429."""
        wait_s = self._rate.take(request.client_host or "")
        if wait_s:
            raise rate_limited(wait_s)

    # --- Whose it is ------------------------------------------------------------------------------------------------

    def _home(self, request: Request) -> int:
        own = self._family.own
        if request.wants_web_socket:
            # `Upgrade` does not travel, and a sibling would take the handshake for a plain request.
            return own
        payment = request.header(SIGNATURE)
        if payment is not None:
            named = _named_gateway(payment)
            index = None if named is None else self._family.index_of(named)
            return own if index is None else index
        if request.method == "OPTIONS":
            return own
        try:
            offer = self._routes.resolve(request.method, request.path, request.raw_path)
        except RequestError:
            return own
        if not isinstance(offer, Priced):
            return own
        # Any identity would do; what a client's headers say can only choose among our own.
        known = next((value for name, value in request.headers if name == KNOWN), None)
        index = None if known is None else self._family.index_of(known.decode("latin-1"))
        if index is not None:
            return index
        return self._family.home((request.client_host or "").encode())

    async def _pass_on(self, line: Line, request: Request, reply: Reply) -> None:
        await request.read_head()
        worker = f"worker {self._family.index_of(line.gateway)}"
        self._runtime.metrics.requests.add(1, "forwarded", worker)
        try:
            answer = await line.open(request)
        except UpstreamError as error:
            if error.status == 504:
                raise RequestError(504, "sibling_timeout", "the gateway process did not answer") from error
            raise RequestError(
                503, "sibling_unavailable", "the process that keeps this channel is not there", (RETRY_AFTER,)
            ) from error
        try:
            headers = [line for line in answer.headers if line[0] not in _SAID_HERE]
            await reply.start(answer.status, headers)
            try:
                async for piece in answer.chunks():
                    await reply.piece(piece, self._runtime.settings.limits.write_timeout_s)
            except ClientStalled:
                # Nor does a client that stopped reading keep the line to the sibling.
                request.abort()
                return
            except UpstreamError as error:
                logger.info("%s: sibling %s broke off its answer: %s", request.path, line.gateway, error)
                request.abort()
                return
            await reply.end()
        finally:
            answer.close()

    # --- Words about all of us --------------------------------------------------------------------------------------

    async def _health(self, request: Request, reply: Reply) -> None:
        if request.method not in ("GET", "HEAD"):
            raise RequestError(
                405, "method_not_allowed", "only GET is offered here", ((b"allow", b"GET, HEAD"),)
            )
        status, components = self._runtime.health()
        own = {"status": status, "service": "gateway", "gateway": self._pubkey, "components": components}
        found = {index: _document(answer) for index, answer in (await self._ask("/health")).items()}
        found[self._family.own] = own
        code, body = merge_health(self._family, found)
        await respond_json(reply, code, msgspec.json.encode(body))

    async def _metrics(self, reply: Reply) -> None:
        found = {index: answer[1] for index, answer in (await self._ask("/metrics")).items() if answer}
        found[self._family.own] = self._runtime.metrics.render()
        text = merge_metrics(found)
        await reply.whole(200, [(b"content-type", CONTENT_TYPE_LATEST.encode())], text)

    async def _look_up(self, request: Request, reply: Reply) -> bool:
        """Answer with what the siblings know of a payment; False if we know it ourselves.

        Raises 503 if nobody knows it, but a sibling did not answer: "unknown" would let its client pay again.
        """
        digest = request.path.rpartition("/")[2]
        if request.method != "GET" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            return False
        found = self._runtime.payments.find(bytes.fromhex(digest))
        if found.state != "unknown" or found.in_flight:
            return False
        answers = (await self._ask(request.path, everywhere=True)).values()
        documents = [
            _document(answer) if answer is not None and answer[0] == 200 else None for answer in answers
        ]
        for told in documents:
            if told is not None and (told.get("status") != "unknown" or told.get("in_flight")):
                await respond_json(reply, 200, msgspec.json.encode(told))
                return True
        if None in documents:
            raise RequestError(
                503,
                "sibling_unavailable",
                "a process that may know this payment is not there",
                (RETRY_AFTER,),
            )
        # Nobody knows it, which means as much as the shortest memory.
        reach = [found.remembers_s, *(told.get("remembers_s", 0) for told in documents if told)]
        nothing = {"digest": digest, "status": "unknown", "in_flight": False, "remembers_s": min(reach)}
        await respond_json(reply, 200, msgspec.json.encode(nothing))
        return True

    async def _ask(self, target: str, *, everywhere: bool = False) -> dict[int, tuple[int, bytes] | None]:
        """Every sibling's answer, of this machine or of all; None from who does not answer."""
        indexes = [index for index in self._lines if everywhere or index in self._family.local]

        async def ask(index: int) -> tuple[int, bytes] | None:
            try:
                async with asyncio.timeout(ASK_S):
                    return await self._lines[index].read(target)
            except (UpstreamError, TimeoutError):
                return None

        return dict(zip(indexes, await asyncio.gather(*map(ask, indexes)), strict=True))


def _named_gateway(payment: bytes) -> str | None:
    """The gateway in a payment header; None if it does not parse, which our own application says best."""
    try:
        return _decoder.decode(base64.b64decode(payment, validate=True)).payload.gateway
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
        return None


def _document(answer: tuple[int, bytes] | None) -> dict[str, Any] | None:
    if answer is None:
        return None
    try:
        document = msgspec.json.decode(answer[1])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return document if isinstance(document, dict) else None
