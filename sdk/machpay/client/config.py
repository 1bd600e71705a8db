"""Who pays, on which network, and up to what price. The only place of the SDK that reads the environment."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from solders.hash import Hash

from machpay.chain.network import Network
from machpay.client.balance import OnLowBalance
from machpay.client.budgets import Budgets
from machpay.client.errors import ConfigError
from machpay.client.terms import origin_of
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey

DEFAULT_MAX_PRICE_ATOMIC = 100_000
"""A tenth of a USDC per call."""
DEFAULT_LOW_BALANCE_ATOMIC = 1_000_000
"""One USDC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachPayConfig:
    """The settings of one agent.

    `max_price_atomic` is the limit per call where the call names none. `rpc_url` is needed for the bond
    methods and lets the client follow totals that only the chain proves. `pinned` maps origins to the gateway
    keys they must have; an origin that is not listed is pinned to the first key it shows. `state_dir` keeps
    channel totals between runs. `timeout_s` bounds each phase of an HTTP exchange; `resends` is how often the
    same signed bytes are sent again after a broken connection. While a gateway cannot take payments (503, 429 or
    409 with `Retry-After`, and nothing taken), they go again when it says, at most `busy_resends` times and
    `busy_wait_s` seconds of waiting in all. `gateways` are URLs known from a demo's description. `budgets` are the
    agent's own limits; those of a day outlive the process only with a `state_dir`. `on_low_balance` is called when
    what the bond has left falls below `low_balance_atomic`; it is
    looked up every `balance_check_s` seconds, from the relayer or the chain. With a `relayer_url` a deposit
    waits until the network counts it, and aggregated settlements that authorise nothing new are co-signed, every
    `cosign_s` seconds (`cosigns`); with a `receiver_url` the agent reports every minute; `api_url` is the network's
    management API. Paying needs none of them.
    """

    key: SigningKey
    network: Network
    rpc_url: str | None = None
    api_url: str | None = None
    relayer_url: str | None = None
    receiver_url: str | None = None
    max_price_atomic: int = DEFAULT_MAX_PRICE_ATOMIC
    gateways: tuple[str, ...] = ()
    pinned: Mapping[str, str] = field(default_factory=dict)
    state_dir: Path | None = None
    timeout_s: float = 30.0
    max_connections: int = 100
    resends: int = 1
    busy_resends: int = 5
    busy_wait_s: float = 15.0
    budgets: Budgets = field(default_factory=Budgets)
    low_balance_atomic: int = DEFAULT_LOW_BALANCE_ATOMIC
    on_low_balance: OnLowBalance | None = None
    balance_check_s: float = 60.0
    cosigns: bool = True
    cosign_s: float = 30.0

    def __post_init__(self) -> None:
        if self.state_dir is not None:
            # Text will do as well, as it does wherever else a path is asked for.
            object.__setattr__(self, "state_dir", Path(self.state_dir))
        if self.max_price_atomic < 0:
            raise ConfigError("max_price_atomic must not be negative")
        if self.timeout_s <= 0 or self.max_connections <= 0 or self.resends < 0:
            raise ConfigError("timeout_s and max_connections must be positive, resends not negative")
        if self.busy_resends < 0 or self.busy_wait_s < 0:
            raise ConfigError("busy_resends and busy_wait_s must not be negative")
        if self.low_balance_atomic < 0 or self.balance_check_s <= 0 or self.cosign_s <= 0:
            raise ConfigError(
                "low_balance_atomic must not be negative, balance_check_s and cosign_s must be positive"
            )
        if self.on_low_balance is not None and self.rpc_url is None and self.relayer_url is None:
            raise ConfigError("on_low_balance needs rpc_url or relayer_url: nothing else knows the balance")
        for origin, gateway in self.pinned.items():
            origin_of(origin)
            try:
                parse_pubkey(gateway, f"pinned[{origin!r}]")
            except MalformedError as error:
                raise ConfigError(error.detail) from error

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment (or `environ`).

        `MACHPAY_AGENT_SECRET`: the key as a JSON array or base58, or the path of a key file.
        `MACHPAY_NETWORK`: the path of a JSON file with `program_id`, `mint`, `domain` and optionally
        `rpc_url`, `api_url`, `relayer_url`, `receiver_url`, `gateways`, such as `var/demo.json`. Optional,
        overriding the file: `SOLANA_RPC_URL`, `MACHPAY_API_URL`, `MACHPAY_RELAYER_URL`,
        `MACHPAY_RECEIVER_URL`, `MACHPAY_MAX_PRICE_ATOMIC`, `MACHPAY_STATE_DIR`. The agent's budgets:
        `MACHPAY_CALL_BUDGET_ATOMIC`, `MACHPAY_DAY_BUDGET_ATOMIC`,
        `MACHPAY_VENDOR_BUDGET_ATOMIC`, and `MACHPAY_ALLOWED_ORIGINS`, separated by commas.
        """
        env = os.environ if environ is None else environ
        secret = _required(env, "MACHPAY_AGENT_SECRET")
        settings = _settings(_read_json(Path(_required(env, "MACHPAY_NETWORK")), "MACHPAY_NETWORK"))
        for name, variable in (
            ("rpc_url", "SOLANA_RPC_URL"),
            ("api_url", "MACHPAY_API_URL"),
            ("relayer_url", "MACHPAY_RELAYER_URL"),
            ("receiver_url", "MACHPAY_RECEIVER_URL"),
        ):
            if env.get(variable):
                settings[name] = env[variable]
        if env.get("MACHPAY_MAX_PRICE_ATOMIC"):
            settings["max_price_atomic"] = _integer(
                env["MACHPAY_MAX_PRICE_ATOMIC"], "MACHPAY_MAX_PRICE_ATOMIC"
            )
        if env.get("MACHPAY_STATE_DIR"):
            settings["state_dir"] = Path(env["MACHPAY_STATE_DIR"])
        return cls(key=_key(secret, "MACHPAY_AGENT_SECRET"), budgets=_budgets(env), **settings)

    @classmethod
    def from_demo(
        cls, path: str | os.PathLike[str] = "var/demo.json", agent: int = 0, **settings: Any
    ) -> Self:
        """Join the network that `make demo` runs, as its agent number `agent`. `settings` override what is
        found; with a `key` of your own the demo's agents are not looked at."""
        demo_path = Path(path)
        demo = _read_json(demo_path, "the demo's description (is `make demo` running?)")
        if "key" not in settings:
            try:
                key_file = Path(demo["agents"][agent]["keypair_file"])
            except (KeyError, IndexError, TypeError) as error:
                raise ConfigError(f"{demo_path} describes no agent number {agent}") from error
            # Relative paths in the file are relative to it.
            settings["key"] = _key(
                str(demo_path.parent / key_file), f"{demo_path}: agents[{agent}].keypair_file"
            )
        return cls(**{**_settings(demo), **settings})


