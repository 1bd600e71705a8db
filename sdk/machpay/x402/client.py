"""Schemes for the stock client: `x402Client().register("solana:*", MachPayScheme(config))`.

    async with x402HttpxClient(client) as http: ...        MachPayScheme,     httpx
    with x402_requests(client) as session: ...             MachPaySchemeSync, requests

The stock client retries a refused payment once, and only if the scheme's hook says that it can help: a total that was
too low (this process has lost its state, or another one pays with the same key) or a request that is hashed otherwise.
"""

import asyncio
import inspect
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec
from x402.interfaces import PaymentPayloadContext
from x402.schemas import (
    PaymentCreationContext,
    PaymentRequired,
    PaymentRequirements,
    PaymentResponseContext,
    RecoveredResponseResult,
)

from machpay.client.config import MachPayConfig
from machpay.client.errors import ApprovalDeniedError, ConfigError, GatewayMismatchError
from machpay.protocol.errors import MalformedError
from machpay.protocol.offers import Offer
from machpay.protocol.x402 import SCHEME, Requirements
from machpay.x402.wallet import USDC_DECIMALS, Answer, Wallet, read_watermark

T = TypeVar("T")

NETWORKS: Final = "solana:*"
"""What to register a scheme for."""


class _Scheme:
    """What both kinds of client call."""

    scheme = SCHEME

    def __init__(self, config: MachPayConfig) -> None:
        self._wallet = Wallet(config)
        self._config = config

    @property
    def agent(self) -> str:
        """The agent's public key, base58."""
        return self._config.key.pubkey

    @property
    def scheme_hooks(self) -> dict[str, Any]:
        return {
            "on_before_payment_creation": self.on_before_payment_creation,
            "on_payment_response": self.on_payment_response,
        }

    def find_default_asset(self, asset: str, network: str) -> dict[str, Any] | None:
        """The network's own token, so that the stock client's spend controls know its decimals."""
        if not self._wallet.knows_asset(asset, network):
            return None
        return {"symbol": "USDC", "decimals": USDC_DECIMALS, "asset": asset}

    def create_payment_payload(
        self, requirements: PaymentRequirements, context: PaymentPayloadContext | None = None
    ) -> dict[str, Any]:
        """The signed payment for one 402. Raises a `ClientError`, which the stock client wraps in its own."""
        payload: dict[str, Any] = msgspec.to_builtins(self._wallet.pay(_typed(requirements), requirements))
        return payload

    def close(self) -> None:
        """Write the totals down."""
        self._wallet.save()

    def on_before_payment_creation(self, context: PaymentCreationContext) -> Any:
        raise NotImplementedError

    def on_payment_response(self, context: PaymentResponseContext) -> Any:
        raise NotImplementedError

    def _asked(self, context: PaymentCreationContext) -> tuple[PaymentRequirements, str]:
        """What is to be paid, and the URL it is said to be for."""
        required, requirements = context.payment_required, context.selected_requirements
        if not isinstance(required, PaymentRequired) or not isinstance(requirements, PaymentRequirements):
            raise GatewayMismatchError("the 402", "it is not x402 version 2")
        return requirements, "" if required.resource is None else required.resource.url

    def _unknown_vendor(self, context: PaymentCreationContext) -> tuple[Offer, str] | None:
        """The offer whose vendor has to be read from the chain, and its URL."""
        requirements, url = self._asked(context)
        offer = self._wallet.needs_vendor(_typed(requirements), url)
        return None if offer is None else (offer, url)

    def _ask(self, context: PaymentCreationContext) -> Any:
        """What the approval callback answers; True when it need not be asked."""
        requirements, url = self._asked(context)
        proposal = self._wallet.proposal(_typed(requirements), url, requirements)
        approve = self._config.budgets.approve
        return True if proposal is None or approve is None else approve(proposal)

    def _check(self, answer: object, context: PaymentCreationContext) -> None:
        # Only a plain True pays: a callback that forgot to return anything has not approved.
        if answer is not True:
            raise ApprovalDeniedError("the 402", int(context.selected_requirements.get_amount()))

    def _answered(self, context: PaymentResponseContext, watermark: int) -> RecoveredResponseResult | None:
        helps = self._wallet.answered(
            context.payment_payload.payload, context.requirements, _answer(context), watermark
        )
        return RecoveredResponseResult() if helps else None


class MachPayScheme(_Scheme):
    """For `x402Client`, the asynchronous one."""

    async def on_before_payment_creation(self, context: PaymentCreationContext) -> None:
        """Check whom it pays and ask for approval where the agent's budgets demand it. Raises `BudgetError`s."""
        unknown = self._unknown_vendor(context)
        if unknown is not None:
            await self._wallet.check_vendor(*unknown)
        answer = self._ask(context)
        self._check(await answer if inspect.isawaitable(answer) else answer, context)

    async def on_payment_response(self, context: PaymentResponseContext) -> RecoveredResponseResult | None:
        """Count what was charged, or learn why a payment was refused; a result asks for one more payment."""
        channel = self._wallet.needs_watermark(context.payment_payload.payload, _answer(context))
        return self._answered(context, 0 if channel is None else await read_watermark(self._config, channel))


class MachPaySchemeSync(_Scheme):
    """For `x402ClientSync`. The approval callback must not be a coroutine function."""

    def on_before_payment_creation(self, context: PaymentCreationContext) -> None:
        """Check whom it pays and ask for approval where the agent's budgets demand it. Raises `BudgetError`s."""
        unknown = self._unknown_vendor(context)
        if unknown is not None:
            _run(self._wallet.check_vendor(*unknown))
        answer = self._ask(context)
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise ConfigError("the approval callback of a blocking client must not be asynchronous")
        self._check(answer, context)

    def on_payment_response(self, context: PaymentResponseContext) -> RecoveredResponseResult | None:
        """Count what was charged, or learn why a payment was refused; a result asks for one more payment."""
        channel = self._wallet.needs_watermark(context.payment_payload.payload, _answer(context))
        return self._answered(context, 0 if channel is None else _run(read_watermark(self._config, channel)))


def _run(reading: Coroutine[Any, Any, T]) -> T:
    """In a thread of its own: the caller's may be inside a running event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, reading).result()


def _typed(requirements: PaymentRequirements) -> Requirements:
    try:
        return msgspec.convert(requirements.model_dump(by_alias=True), Requirements)
    except msgspec.ValidationError as error:
        raise GatewayMismatchError("the 402", str(error)) from error


def _answer(context: PaymentResponseContext) -> Answer:
    """The gateway's word from `PAYMENT-RESPONSE`, else from a new 402."""
    settled = context.settle_response
    if settled is not None:
        return Answer(None if settled.success else settled.error_reason or "", settled.extra or {})
    required = context.payment_required
    if not isinstance(required, PaymentRequired):
        raise MalformedError("an answer without PAYMENT-RESPONSE must be an x402 version 2 PAYMENT-REQUIRED")
    extra = next((entry.extra for entry in required.accepts if entry.scheme == SCHEME), {})
    return Answer(required.error or "", extra)
