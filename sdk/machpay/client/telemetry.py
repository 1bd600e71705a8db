"""What an agent tells the network's receiver every minute: its wallet, and how its calls to each vendor went.

Lossy by design: nothing here delays or fails a call. A packet that cannot be sent waits for the next minute;
more than `MAX_WAITING` of them are dropped, oldest first, counted and logged.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError
from machpay.chain.tokens import associated_token_address
from machpay.client.balance import BalanceWatch
from machpay.client.config import MachPayConfig
from machpay.client.errors import (
    ClientError,
    GatewayUnreachableError,
    PaymentRefusedError,
    UnresolvedPaymentError,
)
from machpay.client.transport import Transport
from machpay.protocol.encoding import to_rfc3339
from machpay.protocol.events import BATCH_CONTENT_TYPE, SDK_TELEMETRY, CloudEvent, encode_batch
from machpay.protocol.signed_requests import sign_request

PERIOD_S: Final = 60.0
MAX_WAITING: Final = 10
MAX_VENDORS: Final = 100
"""Vendors named in one packet; calls to others are counted together as `other`."""
MAX_SAMPLES: Final = 2_000
LAST_SEND_S: Final = 2.0
INGEST: Final = "/v1/ingest"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Interactions:
    """Calls to one vendor in one period. Latencies in ms: `payment` is everything before the last signed request
    left (price, signatures, refusals), `vendor` from there to the answer."""

    attempts: int = 0
    success: int = 0
    spend_atomic: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    payment_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    vendor_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))

    def to_json(self) -> dict[str, Any]:
        return {
            "attempts": self.attempts,
            "success": self.success,
            "payment_latency_p99": p99(self.payment_ms),
            "vendor_latency_p99": p99(self.vendor_ms),
            "errors": dict(self.errors),
            "spend_atomic": self.spend_atomic,
        }


def error_name(error: ClientError) -> str:
    """What a failed call is counted as: the gateway's code, or our own word."""
    if isinstance(error, PaymentRefusedError):
        return error.code if error.attempts == 1 else "402_loop_failed"
    if isinstance(error, GatewayUnreachableError | UnresolvedPaymentError) and "Timeout" in error.detail:
        return "timeout"
    return type(error).__name__


def p99(samples: deque[float]) -> float | None:
    """The smallest sample that at least 99 % do not exceed."""
    if not samples:
        return None
    return round(sorted(samples)[math.ceil(0.99 * len(samples)) - 1], 3)


class Telemetry:
    """Collects in memory and sends from a task of its own."""

    def __init__(
        self,
        config: MachPayConfig,
        receiver_url: str,
        transport: Transport,
        chain: ChainClient | None,
        watch: BalanceWatch | None,
    ) -> None:
        self._config = config
        self._url = receiver_url.rstrip("/") + INGEST
        self._transport = transport
        self._chain = chain
        self._watch = watch
        self._interactions: dict[str, Interactions] = {}
        self._began = int(time.time())
        self._waiting: deque[CloudEvent] = deque()
        self.dropped = 0
        """Packets that were given up."""

    def called(
        self,
        vendor: str,
        *,
        payment_ms: float,
        vendor_ms: float | None,
        spend_atomic: int,
        error: str | None,
    ) -> None:
        """One call has ended. `vendor` is its key, or the origin while that is unknown."""
        if vendor not in self._interactions and len(self._interactions) >= MAX_VENDORS:
            vendor = "other"
        entry = self._interactions.setdefault(vendor, Interactions())
        entry.attempts += 1
        entry.spend_atomic += spend_atomic
        entry.payment_ms.append(payment_ms)
        if vendor_ms is not None:
            entry.vendor_ms.append(vendor_ms)
        if error is None:
            entry.success += 1
        else:
            entry.errors[error] += 1

    def spent(self, vendor: str, amount_atomic: int) -> None:
        """What a call that has been counted already has cost in the end."""
        entry = self._interactions.setdefault(vendor, Interactions())
        entry.spend_atomic += amount_atomic

    async def run(self) -> None:
        """Send a packet a minute; when cancelled, a last one for calls not told yet, if the receiver takes it soon."""
        try:
            while True:
                await asyncio.sleep(PERIOD_S)
                await self._report()
        except asyncio.CancelledError:
            if self._interactions or self._waiting:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LAST_SEND_S):
                        await self._report()
                lost = len(self._waiting) + bool(self._interactions)
                self._waiting.clear()
                self._count_dropped(lost, "the client closes")
            raise

    async def _report(self) -> None:
        try:
            self._waiting.append(await self._packet())
            while self._waiting and await self._send(self._waiting[0]):
                self._waiting.popleft()
        except Exception:
            logger.exception("telemetry failed")
        too_many = max(0, len(self._waiting) - MAX_WAITING)
        for _ in range(too_many):
            self._waiting.popleft()
        self._count_dropped(too_many, "the receiver is away")

    async def _send(self, event: CloudEvent) -> bool:
        """True if this packet is done with: stored, or refused for good."""
        body = encode_batch([event])
        headers = sign_request(self._config.key, "POST", INGEST, body)
        request = self._transport.build(
            "POST", self._url, content=body, headers={"Content-Type": BATCH_CONTENT_TYPE, **headers}
        )
        try:
            answer = await self._transport.ask(request)
        except GatewayUnreachableError as error:
            logger.warning("telemetry: %s", error)
            return False
        if answer.status_code in (400, 413, 422):
            self._count_dropped(1, f"refused with {answer.status_code}: {answer.text[:200]}")
            return True
        return answer.is_success

    async def _packet(self) -> CloudEvent:
        sol, usdc = await self._wallet()
        began, interactions = self._began, self._interactions
        self._began, self._interactions = int(time.time()), {}
        data = {
            "source": "sdk",
            "agent_id": self._config.key.pubkey,
            "period_start": began,
            "period_end": self._began,
            "wallet": {
                "sol_balance_lamports": sol,
                "usdc_balance_atomic": usdc,
                "low_balance_warnings": 0 if self._watch is None else self._watch.warnings,
            },
            "interactions": {vendor: entry.to_json() for vendor, entry in interactions.items()},
        }
        source = f"agent:{self._config.key.pubkey}"
        return CloudEvent(source, SDK_TELEMETRY, to_rfc3339(self._began), data)

    async def _wallet(self) -> tuple[int | None, int | None]:
        """SOL in lamports and tokens in atomic units; None where the chain does not say."""
        if self._chain is None:
            return None, None
        key, mint = self._config.key.public, self._config.network.mint
        try:
            return (
                await self._chain.lamports(key),
                await self._chain.token_balance(associated_token_address(key, mint)),
            )
        except ChainError as error:
            logger.warning("telemetry: reading the wallet: %s", error)
            return None, None

    def _count_dropped(self, count: int, why: str) -> None:
        if count:
            self.dropped += count
            logger.warning("%d telemetry packets dropped so far: %s", self.dropped, why)