def _settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a network's JSON description says: addresses, URLs and pinned gateways."""
    try:
        network = Network(
            program_id=parse_pubkey(document.get("program_id"), "program_id"),
            mint=parse_pubkey(document.get("mint"), "mint"),
            # A genesis hash has the text form of a public key.
            domain=Hash(bytes(parse_pubkey(document.get("domain"), "domain"))),
        )
        gateways = list(document.get("gateways", ()))
        pinned = {origin_of(entry["url"]): str(entry["gateway"]) for entry in gateways}
    except MalformedError as error:
        raise ConfigError(f"the network's description: {error.detail}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError("the network's description: gateways must be a list of {url, gateway}") from error
    settings: dict[str, Any] = {
        "network": network,
        "gateways": tuple(entry["url"] for entry in gateways),
        "pinned": pinned,
    }
    for name in ("rpc_url", "api_url", "relayer_url", "receiver_url"):
        if document.get(name):
            settings[name] = document[name]
    return settings


def _budgets(env: Mapping[str, str]) -> Budgets:
    limits: dict[str, Any] = {
        name: _integer(env[variable], variable)
        for name, variable in (
            ("per_call_atomic", "MACHPAY_CALL_BUDGET_ATOMIC"),
            ("per_day_atomic", "MACHPAY_DAY_BUDGET_ATOMIC"),
            ("per_vendor_atomic", "MACHPAY_VENDOR_BUDGET_ATOMIC"),
        )
        if env.get(variable)
    }
    origins = [text.strip() for text in env.get("MACHPAY_ALLOWED_ORIGINS", "").split(",") if text.strip()]
    return Budgets(allowed_origins=origins or None, **limits)


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "").strip()
    if not value:
        raise ConfigError(f"{name} is not set")
    return value


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path}") from error
    except ValueError as error:
        raise ConfigError(f"{what}: {path} is not JSON") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{what}: {path} must hold a JSON object")
    return document


def _integer(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{name} must be a whole number of atomic units")
    return int(text)


def _key(secret: str, name: str) -> SigningKey:
    """A key from its text, or from the file the text names."""
    try:
        if secret.startswith("[") or not Path(secret).is_file():
            return SigningKey.from_text(secret)
        return SigningKey.load(secret)
    except (MalformedError, OSError):
        # The text may be the secret itself: it is not repeated, and neither is the error about it.
        raise ConfigError(f"{name} is neither a secret key nor the path of a key file") from None
