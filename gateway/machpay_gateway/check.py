"""`machpay-gateway check`: is everything that the configuration points at there, and does it belong together?"""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError
from machpay_gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    what: str
    ok: bool
    detail: str


async def check(settings: Settings) -> list[Finding]:
    """Look at each part once; never raises for what it finds."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return [
            Finding("configuration", True, f"gateway {settings.key.pubkey} of vendor {settings.vendor}"),
            _data_dir(settings),
            await _answers(session, "upstream", settings.upstream.url + "/", healthy=False),
            await _answers(session, "relayer", settings.relayer_url + "/health", healthy=True),
            await _answers(session, "receiver", settings.receiver_url + "/health", healthy=True),
            *await _chain(settings),
        ]


def _data_dir(settings: Settings) -> Finding:
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".check-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Finding("data_dir", False, f"{folder}: {error.strerror}")
    return Finding("data_dir", True, str(folder))


async def _answers(session: aiohttp.ClientSession, what: str, url: str, *, healthy: bool) -> Finding:
    """Whether something answers at `url`; with `healthy` it must answer 200."""
    try:
        async with session.get(url, allow_redirects=False) as answer:
            ok = answer.status == 200 or not healthy
            return Finding(what, ok, f"{url} answers {answer.status}")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Finding(what, False, f"{url}: {error or type(error).__name__}")


async def _chain(settings: Settings) -> list[Finding]:
    origin = urlsplit(settings.rpc_url).netloc
    try:
        async with ChainClient(settings.rpc_url, settings.network) as chain:
            genesis = await chain.genesis_hash()
            same = genesis == settings.network.domain
            findings = [Finding("network.domain", same, f"the genesis hash of {origin} is {genesis}")]
            account = await chain.gateway(settings.key.public)
    except (ChainError, OSError) as error:
        return [Finding("chain", False, f"{origin}: {error or type(error).__name__}")]
    if account is None:
        detail = "this gateway is not registered on-chain; its payments cannot be settled"
        return [*findings, Finding("registration", False, detail)]
    ok = account.vendor == settings.vendor and not account.revoked
    state = "revoked" if account.revoked else "registered"
    return [*findings, Finding("registration", ok, f"{state} for vendor {account.vendor}")]
