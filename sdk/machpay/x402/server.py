"""MachPay bonds at a stock `x402ResourceServer`: its vendor needs no gateway of ours.

    url = "https://relayer.example/facilitator"
    scheme = await MachPayServerScheme.hosted(url, network, vendor)
    server = x402ResourceServer(MachPayFacilitatorClient(url)).register(network.caip2, scheme)

`vendor` is what routes pay to; the facilitator holds the key of the gateway that is registered on chain for it and
signs the receipts. The middleware does not show a scheme the request's body: payments are bound to method and path.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from solders.pubkey import Pubkey
from x402.interfaces import PaymentFlowConfig, SchemePaymentRequiredContext
from x402.schemas import (
    AssetAmount,
    PaymentRequirements,
    Price,
    SupportedKind,
)

from machpay.chain.hosting import FacilitatorError, hosted_gateway
from machpay.chain.network import Network
from machpay.protocol.encoding import parse_u64
from machpay.protocol.requests import route_hash
from machpay.protocol.x402 import INTENT_VERSION, SCHEME
from machpay.x402.facilitator import take_correction
from machpay.x402.wallet import USDC_DECIMALS


class MachPayServerScheme:
    """The server's side of the scheme. `gateways` are those of the vendors it sells for, all in base58."""

    scheme = SCHEME
    default_asset_transfer_method = "default"
    payment_flows: Mapping[str, PaymentFlowConfig] = {
        "default": {"supported": ("authorization",), "default": "authorization"}
    }

    def __init__(self, network: Network, gateways: Mapping[str, str]) -> None:
        self._network = network
        self._gateways = dict(gateways)

    @classmethod
    async def hosted(cls, facilitator_url: str, network: Network, *vendors: str) -> Self:
        """With the gateways that the facilitator hosts for these vendors (base58). Raises `FacilitatorError`, also for
        one that is not registered on chain: `machpay.chain.hosting` does that."""
        gateways = {}
        for vendor in vendors:
            found = await hosted_gateway(facilitator_url, Pubkey.from_string(vendor))
            if not found.registered:
                raise FacilitatorError(
                    f"gateway {found.gateway} of vendor {vendor} is not registered on chain"
                )
            gateways[vendor] = found.gateway
        return cls(network, gateways)

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
        """Name the deployment and the gateway. Raises `ValueError` for a facilitator of another deployment and a
        vendor whose gateway is not known."""
        ours = {"programId": str(self._network.program_id), "domain": str(self._network.domain)}
        for name, value in ours.items():
            theirs = (supported_kind.extra or {}).get(name, value)
            if theirs != value:
                raise ValueError(f"the facilitator's {name} is {theirs}, this server's is {value}")
        gateway = self._gateways.get(requirements.pay_to)
        if gateway is None:
            raise ValueError(f"no gateway of vendor {requirements.pay_to} is known")
        extra = {
            **requirements.extra,
            **ours,
            "gateway": gateway,
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

    def _is_ours(self, entry: PaymentRequirements) -> bool:
        return entry.scheme == SCHEME and entry.network == self._network.caip2
