"""A gateway becomes known: on-chain first, then to the relayer. Each step looks before it acts, so all of it can be
repeated, by several processes and after any failure.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import tokens
from machpay.chain.accounts import GATEWAY_LENGTH, VENDOR_LENGTH
from machpay.chain.client import ChainClient
from machpay.chain.instructions import register_gateway, register_vendor
from machpay.chain.loader import LAMPORTS_PER_SIGNATURE
from machpay.protocol.keys import SigningKey
from machpay_gateway import __version__
from machpay_gateway.errors import ConfigError, Refused, RelayerError
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings

State = Literal["registered", "missing", "revoked"]
GATEWAYS_PER_TRANSACTION: Final = 5
"""Each adds a signature of 64 bytes and an account; a transaction holds 1,232 bytes."""
POLL_S: Final = 1.0
METADATA_BYTES_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Standing:
    """What the chain says about a vendor and its gateways. `payout` is the token account on record, or the one that a
    registration will name; `payout_exists` whether it is there."""

    vendor_registered: bool
    payout: Pubkey
    payout_exists: bool
    gateways: dict[Pubkey, State]

    @property
    def missing(self) -> list[Pubkey]:
        """The gateways that can be registered, in order."""
        return [gateway for gateway, state in self.gateways.items() if state == "missing"]

    @property
    def is_complete(self) -> bool:
        return self.vendor_registered and not self.missing


async def read_standing(
    chain: ChainClient, settings: Settings, gateways: Sequence[Pubkey], payout: Pubkey | None
) -> Standing:
    """Ask the chain. Raises `ConfigError` if the configuration contradicts it, `Refused` if a gateway cannot be
    registered, `ChainError`."""
    network, vendor = settings.network, settings.vendor
    genesis = await chain.genesis_hash()
    if genesis != network.domain:
        raise ConfigError(f"network.rpc_url is cluster {genesis}, network.domain is {network.domain}")
    if await chain.bond() is None:
        raise ConfigError(
            f"program {network.program_id} holds no bonds in {network.mint} (network.program_id, network.mint)"
        )
    account = await chain.vendor(vendor)
    if account is not None and account.mint != network.mint:
        raise Refused(f"vendor {vendor} is registered for token {account.mint}, not {network.mint}")
    if account is not None and payout is not None and account.payout != payout:
        raise Refused(
            f"vendor {vendor} is paid to {account.payout}; changing that is the vendor's update, not this"
        )
    if account is not None:
        payout = account.payout
    elif payout is None:
        payout = tokens.associated_token_address(vendor, network.mint)
    states: dict[Pubkey, State] = {}
    for gateway in gateways:
        found = await chain.gateway(gateway)
        if found is not None and found.vendor != vendor:
            raise Refused(
                f"gateway {gateway} serves vendor {found.vendor} for ever; make a new key for {vendor}"
            )
        states[gateway] = "missing" if found is None else "revoked" if found.revoked else "registered"
    return Standing(account is not None, payout, await chain.exists(payout), states)


async def lamports_needed(chain: ChainClient, standing: Standing) -> int:
    """What the fee payer spends at most: rent and signatures."""
    if standing.is_complete:
        return 0
    total = 0
    if not standing.vendor_registered:
        total += await chain.rent(VENDOR_LENGTH)
        if not standing.payout_exists:
            total += await chain.rent(tokens.TOKEN_ACCOUNT_LENGTH)
    missing = len(standing.missing)
    total += missing * await chain.rent(GATEWAY_LENGTH)
    transactions = (not standing.vendor_registered) + -(-missing // GATEWAYS_PER_TRANSACTION)
    return total + LAMPORTS_PER_SIGNATURE * (missing + 2 * transactions)


async def register(
    chain: ChainClient,
    settings: Settings,
    standing: Standing,
    *,
    vendor: Keypair,
    gateways: dict[Pubkey, Keypair],
    payer: Keypair,
) -> list[str]:
    """Register what is missing; the signatures of the transactions, in order. Raises `ChainError`."""
    network, sent = settings.network, []
    if not standing.vendor_registered:
        steps: list[Instruction] = []
        own = tokens.associated_token_address(vendor.pubkey(), network.mint)
        if standing.payout == own and not standing.payout_exists:
            steps.append(
                tokens.create_ata_idempotent(payer=payer.pubkey(), owner=vendor.pubkey(), mint=network.mint)
            )
        steps.append(
            register_vendor(
                network,
                authority=vendor.pubkey(),
                payout=standing.payout,
                price=_lowest_price(settings),
                metadata_uri=metadata_uri(settings),
                payer=payer.pubkey(),
            )
        )
        sent.append(await chain.send_and_confirm(steps, payer, [vendor]))
    missing = standing.missing
    for start in range(0, len(missing), GATEWAYS_PER_TRANSACTION):
        part = missing[start : start + GATEWAYS_PER_TRANSACTION]
        steps = [
            register_gateway(network, gateway=gateway, authority=vendor.pubkey(), payer=payer.pubkey())
            for gateway in part
        ]
        sent.append(await chain.send_and_confirm(steps, payer, [vendor, *(gateways[key] for key in part)]))
    return sent


def metadata_uri(settings: Settings) -> str:
    """Where the vendor's manifest is, for the chain; empty when clients reach it at no fixed address."""
    url = settings.gateway.public_url.rstrip("/") + "/machpay.json"
    return url if settings.gateway.public_url and len(url.encode()) <= METADATA_BYTES_MAX else ""


def _lowest_price(settings: Settings) -> int:
    return min((route.price_atomic for route in settings.routes.routes if route.price_atomic), default=0)


async def announce(settings: Settings, key: SigningKey, *, wait_s: float) -> str | None:
    """Tell the relayer about the gateway until it knows it, which takes until the registration is final.

    None when it does; else why it does not yet, after `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    async with Peers(key) as peers:
        while True:
            reason = await _announce_once(settings, key, peers)
            if reason is None or time.monotonic() >= deadline:
                return reason
            await asyncio.sleep(POLL_S)


async def _announce_once(settings: Settings, key: SigningKey, peers: Peers) -> str | None:
    body = {
        "gateway_id": key.pubkey,
        "version": __version__,
        "url": settings.gateway.public_url,
        "vendor": str(settings.vendor),
    }
    try:
        answer = msgspec.json.decode(
            await peers.post(settings.relayer_url, "/heartbeat", msgspec.json.encode(body))
        )
        registered = answer.get("registered")
    except RelayerError as error:
        return str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        return f"{settings.relayer_url} does not answer like a relayer"
    return None if registered is True else "the relayer does not see the registration as final yet"
