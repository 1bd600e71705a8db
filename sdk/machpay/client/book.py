"""Every channel of one agent in this process: loaded, saved, and compared with the chain when a gateway needs
it."""

import logging
import time
from typing import Final

from solders.pubkey import Pubkey

from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError
from machpay.client.channels import NOTHING_KNOWN, Channel, Totals
from machpay.client.config import MachPayConfig
from machpay.client.receipts import ReceiptFile
from machpay.client.store import StateFile, state_path
from machpay.protocol.receipts import SignedReceipt

WATERMARK_CACHE_S: Final = 2.0
MAX_ORIGINS: Final = 4096

logger = logging.getLogger(__name__)


class ChannelBook:
    """`chain` is None when no RPC URL is configured: then no total is proven by the chain."""

    def __init__(self, config: MachPayConfig, chain: ChainClient | None) -> None:
        self._agent = config.key.public
        self._network = config.network
        self._chain = chain
        self._channels: dict[Pubkey, Channel] = {}
        self._watermarks: dict[Pubkey, tuple[float, int]] = {}
        self._store: StateFile | None = None
        self._saved: dict[str, Totals] = {}
        self._gateways: dict[str, str] = {}
        self.receipts: ReceiptFile | None = None
        if config.state_dir is not None:
            self._store = StateFile(config.state_dir, config.key.pubkey, config.network)
            self.receipts = ReceiptFile(
                state_path(config.state_dir, config.key.pubkey, config.network, "receipts.jsonl")
            )
            self._saved = self._store.load()
            self._gateways = self._store.load_gateways()

    def channel(self, gateway: Pubkey) -> Channel:
        """The channel with `gateway`, starting from what was saved."""
        channel = self._channels.get(gateway)
        if channel is None:
            address = self._network.channel(self._agent, gateway)
            saved = self._saved.get(str(address), NOTHING_KNOWN)
            channel = self._channels[gateway] = Channel(address, self._agent, gateway, saved)
        return channel

    def last_gateway(self, origin: str) -> str | None:
        """The gateway (base58) that an origin showed last, in this process or an earlier one."""
        return self._gateways.get(origin)

    def saw_gateway(self, origin: str, gateway: Pubkey) -> None:
        """Remember the gateway of an origin, at once: after a crash the next process has to name it, to be sent to
        where its payment identifiers are known."""
        shown = str(gateway)
        if self._gateways.get(origin) != shown and len(self._gateways) < MAX_ORIGINS:
            self._gateways[origin] = shown
            self.save()

    def count(self, channel: Channel, receipt: SignedReceipt) -> None:
        """Take a checked receipt for one of our payments into account."""
        channel.resolved(receipt)
        if self.receipts is not None:
            self.receipts.add(channel.gateway, receipt)
        self.save_if_due()

    def save_if_due(self) -> None:
        """Write the totals down unless that was done a moment ago."""
        if self._store is not None and self._store.is_due():
            self.save()

    def save(self) -> None:
        """Write the totals down, if there is a place for them."""
        if self._store is None:
            return
        try:
            totals = {str(channel.address): channel.totals for channel in self._channels.values()}
            self._store.save(totals, self._gateways)
        except OSError as error:
            # The next start relearns the totals; a payment must not fail for this.
            logger.warning("saving %s: %s", self._store.path, error)

    async def watermark(self, channel: Channel) -> int:
        """What the chain has settled on the channel, at most `WATERMARK_CACHE_S` old; 0 if that cannot be
        known."""
        if self._chain is None:
            return 0
        cached = self._watermarks.get(channel.gateway)
        if cached is not None and time.monotonic() - cached[0] < WATERMARK_CACHE_S:
            return cached[1]
        try:
            account = await self._chain.channel(channel.agent, channel.gateway)
        except ChainError as error:
            logger.warning("reading channel %s: %s", channel.address, error)
            return 0 if cached is None else cached[1]
        settled = 0 if account is None else account.settled
        self._watermarks[channel.gateway] = (time.monotonic(), settled)
        return settled
