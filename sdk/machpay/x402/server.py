"""MachPay bonds at a stock `x402ResourceServer`: any server of the x402 package becomes a vendor's gateway.

    facilitator = MachPayFacilitatorClient("https://relayer.example/facilitator", key)
    server = x402ResourceServer(facilitator).register(network.caip2, MachPayServerScheme(network, key))

`key` is a gateway key, registered on chain for the vendor that routes pay to; with it the server signs a receipt for
everything it charges. The middleware does not show a scheme the request's body: payments are bound to method and path.
"""

import time
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from x402.interfaces import PaymentFlowConfig, SchemePaymentRequiredContext
from x402.schemas import (
    AssetAmount,
    PaymentRequirements,
    Price,
    SettleResponse,
    SettleResultContext,
    SupportedKind,
)

from machpay.chain.network import Network
from machpay.protocol.encoding import parse_hex, parse_u64
from machpay.protocol.keys import SigningKey
from machpay.protocol.receipts import Receipt
from machpay.protocol.requests import route_hash
from machpay.protocol.x402 import INTENT_VERSION, SCHEME
from machpay.x402.facilitator import take_correction
from machpay.x402.wallet import USDC_DECIMALS

SERVED_STATUS: Final = 200
"""The status in a receipt: the middleware settles for answers below 400 and does not show a scheme which."""


class MachPayServerScheme:
    """The server's side of the scheme. `gateway` signs receipts and is the key of the channels."""

    scheme = SCHEME
    default_asset_transfer_method = "default"
    payment_flows: Mapping[str, PaymentFlowConfig] = {
        "default": {"supported": ("authorization",), "default": "authorization"}
    }

    def __init__(self, network: Network, gateway: SigningKey) -> None:
        self._network = network
        self._gateway = gateway

    def parse_price(self, price: Price | Mapping[str, Any], network: str) -> AssetAmount:
        """`"$0.001"`, `0.001` or an `AssetAmount` of the network's token, as atomic units. Raises `ValueError`."""
        if network != self._network.caip2:
            raise ValueError(f"this scheme is for {self._network.caip2}, not {network}")
        mint = str(self._network.mint)
        if isinstance(price, Mapping):
            price = AssetAmount.model_validate(price)
        if isinstance(price, AssetAmount):
            if price.asset != mint:
                raise ValueError(f"the network's token is {mint}, not {price.asset}")
            return AssetAmount(amount=str(parse_u64(price.amount, "amount")), asset=mint, extra=price.extra)
        try:
            atomic = Decimal(str(price).strip().removeprefix("$")).scaleb(USDC_DECIMALS)
        except InvalidOperation as error:
            raise ValueError(f"{price!r} is not a price") from error
        if not atomic.is_finite() or atomic < 0 or atomic != int(atomic):
            raise ValueError(f"{price!r} is not a price with at most {USDC_DECIMALS} decimal places")
        return AssetAmount(amount=str(int(atomic)), asset=mint)

    def enhance_payment_requirements(
        self, requirements: PaymentRequirements, supported_kind: SupportedKind, extensions: list[str]
    ) -> PaymentRequirements:
        """Name the deployment and the gateway. Raises `ValueError` for a facilitator of another deployment."""
        ours = {"programId": str(self._network.program_id), "domain": str(self._network.domain)}
        for name, value in ours.items():
            theirs = (supported_kind.extra or {}).get(name, value)
            if theirs != value:
                raise ValueError(f"the facilitator's {name} is {theirs}, this server's is {value}")
        extra = {
            **requirements.extra,
            **ours,
            "gateway": self._gateway.pubkey,
            "intentVersion": INTENT_VERSION,
            "binding": "route",
        }
        return requirements.model_copy(update={"extra": extra})

    def enrich_payment_required_response(
        self, context: SchemePaymentRequiredContext
    ) -> list[PaymentRequirements] | None:
        """Add the hash of the request's method and path, and what helps a client whose total was too low."""
        request = getattr(context.transport_context, "request", None)
        if request is None:
            return None
        added: dict[str, Any] = {"requestHash": route_hash(request.method, request.path).hex()}
        # Only on the 402 that refuses: the requirements that a payment is compared with must stay as they were.
        if context.error is not None:
            added.update(take_correction())
        return [
            entry.model_copy(update={"extra": {**entry.extra, **added}}) if self._is_ours(entry) else entry
            for entry in context.requirements
        ]

    def enrich_settlement_response(self, context: SettleResultContext) -> dict[str, Any] | None:
        """The gateway's receipt for what the facilitator has taken, unless it came with one."""
        result: SettleResponse = context.result
        extra = result.extra or {}
        if "receipt" in extra:
            return None
        charged = parse_u64(result.amount or context.requirements.get_amount(), "amount")
        receipt = Receipt(
            digest=parse_hex(extra.get("commitmentId"), "commitmentId", 32),
            http_status=SERVED_STATUS,
            charged=charged,
            served_total=parse_u64(extra.get("servedTotal"), "servedTotal"),
            time=int(time.time()),
        )
        return {"receipt": receipt.sign(self._gateway).to_json()}

    def _is_ours(self, entry: PaymentRequirements) -> bool:
        return entry.scheme == SCHEME and entry.network == self._network.caip2
