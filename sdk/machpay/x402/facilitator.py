"""The network's facilitator (`<relayer>/facilitator`: /supported, /verify, /settle) for the stock `x402` package.

`MachPayFacilitatorClient` is the stock HTTP client that hands what corrects a client's total on to the server's scheme:
the stock one drops it. `MachPayFacilitatorScheme` lets a facilitator of one's own offer MachPay bonds by asking the
network's.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

from x402.http import FacilitatorConfig, HTTPFacilitatorClient, HTTPFacilitatorClientSync
from x402.interfaces import FacilitatorContext
from x402.schemas import (
    PaymentPayload,
    PaymentPayloadV1,
    PaymentRequirements,
    PaymentRequirementsV1,
    SettleResponse,
    SupportedKind,
    VerifyResponse,
)

from machpay.protocol.x402 import SCHEME

TIMEOUT_S: Final = 30.0
CORRECTIVE: Final[tuple[str, ...]] = ("committedTotal", "voucher", "receipt")

_correction: ContextVar[Mapping[str, Any]] = ContextVar("machpay_correction")
"""What the last verification of this request said to correct; a request's hooks all run in its own context."""


def take_correction() -> Mapping[str, Any]:
    """The fields that a refused client needs, once."""
    found = _correction.get({})
    _correction.set({})
    return found


class MachPayFacilitatorClient(HTTPFacilitatorClient):
    """For `x402ResourceServer`. `url` is the facilitator's."""

    def __init__(self, url: str) -> None:
        super().__init__(FacilitatorConfig(url=url, timeout=TIMEOUT_S))

    async def verify(
        self,
        payload: PaymentPayload | PaymentPayloadV1,
        requirements: PaymentRequirements | PaymentRequirementsV1,
    ) -> VerifyResponse:
        return _remembered(await super().verify(payload, requirements))


class MachPayFacilitatorClientSync(HTTPFacilitatorClientSync):
    """For `x402ResourceServerSync`. `url` is the facilitator's."""

    def __init__(self, url: str) -> None:
        super().__init__(FacilitatorConfig(url=url, timeout=TIMEOUT_S))

    def verify(
        self,
        payload: PaymentPayload | PaymentPayloadV1,
        requirements: PaymentRequirements | PaymentRequirementsV1,
    ) -> VerifyResponse:
        return _remembered(super().verify(payload, requirements))


class MachPayFacilitatorScheme:
    """For an `x402Facilitator`: answers with the word of the network's facilitator at `url`."""

    scheme = SCHEME
    caip_family = "solana:*"

    def __init__(self, url: str) -> None:
        self._client = MachPayFacilitatorClientSync(url)

    def get_extra(self, network: str) -> dict[str, Any] | None:
        """The deployment: programId, domain."""
        kind = self._kind(network)
        return None if kind is None else kind.extra

    def get_signers(self, network: str) -> list[str]:
        """The keys that settle on chain."""
        return self._client.get_supported().signers.get(self.caip_family, [])

    def verify(
        self,
        payload: PaymentPayload,
        requirements: PaymentRequirements,
        context: FacilitatorContext | None = None,
    ) -> VerifyResponse:
        """Whether the payment would be accepted; changes nothing."""
        return self._client.verify(payload, requirements)

    def settle(
        self,
        payload: PaymentPayload,
        requirements: PaymentRequirements,
        context: FacilitatorContext | None = None,
    ) -> SettleResponse:
        """Charge the payment; the same payment again is the same answer."""
        return self._client.settle(payload, requirements)

    def close(self) -> None:
        self._client.close()

    def _kind(self, network: str) -> SupportedKind | None:
        kinds = self._client.get_supported().kinds
        return next((kind for kind in kinds if (kind.scheme, kind.network) == (SCHEME, network)), None)


def _remembered(verified: VerifyResponse) -> VerifyResponse:
    extra = verified.extra or {}
    useful = {} if verified.is_valid else {name: extra[name] for name in CORRECTIVE if name in extra}
    _correction.set(useful)
    return verified
