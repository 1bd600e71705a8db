"""Questions to relayer and receiver: what an answer that is none becomes."""

import pytest
from aiohttp import web

from machpay.protocol.keys import SigningKey
from machpay_gateway.errors import RelayerError
from machpay_gateway.peers import RETRY_AFTER_MAX_S, Peers
from tests.gateway.servers import serve


@pytest.mark.parametrize(
    ("said", "waits"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("86400", RETRY_AFTER_MAX_S),
        ("9" * 400, RETRY_AFTER_MAX_S),
        ("²", None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", None),
    ],
)
async def test_nobody_is_let_alone_for_longer_than_the_bound(said: str, waits: float | None) -> None:
    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": said})

    app = web.Application()
    app.router.add_get("/changes", busy)
    relayer = await serve(app)
    try:
        async with Peers(SigningKey(b"g" * 32)) as peers:
            with pytest.raises(RelayerError) as failed:
                await peers.get(relayer.url, "/changes")
    finally:
        await relayer.stop()
    assert (failed.value.status, failed.value.retry_after_s) == (503, waits)
