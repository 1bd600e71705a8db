"""The connections from this process to one sibling, and what travels on them: whole requests, with a seal."""

import time
from typing import Final
from urllib.parse import urlsplit

from machpay_gateway.errors import UpstreamError
from machpay_gateway.headers import HOP_BY_HOP, Headers
from machpay_gateway.request import Request
from machpay_gateway.settings import UpstreamSection
from machpay_gateway.siblings.seal import HEADER, Origin, seal
from machpay_gateway.upstream import Upstream

CONNECT_TIMEOUT_S: Final = 2.0
MARGIN_S: Final = 30.0
"""How much longer than the upstream may take its sibling may take: it also waits for its log and for repeats."""
OURSELVES: Final = Origin("127.0.0.1", "http")
"""Who asks when a sibling does: the machine itself, which no rate limit holds up."""
KEEP_ALIVE_S: Final = 30.0
MAX_CONNECTIONS: Final = 512
_MAX_READ_BYTES: Final = 8 * 1024 * 1024
_DROPPED: Final = HOP_BY_HOP | {HEADER, b"content-length", b"expect"}


class Line(Upstream):
    """Like the way to the upstream, but nothing is taken out of a request: the sibling does that. Use as an async
    context manager."""

    def __init__(self, url: str, gateway: str, secret: bytes, upstream: UpstreamSection) -> None:
        super().__init__(
            UpstreamSection(
                url=url,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                read_timeout_s=upstream.answer_timeout_s + upstream.read_timeout_s + MARGIN_S,
                keep_alive_s=KEEP_ALIVE_S,
                max_connections=MAX_CONNECTIONS,
            )
        )
        self.gateway = gateway
        self._secret = secret
        self._authority = urlsplit(url).netloc.encode()
        # The client's own Host header travels with the others.
        self._host_line = b""

    def headers_for(self, request: Request) -> Headers:
        # Our own peer, a trusted proxy included: the sibling judges its X-Forwarded-For like we do.
        origin = Origin(request.via or request.client_host or "", request.scheme)
        passed = [(name, value) for name, value in request.headers if name not in _DROPPED]
        if request.host is None:
            passed.append((b"host", self._authority))
        return [*passed, self._seal(origin, request.method, request.target)]

    async def read(self, target: str) -> tuple[int, bytes]:
        """What the sibling answers to a GET of one of its own endpoints. Raises `UpstreamError`."""
        headers = [
            (b"host", self._authority),
            self._seal(OURSELVES, "GET", target.encode()),
        ]
        answer = await self._send("GET", target.encode(), headers, b"")
        try:
            body = b""
            async for piece in answer.chunks():
                body += piece
                if len(body) > _MAX_READ_BYTES:
                    raise UpstreamError(502, "upstream_unreachable", "the answer is too long")
            return answer.status, body
        finally:
            answer.close()

    def _seal(self, origin: Origin, method: str, target: bytes) -> tuple[bytes, bytes]:
        return seal(self._secret, origin, gateway=self.gateway, method=method, target=target, now=time.time())
