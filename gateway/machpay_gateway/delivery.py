"""Hands completed payments to the relayer: signed, in order, retried for ever, each at least once.

The relayer answers per item after its commit and knows a payment by its digest, so a batch that is sent again (after
a crash or a lost answer) changes nothing. The cursor moves, durably, only behind answered items. An item that is
rejected for good goes to `dead-letters.jsonl` and does not hold up the rest.
"""

import asyncio
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec

from machpay.protocol.encoding import decode_json
from machpay.protocol.errors import MalformedError
from machpay.protocol.settlements import ItemResult, SettlementAnswer
from machpay.protocol.x402 import voucher_json
from machpay_gateway.backoff import Backoff
from machpay_gateway.errors import GatewayError, LogDamaged, RelayerError
from machpay_gateway.items import settlement_item
from machpay_gateway.log.backlog import Backlog
from machpay_gateway.log.join import OpenPayment
from machpay_gateway.log.records import Delivered
from machpay_gateway.metrics import Metrics
from machpay_gateway.payments import Payments
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings

MAX_BATCH: Final = 500
LINGER_S: Final = 0.1
"""How long the first payment of a batch waits for company."""
_SLICE: Final = 32
"""Items built between two turns of the event loop, so that a large batch delays no request."""
_TOO_LARGE: Final = 413
"""The one status of a whole batch that sending it again as it is cannot change. The relayer judges items one by one, so
any other error says something about the relayer or the way to it, and the payments wait in the log."""

logger = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(SettlementAnswer)


class SettlementBody(msgspec.Struct):
    """The body of `POST /settlements`."""

    gateway_id: str
    batch: list[msgspec.Raw]
    vouchers: list[dict[str, str]]
    seq_from: int
    seq_to: int


