"""The vendor's server: one tuned connection pool, answers streamed as they come, every failure typed.

Redirects, cookies and encodings are passed through untouched: the client talks to the vendor, we carry.
"""

from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Final, Self

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from machpay_gateway.errors import UpstreamError
from machpay_gateway.headers import Headers, to_upstream
from machpay_gateway.request import Request
from machpay_gateway.settings import UpstreamSection

_OWN_HEADERS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""What aiohttp would add by itself."""


class UpstreamAnswer:
    """An answer whose head has arrived. Close it in any case."""

    __slots__ = ("_answer", "headers", "length", "status")

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self.status = answer.status
        self.headers: Headers = list(answer.raw_headers)
        self.length = answer.content_length

    @property
    def has_no_body(self) -> bool:
        """True for statuses that never carry one."""
        return self.status in (204, 205, 304)

    @property
    def is_at_end(self) -> bool:
        """True if everything was read and the upstream ended its answer properly."""
        return self._answer.content.at_eof()

    async def read(self) -> bytes:
        """The whole body. Raises `UpstreamError` if it breaks off."""
        try:
            return await self._answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _failure(error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive. Raises `UpstreamError` if it breaks off."""
        try:
            async for chunk in self._answer.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _failure(error) from error

    def close(self) -> None:
        """Give the connection back, or drop it if the body was not read to its end."""
        self._answer.close() if not self._answer.content.at_eof() else self._answer.release()


class Upstream:
    """Use as an async context manager."""

    def __init__(self, settings: UpstreamSection) -> None:
        self._settings = settings
        self._base = settings.url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.max_connections, keepalive_timeout=settings.keep_alive_s, ttl_dns_cache=60
            ),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=settings.connect_timeout_s + settings.read_timeout_s,
                sock_connect=settings.connect_timeout_s,
                sock_read=settings.read_timeout_s,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_OWN_HEADERS,
            auto_decompress=False,
            max_line_size=32 * 1024,
            max_field_size=32 * 1024,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def open(self, request: Request) -> UpstreamAnswer:
        """Forward `request` and wait for the head of the answer. Raises `UpstreamError`, and what reading a streamed
        request body raises."""
        if self._session is None:
            raise UpstreamError(502, "upstream_unreachable", "the gateway is stopping")
        headers = to_upstream(request.headers, client_host=request.client_host, scheme=request.scheme)
        data: bytes | AsyncIterator[bytes] | None = request.body or None
        if not request.is_whole:
            data = request.rest()
        try:
            answer = await self._session.request(
                request.method,
                _url(self._base, request.target),
                headers=CIMultiDict(headers),
                data=data,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise request.failure or _failure(error) from error
        return UpstreamAnswer(answer)


@lru_cache(maxsize=1024)
def _url(base: str, target: bytes) -> URL:
    # Encoded as received: normalising here would forward another path than the one that was priced.
    return URL(base + target.decode("latin-1"), encoded=True)


def _failure(error: Exception) -> UpstreamError:
    if isinstance(error, TimeoutError):
        return UpstreamError(504, "upstream_timeout", "the upstream did not answer in time")
    return UpstreamError(502, "upstream_unreachable", f"the upstream failed: {type(error).__name__}")
