"""`machpay-gateway check`: is everything that the configuration points at there, and does it belong together?

Each part is looked at once, and nothing is changed but for a probe file in the data folder.
"""

import asyncio
import os
import shutil
import stat
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp
from solders.pubkey import Pubkey

from machpay.chain.accounts import GatewayAccount, VendorAccount
from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError, DecodeError
from machpay.chain.tokens import TokenAccount
from machpay_gateway.errors import LogError
from machpay_gateway.log.segments import lock
from machpay_gateway.settings import Settings
from machpay_gateway.siblings.family import identities

Level = Literal["ok", "warn", "fail"]
TIMEOUT_S: Final = 5.0
SKEW_WARN_S: Final = 5.0
SKEW_FAIL_S: Final = 30.0
"""Signed requests are refused at 60 s, payments by their deadlines earlier."""
FREE_BYTES_MIN: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. A `warn` works today and may not tomorrow; a `fail` has to be mended."""

    what: str
    level: Level
    detail: str


async def check(settings: Settings, *, key_file: Path | None = None, local: bool = False) -> list[Finding]:
    """Look at each part; never raises for what it finds. With `local` nothing is asked over the network."""
    findings = [
        Finding("configuration", "ok", f"gateway {settings.key.pubkey} of vendor {settings.vendor}"),
        *([] if key_file is None else [_key_file(key_file)]),
        *_data_dir(settings.data_dir),
    ]
    if local:
        return findings
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
        parts = await asyncio.gather(
            _upstream(session, settings),
            look_at_service(session, "relayer", settings.relayer_url),
            look_at_service(session, "receiver", settings.receiver_url),
            _clock(session, settings.relayer_url),
            _chain(settings),
        )
    upstream, relayer, receiver, clock, chain = parts
    return [*findings, upstream, relayer, receiver, *clock, *chain]


async def look_at_service(session: aiohttp.ClientSession, what: str, origin: str) -> Finding:
    """What the health address of relayer or receiver says."""
    url = origin + "/health"
    try:
        async with session.get(url, allow_redirects=False) as answer:
            status = answer.status
            body = await answer.json(content_type=None) if status in (200, 503) else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return Finding(what, "fail", f"{url}: {error or type(error).__name__}")
    said = body.get("status") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(said, str):
        return Finding(what, "fail", f"{url} answers {status}, which is no {what}")
    if body.get("service", what) != what:
        return Finding(what, "fail", f"{origin} is a {body['service']}")
    if status != 200:
        return Finding(what, "fail", f"{url} answers {status}: {said}")
    return Finding(what, "ok" if said == "ok" else "warn", f"{origin}: {said}")


def _key_file(path: Path) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding("key_file", "warn", f"{path} may be read by others ({mode:04o}): chmod 600 {path}")
    return Finding("key_file", "ok", f"{path} is its owner's only")


def _data_dir(folder: Path) -> list[Finding]:
    if not folder.exists():
        # Left to `run`: made here, it would belong to whoever looks, which may be root before a service's first start.
        above = next(each for each in folder.parents if each.exists())
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            return [Finding("data_dir", "fail", f"{folder} cannot be made in {above}")]
        made = Finding("data_dir", "ok", f"{folder} is not there yet: the first run makes it")
        return [made, *_log(folder / "log")]
    try:
        probe = folder / f".check-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [Finding("data_dir", "fail", f"{folder}: {error.strerror}")]
    detail = f"{folder}, {free // 1024**2} MiB free"
    level: Level = "ok" if free >= FREE_BYTES_MIN else "warn"
    return [Finding("data_dir", level, detail), *_log(folder / "log")]


def _log(folder: Path) -> list[Finding]:
    if not folder.is_dir():
        return [Finding("log", "ok", "none yet: the gateway has not run with this data_dir")]
    try:
        os.close(lock(folder))
    except LogError:
        return [Finding("log", "ok", f"{folder} is in use: the gateway runs")]
    except OSError as error:
        return [Finding("log", "fail", f"{folder}: {error.strerror}")]
    return [Finding("log", "ok", f"{folder} is not in use: the gateway does not run")]


async def _upstream(session: aiohttp.ClientSession, settings: Settings) -> Finding:
    """Whether something speaks HTTP there; what it answers to `/` says nothing about its routes."""
    url = settings.upstream.url.rstrip("/") + "/"
    try:
        async with session.get(url, allow_redirects=False) as answer:
            return Finding("upstream", "ok", f"{url} answers {answer.status}")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Finding("upstream", "fail", f"{url}: {error or type(error).__name__}")


async def _clock(session: aiohttp.ClientSession, relayer_url: str) -> list[Finding]:
    """This machine's clock against the relayer's `Date`, which is in whole seconds. Nothing if it does not answer:
    that is a finding already."""
    try:
        before = time.time()
        async with session.get(relayer_url + "/health", allow_redirects=False) as answer:
            after, date = time.time(), answer.headers.get("Date")
        theirs = parsedate_to_datetime(date or "").timestamp() + 0.5
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return []
    skew = (before + after) / 2 - theirs
    off = max(0.0, abs(skew) - 0.5 - (after - before) / 2)
    level: Level = "ok" if off <= SKEW_WARN_S else "warn" if off <= SKEW_FAIL_S else "fail"
    if off == 0:
        return [Finding("clock", level, "agrees with the relayer's")]
    way = "ahead of" if skew > 0 else "behind"
    return [Finding("clock", level, f"{off:.0f} s {way} the relayer's; signed requests allow 60 s")]


async def _chain(settings: Settings) -> list[Finding]:
    # An RPC URL may carry an access token in its path.
    origin = urlsplit(settings.rpc_url).netloc
    findings: list[Finding] = []
    try:
        async with ChainClient(settings.rpc_url, settings.network, timeout_seconds=TIMEOUT_S) as chain:
            genesis = await chain.genesis_hash()
            same = genesis == settings.network.domain
            findings.append(
                Finding("domain", "ok" if same else "fail", f"the genesis hash of {origin} is {genesis}")
            )
            if same:
                findings += await _accounts(chain, settings)
    except (ChainError, OSError, TimeoutError) as error:
        findings.append(Finding("chain", "fail", f"{origin}: {error or type(error).__name__}"))
    return findings


async def _accounts(chain: ChainClient, settings: Settings) -> list[Finding]:
    network = settings.network
    if await chain.bond() is None:
        detail = f"program {network.program_id} holds no bonds in token {network.mint}"
        return [Finding("program", "fail", detail)]
    findings = [Finding("program", "ok", f"{network.program_id}, token {network.mint}")]
    for key in identities(settings):
        level, detail = _registration(await chain.gateway(key.public), settings.vendor)
        findings.append(Finding("registration", level, f"{key.pubkey}: {detail}"))
    vendor = await chain.vendor(settings.vendor)
    return findings if vendor is None else [*findings, await _payout(chain, settings, vendor)]


def _registration(account: GatewayAccount | None, vendor: Pubkey) -> tuple[Level, str]:
    if account is None:
        return "fail", "not registered on-chain, so its payments cannot be settled: machpay-gateway register"
    if account.vendor != vendor:
        return "fail", f"registered for vendor {account.vendor}, gateway.vendor is {vendor}"
    if account.revoked:
        return "fail", "revoked on-chain"
    return "ok", f"registered for vendor {vendor}"


async def _payout(chain: ChainClient, settings: Settings, vendor: VendorAccount) -> Finding:
    """Settlements that the payout account cannot receive are kept as owed, which is worth knowing early."""
    account = await chain.account(vendor.payout)
    try:
        held = None if account is None else TokenAccount.decode(bytes(account.data))
    except DecodeError:
        held = None
    if held is None or held.frozen or held.mint != settings.network.mint:
        detail = f"{vendor.payout} cannot receive the token: what is settled is kept as owed until it can"
        return Finding("payout", "warn", detail)
    return Finding("payout", "ok", f"{vendor.payout} receives what is settled")
