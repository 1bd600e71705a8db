"""A gateway's payments on a log in a folder, without servers: for tests of the log and of crashes."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from machpay.protocol.keys import SigningKey
from machpay_gateway.bindings import Bindings
from machpay_gateway.book import Book
from machpay_gateway.log.join import OpenPayment
from machpay_gateway.log.journal import Journal
from machpay_gateway.log.reader import LogReader
from machpay_gateway.log.records import FILE_MAGIC, Identity, Record, scan
from machpay_gateway.payments import Payments, Ticket
from tests.gateway.factories import make_attempt, make_intent, make_settings, network

KEY = SigningKey(b"g" * 32)
AGENTS = [SigningKey(bytes([number]) * 32) for number in range(1, 4)]


def identity(key: SigningKey = KEY) -> Identity:
    net = network()
    return Identity(key.public, net.program_id, net.mint, bytes(net.domain))


def open_payments(
    folder: Path,
    *,
    segment_bytes: int = 64 * 1024 * 1024,
    retry_s: float = 0.01,
    identifiers_s: int = 3600,
    max_identifiers: int = 1000,
) -> Payments:
    """Payments on the log in `folder`/log, not started."""
    book = Book(network(), KEY.public, Bindings(identifiers_s, max_identifiers))
    journal = Journal(folder / "log", book, identity(), segment_bytes=segment_bytes, retry_s=retry_s)
    return Payments(make_settings(folder, KEY), book, journal)


@contextlib.asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[Payments]:
    """Started payments; closed at the end, as a gateway that is stopped properly."""
    payments = open_payments(folder, **options)
    try:
        await payments.start()
        yield payments
    finally:
        await payments.journal.close()


def accept(payments: Payments, agent: SigningKey, price: int = 10, identifier: str | None = None) -> Ticket:
    """Accept an honest payment of `price` on top of what is committed."""
    committed = payments.book.channel(agent.public).committed
    intent = make_intent(agent, KEY.public, cumulative=committed + price, amount=price)
    return payments.accept(make_attempt(agent, KEY.public, intent, identifier=identifier), price)


def serve(payments: Payments, agent: SigningKey, price: int = 10, identifier: str | None = None) -> Ticket:
    """Accept, charge and send one payment."""
    ticket = accept(payments, agent, price, identifier)
    payments.resolve(ticket, 200, price, final=True)
    payments.sent(ticket)
    return ticket


def state(book: Book) -> dict[str, Any]:
    """Everything a book knows, comparable."""
    return {
        "channels": {
            str(agent): (c.highest, c.voucher, c.served, c.reserved, c.receipt)
            for agent, c in book.channels.items()
            if c.highest
        },
        "open": {n: (p.accept, p.outcome, p.sent) for n, p in book.join.open.items()},
        "nonces": book.guard.snapshot(),
        "identifiers": book.bindings.snapshot(),
        "next_number": book.next_number,
        "completed": book.completed,
    }


def records(path: Path) -> list[tuple[Record, int]]:
    """Every record of a segment with the offset behind it."""
    return list(scan(path.read_bytes(), len(FILE_MAGIC)))


def newest(folder: Path) -> Path:
    return max((folder / "log").glob("*.log"))


def read_all(payments: Payments, delivered: int = 0) -> list[OpenPayment]:
    return LogReader(payments.journal, delivered).read(1_000_000)
