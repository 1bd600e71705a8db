"""The network's facilitator (`<relayer>/facilitator`: /supported, /verify, /settle) for the stock `x402` package.

`MachPayFacilitatorClient` is the stock HTTP client that signs its requests with the gateway's key and hands what
corrects a client's total on to the server's scheme: the stock classes drop it. `MachPayFacilitatorScheme` lets a
facilitator of one's own offer MachPay bonds by asking the network's.
"""

from collections.abc import Generator, Mapping
from contextvars import ContextVar
from typing import Any, Final

import httpx
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

from machpay.protocol.keys import SigningKey
from machpay.protocol.signed_requests import sign_request
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
    """For `x402ResourceServer`. `url` is the facilitator's; with the gateway's `key` requests are signed."""

    def __init__(self, url: str, key: SigningKey | None = None) -> None:
        http = httpx.AsyncClient(timeout=TIMEOUT_S, auth=None if key is None else _Signed(key))
        super().__init__(FacilitatorConfig(url=url, timeout=TIMEOUT_S, http_client=http))

    async def verify(
        self,
        payload: PaymentPayload | PaymentPayloadV1,
        requirements: PaymentRequirements | PaymentRequirementsV1,
    ) -> VerifyResponse:
        return _remembered(await super().verify(payload, requirements))

    async def aclose(self) -> None:
        if self._http_client is not None:
            await self._http_client.aclose()


class MachPayFacilitatorClientSync(HTTPFacilitatorClientSync):
    """For `x402ResourceServerSync`. `url` is the facilitator's; with the gateway's `key` requests are signed."""

    def __init__(self, url: str, key: SigningKey | None = None) -> None:
        http = httpx.Client(timeout=TIMEOUT_S, auth=None if key is None else _Signed(key))
        super().__init__(FacilitatorConfig(url=url, timeout=TIMEOUT_S, http_client=http))

    def verify(
        self,
        payload: PaymentPayload | PaymentPayloadV1,
        requirements: PaymentRequirements | PaymentRequirementsV1,
    ) -> VerifyResponse:
        return _remembered(super().verify(payload, requirements))

    def close(self) -> None:
        if self._http_client is not None:
            self._http_client.close()


class MachPayFacilitatorScheme:
    """For an `x402Facilitator`: answers with the word of the network's facilitator at `url`."""

    scheme = SCHEME
    caip_family = "solana:*"

    def __init__(self, url: str, key: SigningKey | None = None) -> None:
        self._client = MachPayFacilitatorClientSync(url, key)

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


class _Signed(httpx.Auth):
    """The network's signed requests, with the gateway's key."""

    requires_request_body = True

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        target = request.url.raw_path.decode("ascii")
        request.headers.update(sign_request(self._key, request.method, target, request.content))
        yield request


def _remembered(verified: VerifyResponse) -> VerifyResponse:
    extra = verified.extra or {}
    useful = {} if verified.is_valid else {name: extra[name] for name in CORRECTIVE if name in extra}
    _correction.set(useful)
    return verified