class Delivery:
    """`wake()` when something became durable; `run()` for ever; `drain()` at the end."""

    def __init__(self, settings: Settings, payments: Payments, peers: Peers, metrics: Metrics) -> None:
        self._settings = settings
        self._payments = payments
        self._peers = peers
        self._metrics = metrics
        self._backlog = Backlog(payments.journal, payments.book.delivered)
        self._dead_letters = settings.data_dir / "dead-letters.jsonl"
        self._progress = asyncio.Event()
        self._progress.set()
        self._backoff = Backoff()
        self._waiting: list[OpenPayment] = []
        self.failure: str | None = None
        """Why the last attempt failed; None while deliveries succeed."""

    @property
    def undelivered(self) -> int:
        return self._payments.book.completed - self._payments.book.delivered

    def wake(self) -> None:
        self._progress.set()

    async def run(self) -> None:
        while True:
            await self._progress.wait()
            self._progress.clear()
            await asyncio.sleep(LINGER_S)
            while await self._deliver():
                pass

    async def drain(self, timeout_s: float) -> None:
        """Deliver what is left if the relayer takes it in time; the log keeps the rest."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self.deliver_once(give_up=True):
                    pass
        except (TimeoutError, GatewayError) as error:
            logger.info("%d payments stay in the log for the next start: %s", self.undelivered, error)

    async def _deliver(self) -> bool:
        """`deliver_once` for ever: a disk that cannot be read or written now is tried again."""
        try:
            return await self.deliver_once()
        except (LogDamaged, OSError) as error:
            if self.failure is None:
                logger.error("delivery: %s", error)
            self.failure = str(error)
            await asyncio.sleep(self._backoff.next_s())
            return True

    async def deliver_once(self, *, give_up: bool = False) -> bool:
        """Deliver one batch, with as many attempts as it takes; False if there was nothing to deliver.

        With `give_up` one attempt only. Raises `RelayerError` then, `LogDamaged` and `OSError` always.
        """
        # A batch that was interrupted is still here: what the backlog gave once it does not give again.
        batch = self._waiting or await self._backlog.read(MAX_BATCH)
        self._waiting = batch
        if not batch:
            return False
        items = await self._items(batch)
        while batch:
            try:
                done = await self._post(batch, items)
                self.failure = None
            except RelayerError as error:
                if self.failure is None:
                    logger.warning("delivery: %s", error)
                self.failure = str(error)
                if give_up:
                    raise
                await asyncio.sleep(error.retry_after_s or self._backoff.next_s())
                continue
            batch, items = batch[done:], items[done:]
            self._waiting = batch
            if batch:
                if give_up:
                    raise RelayerError("the relayer asked to send some payments again later")
                await asyncio.sleep(self._backoff.next_s())
            else:
                self._backoff.reset()
        return True

    async def _items(self, batch: list[OpenPayment]) -> list[msgspec.Raw]:
        items = []
        for number, payment in enumerate(batch):
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            items.append(msgspec.Raw(settlement_item(self._settings, payment)))
        return items

    async def _post(self, batch: list[OpenPayment], items: list[msgspec.Raw]) -> int:
        """One attempt. Returns how many items from the front are done with. Raises `RelayerError`."""
        body = SettlementBody(
            gateway_id=self._settings.key.pubkey,
            batch=items,
            vouchers=self._vouchers(batch),
            seq_from=batch[0].seq,
            seq_to=batch[-1].seq,
        )
        try:
            raw = await self._peers.post(
                self._settings.relayer_url, "/settlements", msgspec.json.encode(body)
            )
        except RelayerError as error:
            if error.status != _TOO_LARGE:
                raise
            if len(batch) > 1:
                return await self._post(batch[: len(batch) // 2], items[: len(items) // 2])
            logger.error("payment %d is refused with its batch: %s", batch[0].seq, error)
            result = ItemResult(digest="", status="rejected", retry=False, code="too_large")
            return await self._settle(batch, items, [result])
        return await self._settle(batch, items, _results(raw, len(batch)))

    async def _settle(
        self, batch: list[OpenPayment], items: list[msgspec.Raw], results: list[ItemResult]
    ) -> int:
        """Move the cursor behind the items that are done with: all up to the first that should be sent again."""
        done = next((index for index, result in enumerate(results) if result.retry), len(results))
        rejected = [
            (item, result)
            for item, result in zip(items[:done], results[:done], strict=True)
            if result.status == "rejected"
        ]
        if rejected:
            await asyncio.get_running_loop().run_in_executor(None, _keep, self._dead_letters, rejected)
            codes = sorted({result.code or "unknown" for _, result in rejected})
            logger.error(
                "%d payments were rejected for good (%s): %s", len(rejected), codes, self._dead_letters
            )
        for status, count in Counter(result.status for result in results[:done]).items():
            self._metrics.delivered.add(count, status)
        if done:
            self._payments.journal.append(Delivered(batch[done - 1].seq))
        else:
            codes = sorted({result.code or "unknown" for result in results})
            logger.warning("delivery: the relayer cannot take the payments yet: %s", codes)
        return done

    def _vouchers(self, batch: list[OpenPayment]) -> list[dict[str, str]]:
        """The highest voucher of every channel in the batch."""
        agents = dict.fromkeys(payment.accept.agent for payment in batch)
        vouchers = (self._payments.voucher(agent) for agent in agents)
        return [voucher_json(voucher) for voucher in vouchers if voucher is not None]


def _results(raw: bytes, expected: int) -> list[ItemResult]:
    try:
        results: list[ItemResult] = decode_json(_decoder, raw, "the relayer's answer does not parse").results
    except MalformedError as error:
        raise RelayerError(error.detail) from error
    if len(results) != expected:
        raise RelayerError(f"the relayer answered {len(results)} of {expected} payments")
    return results


def _keep(path: Path, rejected: list[tuple[msgspec.Raw, ItemResult]]) -> None:
    """Append rejected items, one importable line each, and make them durable."""
    lines = b""
    for item, result in rejected:
        lines += msgspec.json.encode({**msgspec.json.decode(item), "rejected_code": result.code or "unknown"})
        lines += b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(os.dup(descriptor), "ab") as file:
            file.write(lines)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
