"""`gateway.toml` -> typed settings. Every error names the setting; nothing is guessed and unknown names are refused.

Relative paths are relative to the configuration file. Amounts are atomic units of the token, times seconds unless
the name says otherwise. `docs/gateway.md` is the reference of all settings.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import CLOCK_SKEW_S, MAX_LIFETIME_S
from machpay_gateway.errors import ConfigError
from machpay_gateway.limits import Proxies
from machpay_gateway.routes import Match, Route, RouteBinding, RouteTable, Unlisted
from machpay_gateway.urls import parse_url

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Atomic = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Category = Annotated[str, msgspec.Meta(max_length=64)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class GatewaySection(_Section, frozen=True):
    keypair_file: str
    vendor: str
    data_dir: str
    host: str = "127.0.0.1"
    port: Port = 8402
    public_url: str = ""
    name: Annotated[str, msgspec.Meta(max_length=128)] = ""
    description: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    categories: Annotated[list[Category], msgspec.Meta(max_length=16)] = []
    max_timeout_s: Annotated[int, msgspec.Meta(ge=5, le=MAX_LIFETIME_S - CLOCK_SKEW_S)] = 60
    heartbeat_s: Seconds = 10.0
    shutdown_s: Seconds = 30.0
    segment_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024, le=2**32)] = 64 * 1024 * 1024


class NetworkSection(_Section, frozen=True):
    rpc_url: str
    program_id: str
    mint: str
    domain: str
    relayer_url: str
    receiver_url: str


class UpstreamSection(_Section, frozen=True):
    url: str
    connect_timeout_s: Seconds = 5.0
    read_timeout_s: Seconds = 30.0
    answer_timeout_s: Seconds = 120.0
    keep_alive_s: Seconds = 4.0
    max_connections: Annotated[int, msgspec.Meta(ge=1)] = 256
    max_body_bytes: Annotated[int, msgspec.Meta(ge=0)] = 10 * 1024 * 1024
    unlisted: Unlisted = "deny"


class RouteSection(_Section, frozen=True):
    path: str
    method: str = "GET"
    match: Match = "exact"
    price_atomic: Atomic = 0
    description: str = ""
    mime_type: str = ""
    charge_4xx: bool = False
    metered: bool = False
    amount_url: str = ""
    binding: RouteBinding = "auto"
    input_schema: dict[str, Any] | None = None


class LimitsSection(_Section, frozen=True):
    rate_per_s: Annotated[float, msgspec.Meta(ge=0)] = 1000.0
    rate_burst: Annotated[int, msgspec.Meta(ge=1)] = 2000
    max_addresses: Annotated[int, msgspec.Meta(ge=1)] = 50_000
    trusted_proxies: list[str] = []
    max_connections: Annotated[int, msgspec.Meta(ge=1)] = 4096
    max_head_bytes: Annotated[int, msgspec.Meta(ge=8 * 1024, le=1024 * 1024)] = 64 * 1024
    head_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    write_timeout_s: Seconds = 60.0


class ResponsesSection(_Section, frozen=True):
    keep_s: Seconds = 600.0
    max_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1024 * 1024
    total_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * 1024 * 1024
    identifiers_s: Annotated[int, msgspec.Meta(ge=1)] = 86_400
    max_identifiers: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 100_000
    wait_s: Seconds = 30.0


class SolvencySection(_Section, frozen=True):
    mode: Literal["lease", "optimistic"] = "lease"
    cap_atomic: Atomic = 0
    refresh_s: Seconds = 2.0
    stale_s: Seconds = 300.0
    lookup_timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 400
    lease_skew_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    idle_s: Seconds = 15.0


class TelemetrySection(_Section, frozen=True):
    period_s: Seconds = 60.0
    spill_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024, le=2**40)] = 64 * 1024 * 1024


class WorkersSection(_Section, frozen=True):
    count: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    first: Annotated[int, msgspec.Meta(ge=0, le=1023)] = 0
    host: str = "127.0.0.1"
    port: Port = 0


class SiblingSection(_Section, frozen=True):
    index: Annotated[int, msgspec.Meta(ge=0, le=1023)]
    url: str


class _File(_Section, frozen=True):
    gateway: GatewaySection
    network: NetworkSection
    upstream: UpstreamSection
    routes: list[RouteSection] = []
    limits: LimitsSection = LimitsSection()
    responses: ResponsesSection = ResponsesSection()
    solvency: SolvencySection = SolvencySection()
    telemetry: TelemetrySection = TelemetrySection()
    workers: WorkersSection = WorkersSection()
    siblings: list[SiblingSection] = []


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration, checked."""

    gateway: GatewaySection
    upstream: UpstreamSection
    limits: LimitsSection
    responses: ResponsesSection
    solvency: SolvencySection
    telemetry: TelemetrySection
    workers: WorkersSection
    siblings: tuple[SiblingSection, ...]
    key: SigningKey
    vendor: Pubkey
    data_dir: Path
    network: Network
    rpc_url: str
    relayer_url: str
    receiver_url: str
    routes: RouteTable


