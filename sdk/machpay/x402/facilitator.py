"""The network's facilitator (`<relayer>/facilitator`: /supported, /verify, /settle) for the stock `x402` package.

`MachPayFacilitatorClient` is the stock HTTP client that hands what corrects a client's total on to the server's scheme:
the stock one drops it. It also asks a busy facilitator again, which both calls allow any number of times; the stock one
makes a refused payment of it. `MachPayFacilitatorScheme` lets a facilitator of one's own offer MachPay bonds by asking
the network's.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, TypeVar

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
BUSY_TRIES: Final = 5
BUSY_PAUSE_S: Final = 1.0
"""What the facilitator asks for in `Retry-After`."""
CORRECTIVE: Final[tuple[str, ...]] = ("committedTotal", "voucher", "receipt")

T = TypeVar("T")

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
        return _remembered(await self._patiently("verify", super().verify, payload, requirements))

    async def settle(
        self,
        payload: PaymentPayload | PaymentPayloadV1,
        requirements: PaymentRequirements | PaymentRequirementsV1,
    ) -> SettleResponse:
        return await self._patiently("settle", super().settle, payload, requirements)

    @staticmethod
    async def _patiently(name: str, ask: Callable[..., Awaitable[T]], *payment: object) -> T:
        for _ in range(BUSY_TRIES):
            try:
                return await ask(*payment)
            except ValueError as error:
                if not _is_busy(name, error):
                    raise
            await asyncio.sleep(BUSY_PAUSE_S)
        return await ask(*payment)


class MachPayFacilitatorClientSync(HTTPFacilitatorClientSync):
    """For `x402ResourceServerSync`. `url` is the facilitator's."""

    def __init__(self, url: str) -> None:
        super().__init__(FacilitatorConfig(url=url, timeout=TIMEOUT_S))

    def verify(
        self,
        payload: PaymentPayload | PaymentPayloadV1,
        requirements: PaymentRequirements | PaymentRequirementsV1,
    ) -> VerifyResponse:
        return _remembered(self._patiently("verify", super().verify, payload, requirements))

    def settle(
        self,
        payload: PaymentPayload | PaymentPayloadV1,
        requirements: PaymentRequirements | PaymentRequirementsV1,
    ) -> SettleResponse:
        return self._patiently("settle", super().settle, payload, requirements)

    @staticmethod
    def _patiently(name: str, ask: Callable[..., T], *payment: object) -> T:
        for _ in range(BUSY_TRIES):
            try:
                return ask(*payment)
            except ValueError as error:
                if not _is_busy(name, error):
                    raise
            time.sleep(BUSY_PAUSE_S)
        return ask(*payment)


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


def _is_busy(name: str, error: ValueError) -> bool:
    # The stock client tells the status in its text only.
    return str(error).startswith(f"Facilitator {name} failed (503)")


def _remembered(verified: VerifyResponse) -> VerifyResponse:
    extra = verified.extra or {}
    useful = {} if verified.is_valid else {name: extra[name] for name in CORRECTIVE if name in extra}
    _correction.set(useful)
    return verified
