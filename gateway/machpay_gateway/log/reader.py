"""Completed payments in the order in which they were completed, read back from durable segments.

Only bytes that are durable are read; what is read here can therefore never be taken back.
"""

import os
from pathlib import Path
from typing import Final

from machpay_gateway.errors import LogDamaged
from machpay_gateway.log.join import Join, OpenPayment
from machpay_gateway.log.journal import Journal
from machpay_gateway.log.records import FILE_MAGIC, MAX_RECORD_BYTES, Header, scan
from machpay_gateway.log.segments import Segment

_CHUNK_BYTES: Final = 128 * 1024


class LogReader:
    """Starts behind the first `delivered` payments and only moves forward."""

    def __init__(self, journal: Journal, delivered: int) -> None:
        self._journal = journal
        self._delivered = delivered
        # Older segments may still be there for the identifiers in them.
        undelivered = (segment for segment in reversed(journal.segments) if segment.completed <= delivered)
        self._segment = next(undelivered, journal.segments[0])
        self._offset = len(FILE_MAGIC)
        self._seq = 0
        self._join = Join()

    def read(self, limit: int) -> list[OpenPayment]:
        """Up to `limit` completed payments that are durable; empty when there is no more for now.

        Raises `LogDamaged` if a durable record does not read back, `OSError`.
        """
        found: list[OpenPayment] = []
        while len(found) < limit and self.step(found, limit):
            pass
        return found

    def step(self, found: list[OpenPayment], limit: int) -> bool:
        """One piece of `read`, short enough for an event loop: adds to `found`, False when there is no more for now."""
        # A segment that is no longer listed was removed because everything in it is delivered.
        if self._offset < self._segment.end and self._segment in self._journal.segments:
            self._read_chunk(found, limit)
            return True
        return self._advance()

    def _read_chunk(self, found: list[OpenPayment], limit: int) -> None:
        before = self._offset
        size = min(_CHUNK_BYTES, self._segment.end - before)
        if not self._take(_pread(self._segment.path, size, before), found, limit):
            # A record longer than a chunk: a snapshot's nonces can be.
            size = min(MAX_RECORD_BYTES + _CHUNK_BYTES, self._segment.end - before)
            if not self._take(_pread(self._segment.path, size, before), found, limit):
                raise LogDamaged(f"{self._segment.path}: the record at byte {before} does not check")

    def _take(self, data: bytes, found: list[OpenPayment], limit: int) -> bool:
        """Apply the whole records in `data`; False if there is none."""
        start = self._offset
        for record, after in scan(data):
            self._offset = start + after
            if isinstance(record, Header):
                self._seq = record.completed
                continue
            payment = self._join.apply(record)
            if payment is None:
                continue
            self._seq += 1
            if self._seq > self._delivered:
                payment.seq = self._seq
                found.append(payment)
                if len(found) == limit:
                    break
        return self._offset > start

    def _advance(self) -> bool:
        """Go on to the next segment, if there is one. Its snapshot names the open payments again."""
        following = _after(self._journal.segments, self._segment)
        if following is None:
            return False
        self._segment = following
        self._offset = len(FILE_MAGIC)
        self._join = Join()
        return True


def _after(segments: list[Segment], current: Segment) -> Segment | None:
    return next((segment for segment in segments if segment.number > current.number), None)


def _pread(path: Path, size: int, offset: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
