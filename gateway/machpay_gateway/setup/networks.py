"""Which network a new gateway joins: program, token, genesis hash and where its services are.

What the operator says comes first, then a description (`var/demo.json`, or the relayer's `/network`), then what is
publicly known of a cluster, then the chain itself. Two sources that disagree are an error, never a choice.
"""

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import aiohttp
from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.chain.client import ChainClient
from machpay.chain.clusters import CLUSTERS, cluster_of
from machpay.chain.errors import ChainError
from machpay.chain.network import Network
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay_gateway.errors import ConfigError
from machpay_gateway.urls import parse_url

DEMO_FILE: Final = Path("var/demo.json")
TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of the network so far; None where it is not."""

    rpc_url: str | None = None
    relayer_url: str | None = None
    receiver_url: str | None = None
    program_id: Pubkey | None = None
    mint: Pubkey | None = None
    domain: Hash | None = None

    def filled(self, other: "Wanted") -> "Wanted":
        """This, with what it lacks taken from `other`."""
        missing = {
            name: value
            for name in self.__slots__
            if getattr(self, name) is None
            if (value := getattr(other, name))
        }
        return replace(self, **missing)


@dataclass(frozen=True, slots=True)
class Found:
    """A whole network, and what could not be verified."""

    network: Network
    rpc_url: str
    relayer_url: str
    receiver_url: str
    notes: tuple[str, ...]


def described(name: str) -> Wanted:
    """What `--network` names: `demo`, a public cluster, or a JSON file in the form of `var/demo.json`.

    Raises `ConfigError`.
    """
    if cluster := CLUSTERS.get(name):
        return Wanted(rpc_url=cluster.rpc_url, mint=cluster.usdc, domain=cluster.genesis)
    path = DEMO_FILE if name == "demo" else Path(name)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = (
            "is `make demo` running here?"
            if name == "demo"
            else f"no file, and none of demo, {', '.join(CLUSTERS)}"
        )
        raise ConfigError(f"--network {name}: cannot read {path} ({hint})") from error
    except ValueError as error:
        raise ConfigError(f"--network {name}: {path} is not JSON") from error
    return _from_document(document, str(path))


async def find_network(wanted: Wanted, *, offline: bool) -> Found:
    """Complete `wanted` from relayer and chain, and compare them. Raises `ConfigError` naming what is missing or
    contradicts. With `offline` nobody is asked."""
    notes: list[str] = []
    if not offline and wanted.relayer_url is not None:
        wanted = await _ask_relayer(wanted, wanted.relayer_url, notes)
    if wanted.rpc_url is None and wanted.domain is not None and (cluster := cluster_of(wanted.domain)):
        wanted = replace(wanted, rpc_url=cluster.rpc_url)
    if not offline and wanted.rpc_url is not None:
        wanted = await _ask_chain(wanted, wanted.rpc_url, notes)
    rpc_url = _present(wanted.rpc_url, "--rpc-url")
    relayer_url = _present(wanted.relayer_url, "--relayer-url")
    receiver_url = _present(wanted.receiver_url, "--receiver-url")
    network = Network(
        _present(wanted.program_id, "--program-id"),
        _present(wanted.mint, "--mint"),
        _present(wanted.domain, "--domain"),
    )
    return Found(network, rpc_url, relayer_url, receiver_url, tuple(notes))


def _present(value: Any, flag: str) -> Any:
    if value is None:
        raise ConfigError(f"{flag} is needed: neither --network, nor a relayer, nor the chain says it")
    return value


async def _ask_relayer(wanted: Wanted, url: str, notes: list[str]) -> Wanted:
    address = url.rstrip("/") + "/network"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
            session.get(address, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                notes.append(f"{address} answers {answer.status}; the network is as given here")
                return wanted
            document = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        notes.append(f"{address} does not answer ({error or type(error).__name__})")
        return wanted
    told = _from_document(document, address)
    _agree(wanted, told, f"the relayer at {url}")
    return wanted.filled(told)


async def _ask_chain(wanted: Wanted, url: str, notes: list[str]) -> Wanted:
    try:
        async with asyncio.timeout(2 * TIMEOUT_S), ChainClient(url, timeout_seconds=TIMEOUT_S) as chain:
            told = Wanted(domain=await chain.genesis_hash())
            _agree(wanted, told, "the RPC server")
            wanted = wanted.filled(told)
            if wanted.program_id is None:
                return wanted
            mints = await chain.mints_of(wanted.program_id)
            if wanted.mint is None and len(mints) == 1:
                wanted = replace(wanted, mint=mints[0])
            if wanted.mint is not None and wanted.mint not in mints:
                notes.append(
                    f"program {wanted.program_id} holds no bonds in token {wanted.mint} on this chain"
                )
            return wanted
    except (ChainError, TimeoutError, OSError) as error:
        notes.append(
            f"the RPC server does not answer ({error or type(error).__name__}); nothing was compared with it"
        )
        return wanted


def _agree(said: Wanted, told: Wanted, who: str) -> None:
    for name in ("program_id", "mint", "domain"):
        ours, theirs = getattr(said, name), getattr(told, name)
        if ours is not None and theirs is not None and ours != theirs:
            raise ConfigError(f"{name} is {ours} here, but {who} says {theirs}: these are two networks")


def _from_document(document: Any, where: str) -> Wanted:
    if not isinstance(document, dict):
        raise ConfigError(f"{where} must hold a JSON object")
    try:
        keys = {
            name: None if document.get(name) is None else parse_pubkey(document[name], name)
            for name in ("program_id", "mint", "domain")
        }
    except MalformedError as error:
        raise ConfigError(f"{where}: {error.detail}") from error
    urls = {
        name: parse_url(str(document[name]), f"{where}: {name}", query=name == "rpc_url")
        for name in ("rpc_url", "relayer_url", "receiver_url")
        if document.get(name)
    }
    domain = keys["domain"]
    return Wanted(
        **urls,
        program_id=keys["program_id"],
        mint=keys["mint"],
        # A genesis hash has the text form of a public key.
        domain=None if domain is None else Hash(bytes(domain)),
    )
