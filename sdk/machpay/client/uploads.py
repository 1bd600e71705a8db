"""Bodies that are sent without being held: files and asynchronous iterators of bytes.

A gateway binds a payment to the whole request as far as it reads bodies ahead, and to method and path beyond. So only
the first `MAX_BOUND_BODY_BYTES` are read before anything is sent; a body that ends there is an ordinary one. An
iterator can be taken once: where the answer decides whether the rest goes at all (the price is not known yet, or what
this process knows of the channel may be old), it is waited for behind that first part.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import BinaryIO, Final

from machpay.client.connection import PIECE_BYTES, Upload
from machpay.client.errors import BodySpentError
from machpay.protocol.requests import MAX_BOUND_BODY_BYTES

Content = bytes | str | AsyncIterable[bytes] | BinaryIO
PAUSE_S: Final = 1.0
"""How long a gateway may take to ask for payment, or to refuse one, before the rest of a body follows."""


class Source:
    """A body too long to be held. `prefix` is its beginning, `length` all of it in bytes; None if nobody knows."""

    def __init__(self, prefix: bytes, length: int | None) -> None:
        self.prefix = prefix
        self.length = length
        self._upload: Upload | None = None

    @property
    def can_repeat(self) -> bool:
        """Whether the whole body may be sent (again)."""
        return self._upload is None or not self._upload.is_spent

    def upload(self, url: str, *, waits: bool) -> Upload:
        """The body for one request; `waits` gives the server time to answer behind the prefix. Raises
        `BodySpentError`."""
        if not self.can_repeat:
            raise BodySpentError(url)
        self._upload = Upload(
            self.prefix, self._rest(), length=self.length, pause_s=PAUSE_S if waits else 0.0
        )
        return self._upload

    def _rest(self) -> AsyncIterable[bytes]:
        raise NotImplementedError


class _Pieces(Source):
    """What is left of an asynchronous iterator."""

    def __init__(self, prefix: bytes, rest: AsyncIterator[bytes]) -> None:
        super().__init__(prefix, None)
        self._iterator = rest

    def _rest(self) -> AsyncIterable[bytes]:
        return self._iterator


class _File(Source):
    """A file that can be read anew from where its body begins."""

    def __init__(self, file: BinaryIO, start: int, prefix: bytes, length: int) -> None:
        super().__init__(prefix, length)
        self._file = file
        self._start = start

    @property
    def can_repeat(self) -> bool:
        return True

    async def _rest(self) -> AsyncIterator[bytes]:
        position = self._start + len(self.prefix)
        end = self._start + (self.length or 0)
        while position < end:
            await asyncio.to_thread(self._file.seek, position)
            piece = await asyncio.to_thread(self._file.read, min(PIECE_BYTES, end - position))
            if not piece:
                return
            position += len(piece)
            yield piece


async def open_content(content: Content | None) -> bytes | str | Source | None:
    """The body as it is, or a `Source` of one that is longer than what is read ahead."""
    if content is None or isinstance(content, bytes | str):
        return content
    if isinstance(content, AsyncIterable):
        return await _open_pieces(aiter(content))
    return await asyncio.to_thread(_open_file, content)


async def _open_pieces(iterator: AsyncIterator[bytes]) -> bytes | Source:
    prefix = bytearray()
    async for piece in iterator:
        prefix += piece
        if len(prefix) > MAX_BOUND_BODY_BYTES:
            return _Pieces(bytes(prefix), iterator)
    return bytes(prefix)


def _open_file(file: BinaryIO) -> bytes | Source:
    if not file.seekable():
        return file.read()
    start = file.tell()
    length = file.seek(0, 2) - start
    file.seek(start)
    if length <= MAX_BOUND_BODY_BYTES:
        return file.read(length)
    return _File(file, start, file.read(MAX_BOUND_BODY_BYTES + 1), length)
