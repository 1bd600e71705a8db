"""Tells the relayer every few seconds that this gateway is alive. Losing one matters to nobody."""

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from machpay_gateway import __version__
from machpay_gateway.errors import RelayerError
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings

logger = logging.getLogger(__name__)


class Heartbeat:
    """`requests` and `active_agents` give the numbers, `url` the address clients use, `seq` the log's position."""

    def __init__(
        self,
        settings: Settings,
        peers: Peers,
        *,
        url: Callable[[], str],
        requests: Callable[[], int],
        active_agents: Callable[[], int],
        seq: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._peers = peers
        self._url = url
        self._requests = requests
        self._active_agents = active_agents
        self._seq = seq
        self._started_at = time.monotonic()
        self._last = (self._started_at, 0)
        self.registered: bool | None = None
        """What the relayer last said: whether this gateway is registered on-chain. None before its first answer."""
        self.failure: str | None = None
        """Why the last one was not taken; None while they are."""
        self._taken_at = self._started_at

    @property
    def uptime_s(self) -> int:
        return int(time.monotonic() - self._started_at)

    def age_s(self) -> float:
        """Seconds since the relayer last took one, or since the start."""
        return time.monotonic() - self._taken_at

    async def run(self) -> None:
        while True:
            try:
                answer = await self._peers.post(self._settings.relayer_url, "/heartbeat", self._body())
                self._note(answer)
                self._taken_at, self.failure = time.monotonic(), None
            except RelayerError as error:
                if self.failure is None:
                    logger.warning("heartbeat: %s", error)
                self.failure = str(error)
            await asyncio.sleep(self._settings.gateway.heartbeat_s)

    def _body(self) -> bytes:
        now, total = time.monotonic(), self._requests()
        last_at, last_total = self._last
        self._last = (now, total)
        per_minute = 60 * (total - last_total) / max(now - last_at, 1.0)
        return msgspec.json.encode(
            {
                "gateway_id": self._settings.key.pubkey,
                "version": __version__,
                "uptime_seconds": self.uptime_s,
                "stats": {
                    "requests_total": total,
                    "requests_per_minute": round(per_minute, 1),
                    "active_agents": self._active_agents(),
                },
                "url": self._url(),
                "vendor": str(self._settings.vendor),
                "seq": self._seq(),
            }
        )

    def _note(self, answer: bytes) -> None:
        try:
            registered = msgspec.json.decode(answer).get("registered")
        except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
            return
        if registered is False and self.registered is not False:
            logger.warning(
                "the relayer says this gateway is not registered on-chain: its payments cannot be settled"
            )
        self.registered = registered if isinstance(registered, bool) else None
