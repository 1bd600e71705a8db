"""Sends prepared requests and says exactly what is known when one fails. Decides nothing about money.

The distinction that matters: a request that surely never left, and one that may have arrived.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from types import TracebackType
from typing import Final, Self
from urllib.request import getproxies

import httpx

from machpay.client.connection import Upload
from machpay.client.errors import ConfigError, GatewayUnreachableError
from machpay.client.wire import Exchange, RawHeaders, Wire

REMEMBERED_REQUESTS: Final = 512
"""Agents call the same URLs over and over; reading one is a tenth of a paid call."""

NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.LocalProtocolError,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)


@dataclass(frozen=True, slots=True)
class Lost:
    """No complete answer. `sent` is False only when the request surely never left; `timed_out` when we
    stopped waiting; `headers` are those of an answer whose body broke off."""

    detail: str
    sent: bool
    timed_out: bool = False
    headers: Mapping[str, str] | None = None


class Transport:
    """One connection pool. Never follows redirects and keeps no cookies: a payment is for the request that was made.

    Where the environment names a proxy, httpx carries the requests; elsewhere `wire` does, in a fraction of the time.
    """

    def __init__(self, *, timeout_s: float, max_connections: int) -> None:
        limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        self._pid = os.getpid()
        self._is_proxied = any(name in ("http", "https", "all") for name in getproxies())
        self._http = httpx.AsyncClient(
            timeout=timeout_s,
            limits=limits,
            follow_redirects=False,
            # A client that only builds requests need not read the system's certificates: that takes tens of ms.
            transport=None if self._is_proxied else httpx.AsyncBaseTransport(),
        )
        self._plain = lru_cache(maxsize=REMEMBERED_REQUESTS)(self._http.build_request)
        self._wire = Wire(timeout_s=timeout_s, max_connections=max_connections)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._wire.aclose()
        await self._http.__aexit__(kind, error, trace)

    def build(self, method: str, url: str, **parts: object) -> httpx.Request:
        """A request with everything httpx adds to it; its target and body are final. Raises `ConfigError` for a URL
        that is none."""
        if os.getpid() != self._pid:
            # Its connections are the parent's: answers would go to whoever reads first.
            raise RuntimeError("the client was made before a fork: each process makes its own")
        try:
            if all(part is None for part in parts.values()):
                return _again(self._plain(method, url))
            return self._http.build_request(method, _parsed(url), **parts)  # type: ignore[arg-type]
        except httpx.InvalidURL as error:
            raise ConfigError(f"{url}: {error}") from error

    async def send(
        self,
        request: httpx.Request,
        headers: Mapping[str, str] | None = None,
        *,
        streams: bool = False,
        body: Upload | None = None,
    ) -> httpx.Response | Lost:
        """Send `request` (again) with extra headers; an answer read to its end, or what is known without
        one. With `streams` an answer of success is returned unread: the caller closes it. `body` is sent in place of
        the request's own."""
        lines = [*request.headers.raw, *((k.encode(), v.encode()) for k, v in (headers or {}).items())]
        began = time.perf_counter()
        try:
            if self._is_proxied:
                answer = await self._through_proxy(request, lines, body)
            else:
                exchange = await self._wire.open(
                    request.method, request.url, lines, request.content if body is None else body
                )
                answer = httpx.Response(
                    exchange.status, headers=exchange.headers, stream=exchange, request=request
                )
        except NEVER_SENT as error:
            return Lost(describe(error), sent=False)
        except httpx.TransportError as error:
            return Lost(describe(error), sent=True, timed_out=isinstance(error, httpx.TimeoutException))
        if streams and answer.is_success:
            return answer
        try:
            await _read(answer)
        except (httpx.TransportError, httpx.DecodingError) as error:
            timed_out = isinstance(error, httpx.TimeoutException)
            return Lost(describe(error), sent=True, timed_out=timed_out, headers=answer.headers)
        finally:
            await answer.aclose()
        answer.elapsed = timedelta(seconds=time.perf_counter() - began)
        return answer

    async def _through_proxy(
        self, request: httpx.Request, lines: RawHeaders, body: Upload | None
    ) -> httpx.Response:
        outgoing = httpx.Request(
            request.method,
            request.url,
            headers=list(lines),
            content=request.content if body is None else body.pieces(),
            extensions=request.extensions,
        )
        return await self._http.send(outgoing, stream=True)

    async def ask(
        self, request: httpx.Request, *, streams: bool = False, body: Upload | None = None
    ) -> httpx.Response:
        """Send a request that carries no payment. Raises `GatewayUnreachableError` without a complete
        answer. With `streams` an answer of success is returned unread."""
        answer = await self.send(request, streams=streams, body=body)
        if isinstance(answer, Lost):
            raise GatewayUnreachableError(str(request.url), answer.detail)
        return answer


def _again(request: httpx.Request) -> httpx.Request:
    """A request like one that was built before, with headers of its own."""
    again = httpx.Request.__new__(httpx.Request)
    # httpx has no way to copy one; a request's state is its instance dictionary.
    again.__dict__.update(request.__dict__)
    again.headers = httpx.Headers(request.headers)
    again.extensions = dict(request.extensions)
    return again


async def _read(answer: httpx.Response) -> None:
    """Read an answer to its end."""
    if not isinstance(answer.stream, Exchange) or "content-encoding" in answer.headers:
        await answer.aread()
        return
    # What `aread` comes to without its four iterators around a body that is usually here already.
    body = answer._content = await answer.stream.read()
    answer._num_bytes_downloaded = len(body)
    answer.is_closed = answer.is_stream_consumed = True


@lru_cache(maxsize=REMEMBERED_REQUESTS)
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


def describe(error: Exception) -> str:
    """The kind of failure, and its text if it has one."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
