"""A gateway that says what a test tells it to, over real HTTP. For lies that the real gateway cannot tell.

By default it is honest: it applies the accept rule, serves and signs receipts. A test replaces single steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec
from aiohttp import web

from machpay.chain.network import Network
from machpay.protocol import x402
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.offers import LOOKUP_PREFIX, Offer, PaymentLookup
from machpay.protocol.receipts import Receipt, SignedReceipt
from machpay.protocol.requests import request_hash
from tests.gateway.servers import Served, serve
from tests.sdk.model import GATEWAY, NETWORK, NOW

PRICE = 1_000


@dataclass
class Arrived:
    """A payment as the gateway got it."""

    intent: PaymentIntent
    signature: bytes
    header: str


@dataclass
class Scripted:
    """`change_offer`, `refuse`, `correct` and `sign` are the lies; `paid` is everything that was ever signed
    to it."""

    key: SigningKey = GATEWAY
    network: Network = NETWORK
    price: int = PRICE
    paid: list[Arrived] = field(default_factory=list)
    served: int = 0
    highest: Arrived | None = None
    receipts: dict[bytes, SignedReceipt] = field(default_factory=dict)
    change_offer: Callable[[Offer], Offer] = field(default=lambda offer: offer)
    refuse: Callable[[Arrived], str | None] = field(default=lambda arrived: None)
    correct: Callable[[Arrived], dict[str, object]] | None = None
    sign: Callable[[Receipt], SignedReceipt] | None = None
    bare: Callable[[Arrived], web.Response | None] = field(default=lambda arrived: None)
    extensions: dict[str, object] = field(default_factory=dict)
    remembers_s: float = 3_600
    server: Served | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get(LOOKUP_PREFIX + "{digest}", self._look_up)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self.server = await serve(app)

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop()

    @property
    def url(self) -> str:
        assert self.server is not None
        return self.server.url

    @property
    def signed(self) -> int:
        """The most it could claim on chain."""
        return max((arrived.intent.cumulative for arrived in self.paid), default=0)

    def offer(self, request: web.Request, body: bytes) -> Offer:
        return self.change_offer(
            Offer(
                network=self.network.caip2,
                program_id=self.network.program_id,
                mint=self.network.mint,
                domain=self.network.domain,
                vendor=SigningKey(b"\x19" * 32).public,
                gateway=self.key.public,
                amount=self.price,
                max_timeout_s=60,
                request_hash=request_hash(request.method, request.raw_path, body),
                binding="request",
            )
        )

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        header = request.headers.get(x402.SIGNATURE_HEADER)
        if header is None:
            return self._required(self.offer(request, body), "payment_required", {})
        terms = x402.parse_terms(x402.decode_payload(header).payload)
        channel = self.network.channel(terms.agent, self.key.public)
        arrived = Arrived(terms.intent(channel), terms.signature, header)
        assert arrived.intent.is_signed_by(terms.agent, terms.signature)
        self.paid.append(arrived)
        bare = self.bare(arrived)
        if bare is not None:
            return bare
        judged = self._judge(arrived)
        code = self.refuse(arrived) or judged
        if code is not None:
            extra = self._correction(arrived) if code == "cumulative_too_low" else {}
            return self._required(self.offer(request, body), code, extra)
        return self._serve(arrived, str(terms.agent))

    def _judge(self, arrived: Arrived) -> str | None:
        if arrived.intent.amount < self.price:
            return "amount_too_low"
        if self.highest is None or arrived.intent.cumulative > self.highest.intent.cumulative:
            self.highest = arrived
        return "cumulative_too_low" if self.highest.intent.cumulative < self.served + self.price else None

    def _correction(self, arrived: Arrived) -> dict[str, object]:
        if self.correct is not None:
            return self.correct(arrived)
        assert self.highest is not None
        voucher = self.highest.intent.voucher(self.highest.signature)
        return x402.correction_json(x402.Correction(self.served, voucher))

    def _serve(self, arrived: Arrived, payer: str) -> web.Response:
        self.served += self.price
        receipt = Receipt(arrived.intent.digest, 200, self.price, self.served, NOW)
        signed = receipt.sign(self.key) if self.sign is None else self.sign(receipt)
        self.receipts[arrived.intent.digest] = signed
        response = x402.PaymentResponse(
            success=True,
            payer=payer,
            network=self.network.caip2,
            amount=str(self.price),
            extra={"commitmentId": arrived.intent.digest.hex(), "receipt": signed.to_json()},
        )
        return web.json_response(
            {"served": True}, headers={x402.RESPONSE_HEADER: x402.encode_header(response)}
        )

    def _required(self, offer: Offer, code: str, extra: dict[str, object]) -> web.Response:
        requirements = offer.to_requirements()
        requirements.extra.update(extra)
        value = x402.PaymentRequired(
            x402.VERSION, code, x402.Resource(url="http://scripted/"), [requirements], self.extensions
        )
        return web.Response(
            status=402,
            body=msgspec.json.encode(value),
            headers={x402.REQUIRED_HEADER: x402.encode_header(value)},
        )

    async def _look_up(self, request: web.Request) -> web.Response:
        digest = bytes.fromhex(request.match_info["digest"])
        receipt = self.receipts.get(digest)
        lookup = PaymentLookup(digest.hex(), "unknown", remembers_s=self.remembers_s)
        if receipt is not None:
            lookup = PaymentLookup(digest.hex(), "served", receipt=receipt.to_json())
        return web.Response(body=msgspec.json.encode(lookup), content_type="application/json")


def changed(**fields: object) -> Callable[[Offer], Offer]:
    """An offer that differs in these fields."""
    return lambda offer: replace(offer, **fields)  # type: ignore[arg-type]
