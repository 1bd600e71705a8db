"""A signed request is used once per service."""

import time
from uuid import uuid4

from apps.core.redis import async_redis
from apps.core.single_use import first_use
from machpay.protocol.keys import SigningKey
from machpay.protocol.signed_requests import WINDOW_S, RequestSigner


async def test_a_nonce_is_fresh_once_per_key_and_service():
    signer = RequestSigner(SigningKey.generate().public, int(time.time()), uuid4())
    other = RequestSigner(SigningKey.generate().public, signer.timestamp, signer.nonce)

    try:
        assert [await first_use(signer, purpose="a") for _ in range(3)] == [True, False, False]
        assert await first_use(signer, purpose="b")
        assert await first_use(other, purpose="a")
        remembered = await async_redis().ttl(f"nonce:a:{signer.pubkey}:{signer.nonce}")
        assert 2 * WINDOW_S - 5 < remembered <= 2 * WINDOW_S + 1
    finally:
        await async_redis().aclose()
