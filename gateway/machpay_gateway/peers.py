"""Signed HTTP to the network's own services (relayer, receiver), from one small connection pool.

Never used in the way of a request except for the bounded look-up of an unknown agent.
"""

from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from machpay.protocol.keys import SigningKey
from machpay.protocol.signed_requests import sign_request
from machpay_gateway.errors import RelayerError
from machpay_gateway.logs import REQUEST_ID

RETRY_AFTER_MAX_S: Final = 30.0
"""Longer than this nobody is let alone, whatever a server on the way says: kill switch and payments wait for it."""


class Peers:
    """Use as an async context manager."""

    def __init__(self, key: SigningKey, *, timeout_s: float = 10.0) -> None:
        self._key = key
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=3.0),
            connector=aiohttp.TCPConnector(limit=64, keepalive_timeout=4.0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, base_url: str, target: str) -> bytes:
        """The body of a 2xx answer. Raises `RelayerError`."""
        return await self._request("GET", base_url, target, b"", "")

    async def post(
        self, base_url: str, target: str, body: bytes, content_type: str = "application/json"
    ) -> bytes:
        """The body of a 2xx answer. Raises `RelayerError`."""
        return await self._request("POST", base_url, target, body, content_type)

    async def _request(
        self, method: str, base_url: str, target: str, body: bytes, content_type: str
    ) -> bytes:
        if self._session is None:
            raise RelayerError("the client is closed")
        headers = sign_request(self._key, method, urlsplit(base_url).path + target, body)
        if body:
            headers["Content-Type"] = content_type
        if request_id := REQUEST_ID.get():
            headers["X-Request-ID"] = request_id
        url = URL(base_url + target, encoded=True)
        try:
            async with self._session.request(
                method, url, data=body or None, headers=headers, allow_redirects=False
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RelayerError(f"{method} {url}: {error or type(error).__name__}") from error
        if 200 <= answer.status < 300:
            return content
        raise RelayerError(
            f"{method} {url}: {answer.status} {content[:300].decode(errors='replace')}",
            answer.status,
            _retry_after(answer.headers.get("Retry-After")),
        )


def _retry_after(value: str | None) -> float | None:
    if value is None or not (value.isascii() and value.isdigit()):
        return None
    return min(float(value), RETRY_AFTER_MAX_S)
