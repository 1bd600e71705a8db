"""Events on disk while the receiver is away: bounded, in order, safe to be killed at any point.

`<number, 20 digits>.jsonl` in one folder, one encoded event per line. A file is removed when all of it was sent; after
a crash its events are sent again from its start, and the receiver tells duplicates by their ids. When there is no room
the oldest file goes. Every method blocks on the disk: call them in a thread, one at a time.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FILES: Final = 8
"""How many files fill the room: the least that is lost at once is an eighth of it."""
_NAMES: Final = "[0-9]" * 20 + ".jsonl"
"""What else is in the folder is somebody else's."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _File:
    """One file: `size` bytes of whole lines, of which `sent` bytes and `sent_lines` lines are done with."""

    path: Path
    size: int
    lines: int
    sent: int = 0
    sent_lines: int = 0

    @property
    def left(self) -> int:
        return self.lines - self.sent_lines


class Spill:
    """At most `max_bytes` of events in `folder`, which is created when it is needed."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._file_bytes = max(1, max_bytes // _FILES)
        self._files = [_load(path) for path in sorted(folder.glob(_NAMES))] if folder.is_dir() else []
        self._next = int(self._files[-1].path.stem) + 1 if self._files else 1
        # A file of an earlier process may end in a line that was not finished: it is never written again.
        self._writable = False

    @property
    def waiting(self) -> int:
        """How many events are to be sent."""
        return sum(file.left for file in self._files)

    @property
    def disk_bytes(self) -> int:
        """How much of the disk is used."""
        return sum(file.size for file in self._files)

    def append(self, lines: Sequence[bytes]) -> int:
        """Make events durable behind those that wait; how many of the oldest were dropped to make room.

        Raises `OSError`; some of `lines` may be there then, and to append them again only repeats them.
        """
        return sum(self._append(piece) for piece in _pieces(lines, self._file_bytes))

    def _append(self, lines: Sequence[bytes]) -> int:
        data = b"".join(line + b"\n" for line in lines)
        if len(data) > self._max_bytes:
            return len(lines)
        dropped = self._make_room(len(data))
        if not self._writable or self._files[-1].size >= self._file_bytes:
            self._begin()
        file = self._files[-1]
        # Only a new one is made: in the place of a file that was removed there would be zeros.
        made = os.O_CREAT if file.size == 0 else 0
        descriptor = os.open(file.path, os.O_WRONLY | made | os.O_CLOEXEC, 0o600)
        try:
            # At the end of what counts: a write that failed half-way is overwritten by the next.
            os.ftruncate(descriptor, file.size)
            view = memoryview(data)
            while view:
                view = view[os.pwrite(descriptor, view, file.size + len(data) - len(view)) :]
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        file.size += len(data)
        file.lines += len(lines)
        return dropped

    def read(self, max_lines: int, max_bytes: int) -> list[bytes]:
        """The next events in order, at least one if any wait; they stay until `done`. Raises `OSError`."""
        self._remove_finished()
        if not self._files:
            return []
        file = self._files[0]
        try:
            content = file.path.open("rb")
        except FileNotFoundError:
            # Somebody made room by hand.
            logger.warning("%d events are lost: %s was removed", file.left, file.path)
            self._forget_first()
            return self.read(max_lines, max_bytes)
        with content:
            content.seek(file.sent)
            data = content.read(min(max_bytes, file.size - file.sent))
            end = data.rfind(b"\n") + 1
            if end == 0:
                # One line that is longer than a whole batch may be.
                content.seek(file.sent)
                data = content.readline()
                end = len(data)
        return data[:end].splitlines()[:max_lines]

    def done(self, lines: Sequence[bytes]) -> None:
        """The events that `read` gave, or the first of them, are done with. Raises `OSError`."""
        if self._files and lines:
            self._files[0].sent += sum(map(len, lines)) + len(lines)
            self._files[0].sent_lines += len(lines)
        self._remove_finished()

    def _make_room(self, size: int) -> int:
        dropped = 0
        while self._files and self.disk_bytes + size > self._max_bytes:
            dropped += self._files[0].left
            self._forget_first()
        return dropped

    def _forget_first(self) -> None:
        self._files.pop(0).path.unlink(missing_ok=True)
        self._writable = self._writable and bool(self._files)

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files.append(_File(self._folder / f"{self._next:020d}.jsonl", 0, 0))
        self._next += 1
        self._writable = True

    def _remove_finished(self) -> None:
        while self._files and not self._files[0].left:
            self._forget_first()


def _pieces(lines: Sequence[bytes], size: int) -> Iterator[list[bytes]]:
    """`lines` in runs of at most `size` bytes, a longer line alone."""
    piece: list[bytes] = []
    length = 0
    for line in lines:
        if piece and length + len(line) + 1 > size:
            yield piece
            piece, length = [], 0
        piece.append(line)
        length += len(line) + 1
    if piece:
        yield piece


def _load(path: Path) -> _File:
    """A file of an earlier process, up to its last whole line."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    return _File(path, end, data.count(b"\n"))
