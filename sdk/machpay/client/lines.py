"""A file of lines that several processes of one agent append to. Bounded: when it is full it becomes the previous one,
and a new one begins. A line that cannot be written stops no payment."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


class LineFile:
    """The lines of one file of a state folder and of the one before it, of `max_bytes` each."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._previous = path.with_suffix(".previous.jsonl")
        self._max_bytes = max_bytes

    def append(self, line: bytes) -> None:
        """Add a line (without its end); trouble is logged."""
        line += b"\n"
        try:
            try:
                size = self._write(line)
            except FileNotFoundError:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                size = self._write(line)
            # Who crosses the limit moves the file, and nobody else: the next one would move the new file over it.
            if size // self._max_bytes > (size - len(line)) // self._max_bytes:
                self.path.replace(self._previous)
        except OSError as error:
            logger.warning("writing to %s: %s", self.path, error)

    def _write(self, line: bytes) -> int:
        """Where the line ends in the file. It is opened anew for every line: another process may have begun a new
        one."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # One write in append mode: lines of several processes do not mix.
            os.write(file, line)
            return os.lseek(file, 0, os.SEEK_CUR)
        finally:
            os.close(file)

    def read(self) -> Iterator[bytes]:
        """Every line kept, oldest first."""
        for path in (self._previous, self.path):
            if path.exists():
                yield from path.read_bytes().splitlines()
