"""Payments that nobody waits for any more: their caller was cancelled, or the process was killed. The gateway may have
served and charged them all the same, so it is asked what became of them, until every charge has its receipt.

Decides nothing about money: it counts receipts as a call that waits would. With a `state_dir` every payment is
noted in a file before it is sent, for the processes to come.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from machpay.client.book import ChannelBook
from machpay.client.errors import ClientError
from machpay.client.lines import LineFile
from machpay.client.orders import Order, check_word
from machpay.protocol.encoding import parse_hex, parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.nonces import CLOCK_SKEW_S
from machpay.protocol.offers import PaymentLookup
from machpay.protocol.receipts import SignedReceipt

FIRST_PAUSE_S: Final = 0.2
MAX_PAUSE_S: Final = 600.0
LAST_ASK_S: Final = 2.0
"""How long a client that closes may take to ask once more."""
AT_ONCE: Final = 8
MAX_WAITING: Final = 4_096
MAX_FILE_BYTES: Final = 256 * 1024
"""About 1,000 payments; twice that are kept."""
REMEMBERED_S: Final = 86_400
"""Gateways forget; older ones are not asked about."""

LookUp = Callable[[str, bytes], Awaitable[tuple[PaymentLookup, SignedReceipt | None]]]

logger = logging.getLogger(__name__)


class _Noted(msgspec.Struct):
    """One line of the file. A second one under the same digest, with `is_over`, ends it."""

    digest: str
    origin: str = ""
    gateway: str = ""
    amount: int = 0
    deadline: int = 0
    is_over: bool = False


class _Waiting(msgspec.Struct):
    noted: _Noted
    ask_at: float
    pause_s: float = FIRST_PAUSE_S
    charged: Callable[[int], None] | None = None


_decoder: Final = msgspec.json.Decoder(_Noted)


class Unheard:
    """Asks gateways about one agent's payments. `path` is where they are noted."""

    def __init__(self, book: ChannelBook, look_up: LookUp, path: Path | None) -> None:
        self._book = book
        self._look_up = look_up
        self._file = None if path is None else LineFile(path, MAX_FILE_BYTES)
        self._waiting: dict[str, _Waiting] = {}
        self._news = asyncio.Event()

    def signed(self, origin: str, order: Order) -> None:
        """Note a payment that is about to be sent."""
        if self._file is not None and order.is_named:
            self._file.append(msgspec.json.encode(_note(origin, order)))

    def given_up(self, origin: str, order: Order, charged: Callable[[int], None] | None = None) -> None:
        """Its caller does not wait for this payment any more; `charged` is told what it has cost."""
        # A stock server knows no look-up; every gateway knows identifiers.
        if order.is_named and len(self._waiting) < MAX_WAITING:
            noted = _note(origin, order)
            self._waiting[noted.digest] = _Waiting(noted, time.time() + FIRST_PAUSE_S, charged=charged)
            self._news.set()

    async def run(self) -> None:
        """Ask whenever it is time, also about what earlier processes have left."""
        try:
            self._waiting.update(self._left_behind())
        except OSError as error:
            logger.warning("what an earlier process left cannot be read: %s", error)
        while True:
            now = time.time()
            due = [one for one in self._waiting.values() if one.ask_at <= now][:AT_ONCE]
            if due:
                await asyncio.gather(*map(self._ask, due))
                continue
            self._news.clear()
            next_at = min((one.ask_at for one in self._waiting.values()), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if next_at is None else next_at - now):
                    await self._news.wait()

    async def finish(self) -> None:
        """The client closes: ask about what it gave up once more. The file keeps the rest for the next process."""
        mine = [one for one in self._waiting.values() if self._is_open(one.noted)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ASK_S):
                for first in range(0, len(mine), AT_ONCE):
                    await asyncio.gather(*map(self._ask, mine[first : first + AT_ONCE]))

    async def _ask(self, one: _Waiting) -> None:
        noted, in_flight, receipt = one.noted, False, None
        try:
            lookup, receipt = await self._look_up(noted.origin, bytes.fromhex(noted.digest))
            in_flight = lookup.in_flight
            if receipt is not None:
                gateway = parse_pubkey(noted.gateway, "gateway")
                check_word(receipt, bytes.fromhex(noted.digest), gateway, noted.amount)
        except ClientError:
            self._later(one)
            return
        except MalformedError as error:
            logger.warning("looking payment %s up at %s: %s", noted.digest, noted.origin, error)
            receipt = None
        if receipt is not None:
            self._waiting.pop(noted.digest, None)
            self._count(one, receipt)
        elif not in_flight and _is_past(noted):
            self._waiting.pop(noted.digest, None)
            if self._file is not None:
                self._file.append(msgspec.json.encode(_Noted(noted.digest, is_over=True)))
        else:
            # What was on its way may still arrive, until it is too late for it.
            self._later(one)

    def _later(self, one: _Waiting) -> None:
        if time.time() > one.noted.deadline + REMEMBERED_S:
            self._waiting.pop(one.noted.digest, None)
            return
        one.ask_at = time.time() + one.pause_s
        one.pause_s = min(MAX_PAUSE_S, 2 * one.pause_s)

    def _count(self, one: _Waiting, receipt: SignedReceipt) -> None:
        gateway = parse_pubkey(one.noted.gateway, "gateway")
        channel = self._book.channel(gateway)
        if channel.is_open(receipt.receipt.digest):
            self._book.count(channel, receipt)
        elif self._book.receipts is None or one.noted.digest in self._with_receipt():
            # Somebody has heard of it meanwhile.
            return
        else:
            self._book.receipts.add(gateway, receipt)
        if one.charged is not None:
            one.charged(receipt.receipt.charged)

    def _is_open(self, noted: _Noted) -> bool:
        return self._book.channel(parse_pubkey(noted.gateway, "gateway")).is_open(bytes.fromhex(noted.digest))

    def _left_behind(self) -> dict[str, _Waiting]:
        """The file's payments without a receipt. One that may still be another process's is not asked about yet."""
        found: dict[str, _Waiting] = {}
        for line in () if self._file is None else self._file.read():
            try:
                noted = _decoder.decode(line)
                if noted.is_over:
                    found.pop(noted.digest, None)
                    continue
                parse_hex(noted.digest, "digest", 32)
                parse_pubkey(noted.gateway, "gateway")
            except (msgspec.DecodeError, UnicodeDecodeError, MalformedError):
                continue
            if time.time() < noted.deadline + REMEMBERED_S:
                found[noted.digest] = _Waiting(noted, noted.deadline + CLOCK_SKEW_S)
        if found:
            for digest in self._with_receipt():
                found.pop(digest, None)
        return found

    def _with_receipt(self) -> set[str]:
        receipts = self._book.receipts
        try:
            return set() if receipts is None else receipts.digests()
        except OSError as error:
            logger.warning("the receipts cannot be read: %s", error)
            return set()


def _note(origin: str, order: Order) -> _Noted:
    intent = order.intent
    return _Noted(order.digest.hex(), origin, str(order.offer.gateway), intent.amount, intent.deadline)


def _is_past(noted: _Noted) -> bool:
    """Whether no gateway may accept the payment any more."""
    return time.time() > noted.deadline + CLOCK_SKEW_S
