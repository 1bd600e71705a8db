"""The peer: the stock x402 FastAPI middleware, its facilitator in the same process, one Ed25519 check per payment, the
answer served by the same application.

    python -m bench.paid_calls.peer PORT

The facilitator keeps nothing: no log, no replay guard, no receipt. That is the least a paid call can cost there.
`StockScheme` is the client's half.
"""

import base64
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from x402 import x402ResourceServer
from x402.http.middleware.fastapi import payment_middleware
from x402.http.types import PaymentOption, RouteConfig
from x402.interfaces import PaymentFlowConfig
from x402.schemas import (
    AssetAmount,
    PaymentPayload,
    PaymentRequirements,
    SettleResponse,
    SupportedKind,
    SupportedResponse,
    VerifyResponse,
)

from bench.paid_calls.upstream import BODY
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.keys import SigningKey, verify

SCHEME, NETWORK, PRICE = "ed25519", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "1000"
ASSET = PAY_TO = SigningKey(b"v" * 32).pubkey


def message(requirements: PaymentRequirements, nonce: str) -> bytes:
    """What the payer signs."""
    return f"{requirements.network}|{requirements.pay_to}|{requirements.amount}|{nonce}".encode()


class StockScheme:
    """The client's half: signs the requirements and a nonce."""

    scheme = SCHEME

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    def find_default_asset(self, asset: str, network: str) -> dict[str, Any]:
        return {"symbol": "USDC", "decimals": 6, "asset": asset}

    def create_payment_payload(
        self, requirements: PaymentRequirements, context: Any = None
    ) -> dict[str, Any]:
        nonce = os.urandom(16).hex()
        signature = base64.b64encode(self._key.sign(message(requirements, nonce))).decode()
        return {"payer": self._key.pubkey, "nonce": nonce, "signature": signature}


class Facilitator:
    """Verifies one signature; settling is saying yes."""

    async def verify(self, payload: PaymentPayload, requirements: PaymentRequirements) -> VerifyResponse:
        inner = payload.payload
        signature = base64.b64decode(inner["signature"])
        good = verify(parse_pubkey(inner["payer"], "payer"), message(requirements, inner["nonce"]), signature)
        return VerifyResponse(is_valid=good, payer=inner["payer"])

    async def settle(self, payload: PaymentPayload, requirements: PaymentRequirements) -> SettleResponse:
        return SettleResponse(
            success=True, transaction="", network=requirements.network, payer=payload.payload["payer"]
        )

    def get_supported(self) -> SupportedResponse:
        return SupportedResponse(
            kinds=[SupportedKind(x402_version=2, scheme=SCHEME, network=NETWORK)], extensions=[], signers={}
        )


class ServerScheme:
    """The server's half: the price is already in atomic units."""

    scheme = SCHEME
    default_asset_transfer_method = "default"
    payment_flows: Mapping[str, PaymentFlowConfig] = {
        "default": PaymentFlowConfig(supported=("authorization",), default="authorization")
    }

    def parse_price(self, price: Any, network: str) -> AssetAmount:
        return AssetAmount(amount=str(price), asset=ASSET)

    def enhance_payment_requirements(
        self, requirements: PaymentRequirements, supported_kind: SupportedKind, extensions: list[str]
    ) -> PaymentRequirements:
        return requirements


def build_app() -> FastAPI:
    server = x402ResourceServer(Facilitator())
    server.register(NETWORK, ServerScheme())
    option = PaymentOption(
        scheme=SCHEME, pay_to=PAY_TO, price=PRICE, network=NETWORK, max_timeout_seconds=600
    )
    pay = payment_middleware({"GET /paid": RouteConfig(accepts=option)}, server)
    app = FastAPI()

    @app.middleware("http")
    async def paid(request: Request, call_next: Any) -> Response:
        return await pay(request, call_next)

    @app.get("/paid")
    async def answer() -> Response:
        return Response(BODY, media_type="application/json")

    @app.get("/health")
    async def health() -> Response:
        return Response(b"{}", media_type="application/json")

    return app


def payment_header(key: SigningKey) -> str:
    """A `PAYMENT-SIGNATURE` that this server accepts, made like the stock client makes it."""
    accepted = PaymentRequirements(
        scheme=SCHEME,
        network=NETWORK,
        asset=ASSET,
        amount=PRICE,
        pay_to=PAY_TO,
        max_timeout_seconds=600,
        extra={},
    )
    inner = StockScheme(key).create_payment_payload(accepted)
    payload = PaymentPayload(payload=inner, accepted=accepted)
    text = json.dumps(payload.model_dump(by_alias=True, exclude_none=True), separators=(",", ":"))
    return base64.b64encode(text.encode()).decode()


if __name__ == "__main__":
    uvicorn.run(build_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
