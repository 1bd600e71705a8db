"""What a facilitator says to a stock x402 server: the bodies of `/supported`, `/verify`, `/settle` and of the
registration of hosted gateways.

A facilitator accepts payments for vendors that run no gateway. Each of them has a *hosted gateway*: an identity whose
key the facilitator holds, registered on chain to that vendor like any gateway, so that channels, charges and claims
are the same as everywhere. Shapes are x402 version 2; unknown fields are ignored on the way in.
"""

from typing import Any

import msgspec

from machpay.protocol.x402 import Requirements


class FacilitatorRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /verify` and `POST /settle`. The payload stays raw: whatever a buyer sent, the seller's
    server is to hear that it is not valid, and not that its own request failed."""

    x402_version: int = msgspec.field(name="x402Version")
    payment_payload: msgspec.Raw
    payment_requirements: Requirements


class VerifyAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """The answer of `POST /verify`. `extra` holds the correction of a cumulative that was too low."""

    is_valid: bool
    invalid_reason: str | None = None
    invalid_message: str | None = None
    payer: str | None = None
    extra: dict[str, Any] = {}


class SettleAnswer(msgspec.Struct, rename="camel"):
    """The answer of `POST /settle`. `transaction` is empty, because acceptance is off-chain; `extra` holds
    `commitmentId` (the intent's digest), `servedTotal` and the `receipt`, as in `PAYMENT-RESPONSE`."""

    success: bool
    network: str
    payer: str | None = None
    amount: str = "0"
    transaction: str = ""
    error_reason: str | msgspec.UnsetType = msgspec.UNSET
    error_message: str | msgspec.UnsetType = msgspec.UNSET
    extra: dict[str, Any] = {}


class SupportedKind(msgspec.Struct, rename="camel"):
    """One way to pay that the facilitator handles. `extra` says what every offer of this scheme must repeat."""

    x402_version: int = msgspec.field(name="x402Version")
    scheme: str
    network: str
    extra: dict[str, Any] = {}


class SupportedAnswer(msgspec.Struct, rename="camel"):
    """The answer of `GET /supported`. `signers` is empty: the vendor's own hosted gateway signs the receipts."""

    kinds: list[SupportedKind]
    extensions: list[str] = []
    signers: dict[str, list[str]] = {}


class HostedGateway(msgspec.Struct):
    """The answer of `GET /gateways/{vendor}`: the identity under which the facilitator accepts payments for this
    vendor, and whether the chain knows it finally."""

    vendor: str
    gateway: str
    registered: bool


class CosignRequest(msgspec.Struct):
    """The body of `POST /gateways/{vendor}`: base64 of the message of a transaction that does nothing but register
    the vendor's hosted gateway."""

    message: str


class CosignAnswer(msgspec.Struct):
    """The hosted gateway's signature over that message, base58."""

    gateway: str
    signature: str
