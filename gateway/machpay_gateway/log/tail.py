"""The end of the segment that is being written: appending to it, and how its bytes become durable.

The file is longer than what is written. Bytes that replace zeros are on the disk after one write; a file that grows
makes the file system write down its new length as well, and wait for everybody else's changes to do so.
"""

import os
from typing import Final

MAX_UNSYNCED_BYTES: Final = 1024 * 1024
"""How much is written between two fsyncs at most. A bad record further from the end than this was durable once, so
it is damage and not a torn write."""
ROOM_BYTES: Final = 256 * 1024
"""How many zeros are written ahead at a time; less than `MAX_UNSYNCED_BYTES`."""


class Tail:
    """An open segment whose records end at `end`. For one writer at a time."""

    def __init__(self, descriptor: int, end: int = 0) -> None:
        self._descriptor = descriptor
        self._end = end
        self._size = end

    def append(self, data: bytes) -> None:
        """Write `data` and make it durable. Raises `OSError`; what stands behind `end` is unknowable then."""
        view = memoryview(data)
        while view:
            part, view = view[:MAX_UNSYNCED_BYTES], view[MAX_UNSYNCED_BYTES:]
            end = self._end + len(part)
            if end > self._size:
                self._size = end + ROOM_BYTES
                self._write(bytes(ROOM_BYTES), end)
            self._write(part, self._end)
            os.fdatasync(self._descriptor)
            self._end = end

    def finish(self) -> None:
        """Give back the room that was not needed, and close. The records are durable already."""
        try:
            os.ftruncate(self._descriptor, self._end)
        finally:
            self.close()

    def close(self) -> None:
        """Close and leave the file as it is."""
        os.close(self._descriptor)

    def _write(self, data: bytes | memoryview, at: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, at)
            view, at = view[written:], at + written
