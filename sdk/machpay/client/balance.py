"""Watches what an agent can still spend and says so once when it runs low."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import httpx
import msgspec

from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError
from machpay.client.errors import GatewayUnreachableError
from machpay.client.transport import Transport
from machpay.protocol.encoding import decode_json
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey
from machpay.protocol.signed_requests import sign_request
from machpay.protocol.snapshots import LiabilityAnswer

logger = logging.getLogger(__name__)
_decoder: Final = msgspec.json.Decoder(LiabilityAnswer)


@dataclass(frozen=True, slots=True)
class LowBalance:
    """What the low-balance callback is told. `available_atomic` is the bond less what is charged and not
    settled yet."""

    agent: str
    available_atomic: int
    threshold_atomic: int


OnLowBalance = Callable[[LowBalance], Awaitable[None] | None]


async def ask_relayer(
    transport: Transport, key: SigningKey, relayer_url: str, method: str, target: str, body: bytes = b""
) -> httpx.Response:
    """The relayer's answer to a request signed with `key`, whatever its status. Raises `GatewayUnreachableError`."""
    headers = sign_request(key, method, target, body)
    if body:
        headers = {**headers, "Content-Type": "application/json"}
    request = transport.build(method, relayer_url.rstrip("/") + target, headers=headers, content=body or None)
    return await transport.ask(request)


async def ask_liability(transport: Transport, key: SigningKey, relayer_url: str) -> LiabilityAnswer:
    """The relayer's word on the agent of `key`. Raises `GatewayUnreachableError`, `MalformedError`."""
    target = f"/liability/{key.pubkey}"
    answer = await ask_relayer(transport, key, relayer_url, "GET", target)
    liability: LiabilityAnswer = decode_json(_decoder, answer.content, "the relayer's answer")
    return liability


class BalanceWatch:
    """Looks every `every_s` seconds, and when a gateway says the bond is short. With a relayer the figure is
    what is really left; with the chain alone it is the bond."""

    def __init__(
        self,
        *,
        key: SigningKey,
        transport: Transport,
        chain: ChainClient | None,
        relayer_url: str | None,
        threshold_atomic: int,
        every_s: float,
        tell: OnLowBalance,
    ) -> None:
        self._key = key
        self._transport = transport
        self._chain = chain
        self._relayer_url = relayer_url
        self._threshold = threshold_atomic
        self._every_s = every_s
        self._tell = tell
        self._is_low = False
        self._wake = asyncio.Event()
        self.warnings = 0
        """How often the balance fell below the threshold."""

    def look_soon(self) -> None:
        """Something suggests that the balance is low."""
        self._wake.set()

    async def run(self) -> None:
        """Watch until cancelled. Trouble of any kind is logged; payments go on."""
        while True:
            try:
                await self.look()
            except (ChainError, GatewayUnreachableError, MalformedError) as error:
                logger.warning("looking at the balance: %s", error)
            except Exception:
                logger.exception("looking at the balance or telling of it failed")
            self._wake.clear()
            try:
                async with asyncio.timeout(self._every_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def look(self) -> None:
        """Compare once; tell when the balance has fallen below the threshold since it was last above."""
        available = await self._available()
        was_low, self._is_low = self._is_low, available < self._threshold
        if self._is_low and not was_low:
            self.warnings += 1
            told = self._tell(LowBalance(self._key.pubkey, available, self._threshold))
            if inspect.isawaitable(told):
                await told

    async def _available(self) -> int:
        if self._relayer_url is not None:
            answer = await ask_liability(self._transport, self._key, self._relayer_url)
            return answer.snapshot.available()
        assert self._chain is not None
        account = await self._chain.agent(self._key.public)
        return 0 if account is None else account.bond
