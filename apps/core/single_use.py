"""Single use of the nonces of signed requests, remembered in Redis for as long as the signature could be accepted."""

from typing import Final

from apps.core.redis import async_redis
from machpay.protocol.signed_requests import WINDOW_S, RequestSigner

# A request is accepted from WINDOW_S before its timestamp to WINDOW_S after it; one spare second covers rounding.
_REMEMBER_S: Final = 2 * WINDOW_S + 1


async def first_use(signer: RequestSigner, *, purpose: str) -> bool:
    """True for the first of all requests with this key and nonce to this service, False for every later one.

    Raises `redis.exceptions.RedisError` if Redis cannot say; the caller then refuses with 503, never accepts.
    """
    key = f"nonce:{purpose}:{signer.pubkey}:{signer.nonce}"
    return bool(await async_redis().set(key, b"", nx=True, ex=_REMEMBER_S))
