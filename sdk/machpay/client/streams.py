"""The body of an answer that is handed on piece by piece, and what its end means for the payment.

The receipt of a streamed answer comes before its body. It is counted when the body has ended or the caller
has stopped reading; if the line breaks instead, the gateway may have taken the charge back and is asked.
"""

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx

from machpay.client.errors import ClientError, GatewayUnreachableError
from machpay.client.transport import describe


class PaidStream(httpx.AsyncByteStream):
    """`ended` is called once, at the end or when the caller has stopped reading, unless the line breaks: then `broken`
    gives the error to raise."""

    def __init__(
        self,
        inner: httpx.AsyncByteStream,
        ended: Callable[[], Awaitable[None]],
        broken: Callable[[httpx.TransportError], Awaitable[ClientError]],
    ) -> None:
        self._inner = inner
        self._ended = ended
        self._broken = broken
        self._is_over = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._inner:
                yield piece
        except httpx.TransportError as error:
            self._is_over = True
            raise await self._broken(error) from error

    async def aclose(self) -> None:
        await self._inner.aclose()
        if not self._is_over:
            self._is_over = True
            await self._ended()


def hand_on(
    response: httpx.Response,
    ended: Callable[[], Awaitable[None]],
    broken: Callable[[str], Awaitable[ClientError]],
) -> None:
    """Make an unread `response` report how its body ends."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = PaidStream(response.stream, ended, lambda error: broken(describe(error)))


def hand_on_free(response: httpx.Response, url: str) -> None:
    """The same for an answer that nobody pays for."""

    async def broken(detail: str) -> ClientError:
        return GatewayUnreachableError(url, detail)

    async def ended() -> None:
        pass

    hand_on(response, ended, broken)