def load_settings(path: str | Path) -> Settings:
    """Read and check a configuration file. Raises `ConfigError`."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error
    return parse_settings(text, file.resolve().parent)


def parse_settings(text: str, folder: Path) -> Settings:
    """Check the TOML `text`; relative paths in it start at `folder`. Raises `ConfigError`."""
    try:
        raw = msgspec.convert(tomllib.loads(text), _File)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).replace("$.", "")) from error
    Proxies(raw.limits.trusted_proxies)
    return Settings(
        gateway=raw.gateway,
        upstream=raw.upstream,
        limits=raw.limits,
        responses=raw.responses,
        solvency=raw.solvency,
        telemetry=raw.telemetry,
        workers=raw.workers,
        siblings=_siblings(raw),
        key=_key(folder / raw.gateway.keypair_file),
        vendor=_pubkey(raw.gateway.vendor, "gateway.vendor"),
        data_dir=folder / raw.gateway.data_dir,
        network=_network(raw.network),
        rpc_url=parse_url(raw.network.rpc_url, "network.rpc_url", query=True),
        relayer_url=parse_url(raw.network.relayer_url, "network.relayer_url"),
        receiver_url=parse_url(raw.network.receiver_url, "network.receiver_url"),
        routes=_routes(raw),
    )


def _routes(raw: _File) -> RouteTable:
    if raw.gateway.public_url:
        parse_url(raw.gateway.public_url, "gateway.public_url")
    parse_url(raw.upstream.url, "upstream.url")
    if not raw.routes and raw.upstream.unlisted == "deny":
        raise ConfigError('routes: none are listed and upstream.unlisted is "deny": nothing would be served')
    return RouteTable(
        (
            Route(
                method=route.method.upper(),
                path=route.path,
                match=route.match,
                price_atomic=route.price_atomic,
                description=route.description,
                mime_type=route.mime_type,
                charge_4xx=route.charge_4xx,
                metered=route.metered,
                amount_url=route.amount_url,
                binding=route.binding,
                input_schema=route.input_schema,
            )
            for route in raw.routes
        ),
        raw.upstream.unlisted,
    )


def _siblings(raw: _File) -> tuple[SiblingSection, ...]:
    for sibling in raw.siblings:
        parse_url(sibling.url, "siblings.url")
    if raw.siblings and not raw.workers.port:
        raise ConfigError("workers.port: siblings on other machines need to know it")
    return tuple(raw.siblings)


def _network(raw: NetworkSection) -> Network:
    return Network(
        program_id=_pubkey(raw.program_id, "network.program_id"),
        mint=_pubkey(raw.mint, "network.mint"),
        domain=Hash(bytes(_pubkey(raw.domain, "network.domain"))),
    )


def _pubkey(text: str, name: str) -> Pubkey:
    try:
        return parse_pubkey(text, name)
    except MalformedError as error:
        raise ConfigError(error.detail) from error


def _key(path: Path) -> SigningKey:
    try:
        return SigningKey.load(path)
    except OSError as error:
        raise ConfigError(f"gateway.keypair_file: cannot read {path}: {error.strerror}") from error
    except (MalformedError, UnicodeDecodeError) as error:
        raise ConfigError(f"gateway.keypair_file: {path} holds no key: {error}") from error
