"""Keys, networks, settings and signed payments for the gateway's tests."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.protocol import x402
from machpay.protocol.identifiers import DECLARATION, EXTENSION, with_identifier
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.requests import request_hash
from machpay.protocol.screening import Attempt, Offer
from machpay_gateway.decide import Credit, Standing
from machpay_gateway.settings import Settings, parse_settings

PRICE = 1_000
BOND = 1_000_000
MAX_TIMEOUT_S = 60
PROBE_PRICE = 10**12
"""Nobody can pay for `/probe`: it is there to be told what is committed."""


def network() -> Network:
    return Network(
        program_id=SigningKey(b"p" * 32).public,
        mint=SigningKey(b"m" * 32).public,
        domain=Hash(b"d" * 32),
    )


ROUTES = """
[[routes]]
method = "GET"
path = "/paid"
price_atomic = 1000
description = "One answer"

[[routes]]
method = "POST"
path = "/paid"
price_atomic = 1000

[[routes]]
method = "GET"
path = "/dear"
price_atomic = 5000

[[routes]]
method = "GET"
path = "/strict/"
match = "prefix"
price_atomic = 1000
charge_4xx = true

[[routes]]
method = "GET"
path = "/free"

[[routes]]
method = "POST"
path = "/free"

[[routes]]
method = "GET"
path = "/probe"
price_atomic = 1000000000000
"""


def configuration(
    folder: Path,
    *,
    key: SigningKey,
    upstream_url: str = "http://127.0.0.1:1",
    network_url: str = "http://127.0.0.1:1",
    routes: str = ROUTES,
    gateway: str = "",
    upstream: str = "",
    solvency: str = "",
    sections: str = "",
    net: Network | None = None,
    vendor: Pubkey | None = None,
    rpc_url: str = "http://127.0.0.1:1",
) -> str:
    """A whole gateway.toml; the key file is written into `folder`."""
    keypair = folder / "gateway.json"
    if not keypair.exists():
        key.save(keypair)
    net = net or network()
    if "lookup_timeout_ms" not in solvency:
        # A busy machine must not turn a first payment into a 503.
        solvency += "\nlookup_timeout_ms = 10000"
    return f"""
[gateway]
keypair_file = "gateway.json"
vendor = "{vendor or SigningKey(b"v" * 32).pubkey}"
data_dir = "data"
port = 0
name = "Test"
description = "Sells answers"
categories = ["test"]
heartbeat_s = 0.2
shutdown_s = 5
{gateway}

[network]
rpc_url = "{rpc_url}"
program_id = "{net.program_id}"
mint = "{net.mint}"
domain = "{net.domain}"
relayer_url = "{network_url}"
receiver_url = "{network_url}"

[upstream]
url = "{upstream_url}"
{upstream}

[solvency]
refresh_s = 0.1
{solvency}
{sections}
{routes}
"""


def make_settings(folder: Path, key: SigningKey, **changes: Any) -> Settings:
    return parse_settings(configuration(folder, key=key, **changes), folder)


def make_intent(
    agent: SigningKey,
    gateway: Pubkey,
    *,
    cumulative: int = PRICE,
    amount: int = PRICE,
    nonce: UUID | None = None,
    deadline: int | None = None,
    bound_to: bytes | None = None,
    net: Network | None = None,
) -> PaymentIntent:
    """A payment for `GET /paid` unless `bound_to` says otherwise."""
    return PaymentIntent(
        channel=(net or network()).channel(agent.public, gateway),
        cumulative=cumulative,
        nonce=nonce or new_nonce(),
        amount=amount,
        deadline=deadline if deadline is not None else int(time.time()) + 30,
        request_hash=bound_to if bound_to is not None else request_hash("GET", "/paid"),
    )


def make_attempt(agent: SigningKey, gateway: Pubkey, intent: PaymentIntent, /, **changes: Any) -> Attempt:
    fields: dict[str, Any] = {
        "agent": agent.public,
        "gateway": gateway,
        "intent": intent,
        "signature": intent.sign(agent),
        "scheme": x402.SCHEME,
        "network": network().caip2,
        "asset": str(network().mint),
    }
    return Attempt(**{**fields, **changes})


def make_offer(gateway: Pubkey, /, **changes: Any) -> Offer:
    fields: dict[str, Any] = {
        "price": PRICE,
        "gateway": gateway,
        "network": network().caip2,
        "asset": str(network().mint),
        "max_timeout_s": MAX_TIMEOUT_S,
        "request_hash": request_hash("GET", "/paid"),
    }
    return Offer(**{**fields, **changes})


def make_credit(**changes: Any) -> Credit:
    fields: dict[str, Any] = {
        "bond": BOND,
        "pending_withdrawal": 0,
        "claims": 0,
        "external": 0,
        "status": "ACTIVE",
        "per_call": None,
        "remaining_today": None,
        "settled": 0,
        "charged_total": 0,
        "voucher": None,
        "read_at": 0.0,
    }
    return Credit(**{**fields, **changes})


def make_standing(**changes: Any) -> Standing:
    fields: dict[str, Any] = {
        "highest": 0,
        "served": 0,
        "reserved": 0,
        "nonce_seen": False,
        "credit": make_credit(),
        "cap": 0,
    }
    return Standing(**{**fields, **changes})


@dataclass
class Payer:
    """An agent that signs payments for one gateway. `total` is the cumulative it last signed."""

    gateway: Pubkey
    key: SigningKey = field(default_factory=SigningKey.generate)
    total: int = 0
    network: Network = field(default_factory=network)

    def intent(
        self,
        target: str = "/paid",
        *,
        method: str = "GET",
        body: bytes = b"",
        price: int = PRICE,
        **changes: Any,
    ) -> PaymentIntent:
        """A payment of `price` on top of what was signed before, unless `cumulative` says otherwise."""
        changes.setdefault("bound_to", request_hash(method, target, body))
        changes.setdefault("cumulative", self.total + price)
        changes.setdefault("amount", price)
        intent = make_intent(self.key, self.gateway, net=self.network, **changes)
        self.total = max(self.total, intent.cumulative)
        return intent

    def headers(
        self,
        intent: PaymentIntent,
        *,
        gateway: Pubkey | None = None,
        signature: bytes | None = None,
        identifier: str | None = None,
        **accepted: Any,
    ) -> dict[str, str]:
        """The payment header for `intent`; `accepted` changes fields of the requirements that are echoed."""
        named = {} if identifier is None else with_identifier({EXTENSION: DECLARATION}, identifier)
        net = self.network
        fields: dict[str, Any] = {
            "scheme": x402.SCHEME,
            "network": net.caip2,
            "amount": str(intent.amount),
            "asset": str(net.mint),
            "pay_to": SigningKey(b"v" * 32).pubkey,
            "max_timeout_seconds": MAX_TIMEOUT_S,
        }
        payload = x402.PaymentPayload(
            x402_version=2,
            accepted=x402.Requirements(**{**fields, **accepted}),
            payload=x402.inner_payload(
                self.key.public, gateway or self.gateway, intent, signature or intent.sign(self.key)
            ),
            extensions=named,
        )
        return {x402.SIGNATURE_HEADER: x402.encode_header(payload)}

    def pay(self, target: str = "/paid", **changes: Any) -> dict[str, str]:
        """The header of a fresh, honest payment."""
        return self.headers(self.intent(target, **changes))
