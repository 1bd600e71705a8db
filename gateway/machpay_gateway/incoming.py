"""What arrives on a client's connection, read into requests. llhttp reads; nothing is interpreted twice.

Given to every request: its target exactly as received, because payments sign it (an empty query included), and an id.
"""

import itertools
import re
import secrets
from collections.abc import Callable
from typing import Any, Final

import httptools

from machpay_gateway.request import Client, Headers, Request

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_REQUEST_ID_HEADER: Final = b"x-request-id"
_PROCESS: Final = secrets.token_hex(6).encode()
_counter: Final = itertools.count(1)
_VERSIONS: Final = ("1.1", "1.0")
_METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}


class NotHttp(Exception):
    """The bytes on the connection are no HTTP request, or none that is taken. `status` and `text` are the answer."""

    def __init__(
        self,
        detail: str,
        status: bytes = b"400 Bad Request",
        text: bytes = b"Invalid HTTP request received.",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.text = text


class HeadTooLarge(NotHttp):
    """The head of a request is longer than it may be."""

    def __init__(self) -> None:
        text = b"the head of the request is too large"
        super().__init__(text.decode(), b"431 Request Header Fields Too Large", text)


class OtherProtocol(Exception):
    """What follows on the connection would be in another protocol."""


class Incoming:
    """Reads requests of `client`. `arrived(request, keep_alive)` gets each when its head is complete, `ended(request)`
    when its body is."""

    def __init__(
        self,
        client: Client,
        max_head_bytes: int,
        arrived: Callable[[Request, bool], None],
        ended: Callable[[Request], None],
    ) -> None:
        self._client = client
        self._max_head_bytes = max_head_bytes
        self._arrived = arrived
        self._ended = ended
        self._parser: Any = httptools.HttpRequestParser(self)
        # What follows a request that is to be the last is not answered; it makes that one no worse.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._target = b""
        self._headers: Headers = []
        self._has_begun = False
        self._in_head = True
        self._received = 0
        """How much has arrived since the last head that was complete."""
        self._refused: NotHttp | None = None
        self.request: Request | None = None
        """Whose body is arriving."""

    @property
    def is_in_head(self) -> bool:
        """True while a part of a head is there."""
        return self._has_begun and self._in_head

    def feed(self, data: bytes) -> None:
        """Read what was received. Raises `NotHttp` and its kinds, `OtherProtocol`."""
        if self._in_head:
            self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise OtherProtocol from error
        except httptools.HttpParserError as error:
            raise self._refused or NotHttp(str(error)) from error
        if self.is_in_head and self._received > self._max_head_bytes:
            raise HeadTooLarge

    def close(self) -> None:
        """Let go of who holds this object, so that nobody has to look for what is held in a circle."""
        del self._parser, self._client, self._arrived, self._ended

    # --- What llhttp calls ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._has_begun = True

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Behind the body it is a trailer: nothing that decides anything may come there.
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, self._headers
        version: str = parser.get_http_version()
        self._refused = self._fault(version, headers)
        if self._refused is not None:
            raise self._refused
        self._in_head = False
        self._received = 0
        method: bytes = parser.get_method()
        request = Request(
            self._client,
            _METHODS.get(method) or method.decode(),
            self._target,
            headers,
            request_id=_identify(headers),
            wants_upgrade=parser.should_upgrade(),
        )
        self.request = request
        self._arrived(request, parser.should_keep_alive() and version != "1.0")

    def _fault(self, version: str, headers: Headers) -> NotHttp | None:
        """What is wrong with a complete head that llhttp does not mind."""
        names = [name for name, _ in headers]
        if names.count(b"host") != 1 and not (version == "1.0" and b"host" not in names):
            return NotHttp("no Host header, or several")
        if version not in _VERSIONS:
            return NotHttp(f"HTTP/{version} in a request line")
        if b"transfer-encoding" in names and _codings(headers) != [b"chunked"]:
            text = b"no transfer coding but chunked is understood"
            return NotHttp(text.decode(), b"501 Not Implemented", text)
        if self._received > self._max_head_bytes:
            # What was received may hold more than the head.
            size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > self._max_head_bytes:
                return HeadTooLarge()
        return None

    def on_body(self, body: bytes) -> None:
        request = self.request
        # One that was answered before its body was read takes no more of it.
        if request is not None and not request.is_gone:
            request.feed(body)

    def on_message_complete(self) -> None:
        request, self.request = self.request, None
        self._target, self._headers = b"", []
        self._in_head, self._has_begun = True, False
        if request is not None:
            request.finish()
            self._ended(request)


def _codings(headers: Headers) -> list[bytes]:
    return [value.lower() for name, value in headers if name == b"transfer-encoding"]


def _identify(headers: Headers) -> bytes:
    """The request's id: the client's own if it is one. Whoever the request is passed on to gets the id as well."""
    request_id = b""
    for name, value in headers:
        if name == _REQUEST_ID_HEADER:
            request_id = value
    if request_id:
        if _REQUEST_ID.fullmatch(request_id) is not None:
            return request_id
        headers[:] = [line for line in headers if line[0] != _REQUEST_ID_HEADER]
    request_id = b"%s-%x" % (_PROCESS, next(_counter))
    headers.append((_REQUEST_ID_HEADER, request_id))
    return request_id
