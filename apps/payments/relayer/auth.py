"""Who signed a request. Every request to the relayer that reads or writes anything about money is signed."""

import time

import redis

from apps.core import asgi
from apps.core.errors import DomainError
from apps.core.single_use import first_use
from apps.payments.errors import NotYours
from apps.payments.relayer.threads import Threads
from machpay.protocol.errors import MalformedError, SignatureError
from machpay.protocol.signed_requests import RequestSigner, verify_request


class BadSignature(DomainError):
    code = "invalid_signature"
    status = 401


class RequestReplayed(DomainError):
    code = "request_replayed"
    status = 401


class ReplayGuardUnavailable(DomainError):
    code = "replay_guard_unavailable"
    status = 503


async def authenticate(scope: asgi.Scope, body: bytes, threads: Threads) -> RequestSigner:
    """The signer of this request, which cannot be used again.

    Raises `BadRequest`, `BadSignature`, `RequestReplayed`, or `ReplayGuardUnavailable` while Redis is away.
    """
    target, headers = asgi.target_of(scope), asgi.header_map(scope)
    try:
        signer = await threads.verify(verify_request, scope["method"], target, body, headers, now=time.time())
    except MalformedError as error:
        raise asgi.BadRequest(error.detail) from error
    except SignatureError as error:
        raise BadSignature(error.detail) from error
    try:
        fresh = await first_use(signer, purpose="relayer")
    except redis.RedisError as error:
        raise ReplayGuardUnavailable(
            "requests cannot be told from replays right now", retry_after_s=1
        ) from error
    if not fresh:
        raise RequestReplayed("this signed request was already used; sign every attempt anew")
    return signer


def must_be(signer: RequestSigner, gateway_id: str) -> None:
    """Raises `NotYours` unless the body names the gateway that signed it."""
    if signer.pubkey != gateway_id:
        raise NotYours("gateway_id is not the key that signed this request")
