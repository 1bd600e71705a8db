"""A relayer process that runs a facilitator, the local chain behind it, and a vendor that it hosts a gateway for."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import httpx
import msgspec
import pytest
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer

from devnet.offers import LEXICON
from machpay.chain.hosting import register_hosted_gateway
from machpay.chain.network import Network
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce, nonce_unix_ms
from machpay.protocol.x402 import PaymentPayload, Requirements, build_payload
from tests.payments.relayer_client import shared_relayer
from tests.support.chain import LocalChain, local_chain
from tests.support.http import LOCAL
from tests.support.servers import Server

__all__ = ["local_chain"]

PRICE = 100_000


@dataclass(slots=True)
class Facilitated:
    """The facilitator as a stock server sees it, and an agent that pays through it."""

    url: str
    network: Network
    vendor: Pubkey
    gateway: Pubkey
    agent: SigningKey
    cumulative: int = 0
    http: httpx.Client = field(default_factory=lambda: httpx.Client(**LOCAL))

    @property
    def channel(self) -> Pubkey:
        return self.network.channel(self.agent.public, self.gateway)

    def requirements(self, **changes: Any) -> Requirements:
        fields: dict[str, Any] = {
            "scheme": "machpay-bond",
            "network": self.network.caip2,
            "amount": str(PRICE),
            "asset": str(self.network.mint),
            "pay_to": str(self.vendor),
            "max_timeout_seconds": 60,
            "extra": {"requestHash": sha256(b"GET\n/quote\n").hexdigest()},
        }
        return Requirements(**(fields | changes))

    def payload(
        self, amount: int = PRICE, *, accepted: Requirements | None = None, **changes: Any
    ) -> PaymentPayload:
        """A payment of `amount` for `accepted`, signed by the agent; `changes` replace fields of the intent."""
        accepted = accepted or self.requirements()
        nonce = changes.get("nonce") or new_nonce()
        self.cumulative = changes.get("cumulative", self.cumulative + amount)
        intent = PaymentIntent(
            changes.get("channel", self.channel),
            self.cumulative,
            nonce,
            amount,
            changes.get("deadline", nonce_unix_ms(nonce) // 1000 + 60),
            bytes.fromhex(accepted.extra["requestHash"]),
        )
        return build_payload(accepted, self.agent, self.gateway, intent)

    def ask(
        self, step: str, payload: Any, required: Requirements | None = None, version: int = 2
    ) -> httpx.Response:
        body = {
            "x402Version": version,
            "paymentPayload": payload,
            "paymentRequirements": required or self.requirements(),
        }
        deadline = time.monotonic() + 60
        while True:
            answer = self.http.post(f"{self.url}/{step}", content=msgspec.json.encode(body))
            # What a busy chain did not answer in time is asked again, as the answer says.
            if answer.status_code != 503 or time.monotonic() > deadline:
                return answer
            time.sleep(float(answer.headers["retry-after"]))

    def verify(self, payload: Any, required: Requirements | None = None) -> dict[str, Any]:
        return self._json(self.ask("verify", payload, required))

    def settle(self, payload: Any, required: Requirements | None = None) -> dict[str, Any]:
        return self._json(self.ask("settle", payload, required))

    def get(self, path: str) -> httpx.Response:
        return self.http.get(self.url + path)

    def post(self, path: str, body: object) -> httpx.Response:
        return self.http.post(self.url + path, content=msgspec.json.encode(body))

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        value: dict[str, Any] = answer.json()
        return value


@pytest.fixture(scope="package")
def relayer(
    local_chain: LocalChain, django_db_setup, django_db_blocker, tmp_path_factory
) -> Iterator[Server]:
    """One process for this folder. Every test brings its own agent."""
    folder = tmp_path_factory.mktemp("facilitator")
    SigningKey.generate().save(folder / "facilitator.json")
    key = str(folder / "facilitator.json")
    with shared_relayer(local_chain, django_db_blocker, folder, FACILITATOR_KEYPAIR=key) as server:
        yield server


@pytest.fixture(scope="package")
def hosted(relayer: Server, local_chain: LocalChain) -> Pubkey:
    """LEXICON's hosted gateway, registered through the facilitator, which takes payments for it."""
    vendor = local_chain.keys.get(f"vendor-{LEXICON.vendor}")
    admin = local_chain.keys.get("admin").keypair()
    rent = TransferParams(from_pubkey=admin.pubkey(), to_pubkey=vendor.public, lamports=10_000_000)
    local_chain.call(lambda client: client.send_and_confirm([transfer(rent)], admin, []))
    return local_chain.call(
        lambda client: register_hosted_gateway(
            client, local_chain.network, f"{relayer.url}/facilitator", vendor
        )
    )


@pytest.fixture
def shop(relayer: Server, hosted: Pubkey, local_chain: LocalChain) -> Iterator[Facilitated]:
    """The facilitator, and a fresh agent with a bond of 100 prices."""
    agent = local_chain.new_agent(bond_atomic=100 * PRICE)
    local_chain.wait_until_final()
    facilitated = Facilitated(
        f"{relayer.url}/facilitator", local_chain.network, local_chain.vendor(LEXICON), hosted, agent
    )
    with facilitated.http:
        yield facilitated
