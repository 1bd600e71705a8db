"""`POST /heartbeat`: a gateway is there, and where."""

from typing import Annotated, Any, Final

import msgspec

from apps.core import asgi
from apps.payments.errors import UnknownGateway
from apps.payments.relayer.auth import authenticate, must_be
from apps.payments.relayer.directory import Directory
from apps.payments.relayer.threads import Threads
from apps.payments.services.gateways import Heartbeat, record_heartbeat
from machpay.protocol.encoding import I64_MAX

BODY_BYTES_MAX: Final = 64 * 1024

_Counter = Annotated[int, msgspec.Meta(ge=0, le=I64_MAX)]


class HeartbeatBody(msgspec.Struct):
    """The body of `POST /heartbeat`: the brief's fields, the address clients use and the position of the gateway's
    log."""

    gateway_id: str
    version: str = ""
    uptime_seconds: _Counter = 0
    stats: dict[str, Any] = {}
    url: str = ""
    vendor: str = ""
    seq: _Counter = 0


_decoder = msgspec.json.Decoder(HeartbeatBody)


class HeartbeatEndpoint:
    """The handler; the relayer routes to it."""

    def __init__(self, *, directory: Directory, threads: Threads) -> None:
        self._directory = directory
        self._threads = threads

    async def beat(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        body = await asgi.read_body(scope, receive, limit=BODY_BYTES_MAX)
        signer = await authenticate(scope, body, self._threads)
        heartbeat = asgi.decode(_decoder, body, "the body is not a heartbeat")
        if b"\\u0000" in body:
            raise asgi.BadRequest("a heartbeat holds no NUL characters")
        must_be(signer, heartbeat.gateway_id)
        try:
            await self._directory.vendor_of(signer.pubkey)
        except UnknownGateway:
            registered = False
        else:
            registered = await self._threads.database(
                record_heartbeat,
                gateway=signer.pubkey,
                heartbeat=Heartbeat(
                    version=heartbeat.version,
                    uptime_seconds=heartbeat.uptime_seconds,
                    stats=heartbeat.stats,
                    url=heartbeat.url,
                    log_seq=heartbeat.seq,
                ),
            )
        await asgi.respond_json(send, {"status": "ok", "registered": registered})
