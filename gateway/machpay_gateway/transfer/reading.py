"""Replays the log in a data folder without changing it; a gateway may be using it at the same time.

Shared by everything that reads a log from outside: `claim`, `export`, `import`.
"""

import os
from collections.abc import Callable
from typing import Final

from machpay_gateway.book import Book
from machpay_gateway.errors import LogError
from machpay_gateway.log.join import OpenPayment
from machpay_gateway.log.records import Identity, Record
from machpay_gateway.log.segments import Segment, recover
from machpay_gateway.settings import Settings

_ATTEMPTS: Final = 5

OnCompleted = Callable[[int, OpenPayment], None]


def replay(settings: Settings, on_completed: OnCompleted = lambda _seq, _payment: None) -> Book:
    """The book of the log in `settings.data_dir`. `on_completed` is told every completed payment once, with its seq, in
    order; all of it is durable when this returns, and nothing of it counts if this raises.

    Raises `LogError` and its kinds.
    """
    folder, network = settings.data_dir / "log", settings.network
    if not folder.is_dir():
        raise LogError(f"there is no log in {folder}: is gateway.data_dir the folder the gateway ran with?")
    identity = Identity(settings.key.public, network.program_id, network.mint, bytes(network.domain))
    told = 0
    for _ in range(_ATTEMPTS):
        book = Book(network, settings.key.public)

        def apply(record: Record, book: Book = book) -> None:
            nonlocal told
            payment = book.apply(record)
            if payment is not None and book.completed > told:
                told = book.completed
                on_completed(told, payment)

        try:
            _make_durable(recover(folder, identity, apply, repair=False))
        except FileNotFoundError:
            # A running gateway removed a segment that was delivered; the next one starts with a snapshot.
            continue
        except OSError as error:
            raise LogError(f"cannot read the log in {folder}: {error}") from error
        return book
    raise LogError(f"{folder} changes faster than it can be read; stop the gateway first")


def _make_durable(segments: list[Segment]) -> None:
    """What a running gateway has written may not be on the disk yet; a payment that a power cut could still take back
    must not leave as a fact."""
    for segment in segments:
        descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
