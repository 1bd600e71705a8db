"""The log's files: finding, checking and replaying them, cutting a torn tail, writing a new one.

A segment is `<number, 20 digits>.log`: magic, header record, snapshot, then records as they happened. It appears under
its name only when its snapshot is durable, so a crash while rotating leaves the segment before as the last one.
"""

import fcntl
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from machpay_gateway.errors import LogDamaged, LogError, LogMismatch
from machpay_gateway.log.records import FILE_MAGIC, Header, Identity, Record, scan
from machpay_gateway.log.tail import MAX_UNSYNCED_BYTES, Tail

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Segment:
    """One file. `end` is where its durable part ends, `completed` how many payments were complete before it,
    `first_number` what the first payment got that was accepted in it, `created_at` when it was begun (unix seconds),
    `snapshot_bytes` how long the snapshot is that it was started with by this process."""

    number: int
    path: Path
    end: int
    completed: int
    first_number: int
    created_at: int
    snapshot_bytes: int = 0

    def is_full(self, segment_bytes: int) -> bool:
        """True if it grew by `segment_bytes` and at least doubled: large snapshots must not be written all the time."""
        return self.end - self.snapshot_bytes >= max(segment_bytes, self.snapshot_bytes)


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:020d}.log"


def lock(folder: Path) -> int:
    """Make this process the folder's only user; the descriptor to close when done. Raises `LogError`."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise LogError(f"{folder} is in use by another gateway process") from error
    return descriptor


def recover(
    folder: Path, identity: Identity, apply: Callable[[Record], object], *, repair: bool = True
) -> list[Segment]:
    """Replay every record of `folder` through `apply`, oldest first, and cut the torn tail of the last segment.

    Without `repair` nothing in the folder is changed: a torn tail is left out only, which is also what a record looks
    like that a running gateway is writing.
    Raises `LogMismatch` if the log is another gateway's, `LogDamaged` if a record that was durable does not read back.
    """
    for leftover in folder.glob("*.tmp") if repair else ():
        leftover.unlink()
    paths = sorted(folder.glob("*.log"))
    # One header per file first: each says where the durable part of the file before it ends.
    headers = [_header(path, identity) for path in paths]
    segments = []
    for index, (path, header) in enumerate(zip(paths, headers, strict=True)):
        last = index == len(paths) - 1
        if not last and headers[index + 1].segment != header.segment + 1:
            raise LogDamaged(f"{folder}: segment {header.segment + 1} is missing")
        data = path.read_bytes()
        durable = len(data) if last else headers[index + 1].previous_end
        end = len(FILE_MAGIC)
        for record, after in scan(data[:durable], end):
            apply(record)
            end = after
        if end < durable:
            # Behind the last record of the last segment there may be room: zeros, which are no record.
            torn = data[end:].rstrip(b"\0")
            if not last or len(torn) > MAX_UNSYNCED_BYTES:
                raise LogDamaged(f"{path}: the record at byte {end} does not check")
            if repair:
                _cut(path, end, torn)
        segments.append(
            Segment(header.segment, path, end, header.completed, header.next_number, header.created_at)
        )
    return segments


def write_segment(folder: Path, number: int, data: bytes) -> Tail:
    """Make a new segment that begins with `data` durable under its name. Returns its end, open for appending.

    Raises `OSError`; then nothing of it remains, as far as the disk lets us.
    """
    target = segment_path(folder, number)
    draft = target.with_suffix(".tmp")
    tail = Tail(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    try:
        tail.append(data)
        draft.rename(target)
        sync_folder(folder)
    except OSError:
        tail.close()
        draft.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        raise
    return tail


def sync_folder(folder: Path) -> None:
    """Make creations, renames and removals in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _header(path: Path, identity: Identity) -> Header:
    with path.open("rb") as file:
        start = file.read(4096)
    record = next((record for record, _ in scan(start, len(FILE_MAGIC))), None)
    if not start.startswith(FILE_MAGIC) or not isinstance(record, Header):
        raise LogDamaged(f"{path}: does not start as a segment of this version")
    if record.identity != identity:
        raise LogMismatch(
            f"{path} belongs to gateway {record.identity.gateway} of program {record.identity.program_id}; "
            "give this gateway a data_dir of its own"
        )
    return record


def _cut(path: Path, end: int, torn: bytes) -> None:
    """Let the segment end where its records do. The bytes of an unfinished write are kept in a file beside it for
    whoever wants to look."""
    if torn:
        logger.warning("%s: cutting %d bytes of an unfinished write at byte %d", path, len(torn), end)
        path.with_name(f"{path.stem}.torn-{end}").write_bytes(torn)
    with path.open("r+b") as file:
        file.truncate(end)
        os.fsync(file.fileno())
