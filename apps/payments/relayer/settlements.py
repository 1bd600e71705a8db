"""`POST /settlements`: gateways hand in what was paid and what became of it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from apps.core import asgi
from apps.core.errors import DomainError
from apps.payments.relayer import metrics
from apps.payments.relayer.auth import authenticate, must_be
from apps.payments.relayer.directory import Directory
from apps.payments.relayer.threads import Threads
from apps.payments.services.gateways import LogPosition
from apps.payments.services.intake import record_batch
from apps.payments.services.misbehaviour import report, unsigned_charges
from apps.payments.verification import Refused, Verified, check_items
from machpay.chain.network import Network
from machpay.protocol.encoding import I64_MAX
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.intents import Voucher
from machpay.protocol.settlements import MAX_BATCH_ITEMS, ItemResult, SettlementAnswer, SettlementBatch
from machpay.protocol.signed_requests import RequestSigner
from machpay.protocol.x402 import parse_voucher

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
BATCHES_IN_FLIGHT_MAX: Final = 32
_CHUNK: Final = 128
_STATUSES: Final = ("accepted", "rejected", "duplicate")

_decoder = msgspec.json.Decoder(SettlementBatch)


class BatchTooLarge(DomainError):
    code = "batch_too_large"
    status = 413


class SettlementEndpoint:
    """The handler; the relayer routes to it. `network` is what every channel is derived from."""

    def __init__(self, *, network: Network, directory: Directory, threads: Threads) -> None:
        self._network = network
        self._directory = directory
        self._threads = threads
        self.in_flight = asgi.InFlight(BATCHES_IN_FLIGHT_MAX, "too many batches are being stored")

    async def deliver(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        with self.in_flight, metrics.IN_FLIGHT.track_inprogress():
            body = await asgi.read_body(scope, receive, limit=BATCH_BYTES_MAX)
            with metrics.BATCH_SECONDS.time():
                results = await self._store(scope, body)
        counts = {status: sum(result.status == status for result in results) for status in _STATUSES}
        for status, count in counts.items():
            metrics.ITEMS.labels(status).inc(count)
        for result in results:
            if result.code is not None:
                metrics.REFUSED.labels(result.code).inc()
        answer = SettlementAnswer(
            accepted=counts["accepted"],
            rejected=counts["rejected"],
            duplicates=counts["duplicate"],
            results=results,
        )
        await asgi.respond_json(send, answer)

    async def _store(self, scope: asgi.Scope, body: bytes) -> list[ItemResult]:
        signer = await authenticate(scope, body, self._threads)
        batch = asgi.decode(_decoder, body, "the body is not a batch of settlements")
        if max(len(batch.batch), len(batch.vouchers)) > MAX_BATCH_ITEMS:
            raise BatchTooLarge(f"a batch has at most {MAX_BATCH_ITEMS} items and as many vouchers")
        must_be(signer, batch.gateway_id)
        vendor = await self._directory.vendor_of(signer.pubkey)
        checked = await self._check(batch.batch, signer)
        stored = await self._threads.database(
            record_batch,
            mint=str(self._network.mint),
            gateway=signer.pubkey,
            vendor=vendor,
            items=[item for item in checked if isinstance(item, Verified)],
            vouchers=_vouchers(batch.vouchers),
            position=_position(batch, checked),
        )
        await self._report_unsigned(batch.batch, checked, signer)
        recorded = iter(stored)
        return [
            ItemResult(item.digest.hex(), "rejected", item.retry, item.code)
            if isinstance(item, Refused)
            else next(recorded)
            for item in checked
        ]

    async def _report_unsigned(
        self, items: Sequence[msgspec.Raw], checked: Sequence[Verified | Refused], signer: RequestSigner
    ) -> None:
        """What a gateway charged without the agent's signature is held against it, by its own receipt."""
        refused = [
            raw
            for raw, item in zip(items, checked, strict=True)
            if isinstance(item, Refused) and item.code == RefusalCode.INVALID_SIGNATURE
        ]
        if not refused:
            return
        charged = await self._threads.verify(
            unsigned_charges, refused, network=self._network, gateway=signer.key
        )
        if charged:
            await self._threads.database(report, signer.pubkey, charged)

    async def _check(self, items: Sequence[msgspec.Raw], signer: RequestSigner) -> list[Verified | Refused]:
        """Verify in chunks, so that several cores share one batch and small batches do not wait for large ones."""
        now = datetime.now(UTC)
        chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
        results = await asyncio.gather(
            *(
                self._threads.verify(check_items, chunk, network=self._network, gateway=signer.key, now=now)
                for chunk in chunks
            )
        )
        return [item for chunk in results for item in chunk]


def _position(batch: SettlementBatch, checked: Sequence[Verified | Refused]) -> LogPosition | None:
    """The part of the gateway's log that this batch ends, unless some of it has to come again."""
    if not 0 < batch.seq_to <= I64_MAX:
        return None
    if any(isinstance(item, Refused) and item.retry for item in checked):
        return None
    return LogPosition(batch.seq_from, batch.seq_to)


def _vouchers(values: Sequence[Any]) -> list[Voucher]:
    """Those that parse. One that does not is dropped: it must not hold up payments that are in order."""
    vouchers = []
    for value in values:
        try:
            vouchers.append(parse_voucher(value))
        except MalformedError:
            metrics.REFUSED.labels("malformed_voucher").inc()
    return vouchers
