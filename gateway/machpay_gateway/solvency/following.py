"""Follows the relayer's change stream, so that what stops an agent takes effect within seconds."""

import asyncio
import logging
from typing import Final
from urllib.parse import quote

import msgspec

from machpay.protocol.changes import ChangesAnswer
from machpay.protocol.encoding import decode_json
from machpay.protocol.errors import MalformedError
from machpay_gateway.backoff import Backoff
from machpay_gateway.errors import RelayerError
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings
from machpay_gateway.solvency import Solvency

PAUSE_S: Final = 0.05
"""Between two polls that were answered at once, so that a busy stream is read in larger pieces."""

logger = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(ChangesAnswer)


class Follower:
    """`run()` for ever."""

    def __init__(self, settings: Settings, peers: Peers, solvency: Solvency) -> None:
        self._relayer_url = settings.relayer_url
        self._peers = peers
        self._solvency = solvency
        self._backoff = Backoff()
        self._cursor: str | None = None
        self.failure: str | None = None
        """Why the stream cannot be read; None while it can."""

    async def run(self) -> None:
        while True:
            try:
                await self._poll()
            except (RelayerError, MalformedError) as error:
                if self.failure is None:
                    logger.warning("changes: %s", error)
                self.failure = str(error)
                retry_after_s = error.retry_after_s if isinstance(error, RelayerError) else None
                await asyncio.sleep(retry_after_s or self._backoff.next_s())
                continue
            self.failure = None
            self._backoff.reset()
            await asyncio.sleep(PAUSE_S)

    async def _poll(self) -> None:
        target = "/changes" if self._cursor is None else f"/changes?after={quote(self._cursor, safe='')}"
        answer = decode_json(
            _decoder, await self._peers.get(self._relayer_url, target), "the relayer's answer"
        )
        self._solvency.apply(answer.changes, answer.rules, reset=answer.reset)
        self._cursor = answer.cursor
