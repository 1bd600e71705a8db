"""Registering the gateway that a facilitator hosts for a vendor.

The vendor pays for the account and signs; the facilitator, which holds the gateway's key, co-signs over HTTP. Both
signatures are over one message that does nothing else, so neither trusts the other.
"""

import asyncio
import base64
import time
from typing import Final, TypeVar

import httpx
import msgspec
from solders.hash import Hash
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from machpay.chain.client import ChainClient
from machpay.chain.instructions import register_gateway
from machpay.chain.network import Network
from machpay.errors import MachPayError
from machpay.protocol.encoding import decode_json, parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.facilitator import CosignAnswer, CosignRequest, HostedGateway, SupportedAnswer
from machpay.protocol.keys import SigningKey
from machpay.protocol.x402 import SCHEME

_TIMEOUT_S: Final = 10.0
_KNOWN_TIMEOUT_S: Final = 90.0
_KNOWN_POLL_S: Final = 0.5
T = TypeVar("T", bound=msgspec.Struct)


class FacilitatorError(MachPayError):
    """The facilitator did not answer, or not as it should."""


async def facilitated_network(facilitator_url: str) -> Network:
    """The network that the facilitator accepts bonds of; compare its domain with the chain's. Raises
    `FacilitatorError`."""
    answer = _decode(await _call("GET", f"{facilitator_url.rstrip('/')}/supported"), SupportedAnswer)
    for kind in answer.kinds:
        if kind.scheme == SCHEME:
            try:
                return Network(
                    program_id=parse_pubkey(kind.extra.get("programId"), "programId"),
                    mint=parse_pubkey(kind.extra.get("asset"), "asset"),
                    domain=Hash(bytes(parse_pubkey(kind.extra.get("domain"), "domain"))),
                )
            except MalformedError as error:
                raise FacilitatorError(f"{facilitator_url}: {error.detail}") from error
    raise FacilitatorError(f"{facilitator_url} does not support {SCHEME}")


async def hosted_gateway(facilitator_url: str, vendor: Pubkey) -> HostedGateway:
    """The gateway that the facilitator at `facilitator_url` hosts for `vendor`. Raises `FacilitatorError`."""
    body = await _call("GET", f"{facilitator_url.rstrip('/')}/gateways/{vendor}")
    return _decode(body, HostedGateway)


async def register_hosted_gateway(
    chain: ChainClient, network: Network, facilitator_url: str, vendor: SigningKey
) -> Pubkey:
    """Register the vendor's hosted gateway on chain and wait until the facilitator takes payments for it, which is
    when the registration is final; nothing happens if it does already.

    The vendor must be registered and hold the rent. Returns the gateway. Raises `FacilitatorError` or `ChainError`;
    calling again goes on where it ended.
    """
    hosted = await hosted_gateway(facilitator_url, vendor.public)
    gateway = Pubkey.from_string(hosted.gateway)
    if hosted.registered:
        return gateway
    if await chain.gateway(gateway, "confirmed") is None:
        await _register(chain, network, facilitator_url, vendor, gateway)
    deadline = time.monotonic() + _KNOWN_TIMEOUT_S
    while not (await hosted_gateway(facilitator_url, vendor.public)).registered:
        if time.monotonic() > deadline:
            raise FacilitatorError(
                f"gateway {gateway} is registered, but {facilitator_url} does not know it {_KNOWN_TIMEOUT_S:g} s later"
            )
        await asyncio.sleep(_KNOWN_POLL_S)
    return gateway


async def _register(
    chain: ChainClient, network: Network, facilitator_url: str, vendor: SigningKey, gateway: Pubkey
) -> None:
    blockhash, _ = await chain.latest_blockhash()
    instruction = register_gateway(network, gateway=gateway, authority=vendor.public)
    message = MessageV0.try_compile(vendor.public, [instruction], [], blockhash)
    raw = to_bytes_versioned(message)
    request = CosignRequest(message=base64.b64encode(raw).decode())
    answer = _decode(
        await _call(
            "POST", f"{facilitator_url.rstrip('/')}/gateways/{vendor.public}", msgspec.json.encode(request)
        ),
        CosignAnswer,
    )
    signatures = {
        vendor.public: Signature(vendor.sign(raw)),
        gateway: Signature.from_string(answer.signature),
    }
    signers = message.account_keys[: message.header.num_required_signatures]
    transaction = VersionedTransaction.populate(message, [signatures[key] for key in signers])
    signature = await chain.send(bytes(transaction))
    await chain.confirm(signature, "confirmed")


async def _call(method: str, url: str, body: bytes | None = None) -> bytes:
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
            answer = await client.request(
                method, url, content=body, headers={"content-type": "application/json"}
            )
    except httpx.HTTPError as error:
        raise FacilitatorError(f"{url}: {error or type(error).__name__}") from error
    if answer.status_code != 200:
        raise FacilitatorError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
    return answer.content


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        answer: T = decode_json(
            msgspec.json.Decoder(kind), body, f"the facilitator's answer is not a {kind.__name__}"
        )
    except MalformedError as error:
        raise FacilitatorError(error.detail) from error
    return answer
