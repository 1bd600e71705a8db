"""A local chain for tests: the real bytecode in its own process, with mint, bond, and the demo's two
vendors and gateways.

    # in a conftest.py
    from tests.support.chain import chain_settings, local_chain  # noqa: F401

`local_chain` is the chain of the folder whose conftest.py imports it; a test module that imports `module_chain` has one
of its own under the same name. Either stops with the last test that shares it. `chain_settings` points Django at it for
one test. Agents are added by each test, with keys of their own, so tests share the chain and not its state.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

import pytest
from solders.hash import Hash
from solders.pubkey import Pubkey

from contracts.localnet.control import Control
from devnet.chain import bootstrap_chain
from devnet.keys import KeyStore
from devnet.network import PROGRAM, ROOT
from devnet.offers import Offer
from devnet.processes import ManagedProcess
from machpay.chain import tokens
from machpay.chain.accounts import AgentAccount, Channel
from machpay.chain.client import ChainClient
from machpay.chain.instructions import deposit_bond
from machpay.chain.network import Network
from machpay.chain.transactions import Commitment
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce, nonce_unix_ms
from machpay.protocol.receipts import Receipt
from machpay.protocol.settlements import ResolvedPayment

T = TypeVar("T")
SLOT_MS = 50
FINALIZED_LAG = 4


@dataclass(slots=True)
class Payer:
    """One agent paying one gateway: what a client and a gateway together keep, totals growing with every
    payment."""

    agent: SigningKey
    gateway: SigningKey
    vendor: Pubkey
    channel: Pubkey
    cumulative: int = 0
    served: int = 0
    seq: int = 0

    def pay(self, amount: int, *, charged: int | None = None, nonce: UUID | None = None) -> ResolvedPayment:
        """A payment of `amount`, signed by the agent, charged in full unless said otherwise, with the
        gateway's receipt."""
        charge = amount if charged is None else charged
        self.cumulative += amount
        self.served += charge
        self.seq += 1
        nonce = nonce or new_nonce()
        deadline = nonce_unix_ms(nonce) // 1000 + 60
        intent = PaymentIntent(self.channel, self.cumulative, nonce, amount, deadline, bytes(32))
        receipt = Receipt(intent.digest, 200 if charge else 500, charge, self.served, int(time.time()))
        return ResolvedPayment(
            agent=self.agent.public,
            gateway=self.gateway.public,
            vendor=self.vendor,
            intent=intent,
            signature=intent.sign(self.agent),
            charged=charge,
            http_status=receipt.http_status,
            served_total=self.served,
            served_at=receipt.time,
            receipt=receipt.sign(self.gateway),
            seq=self.seq,
        )


class _Line:
    """One client in a loop and a thread of its own: a client per call would cost 30 ms for its TLS context alone, and
    asynchronous tests have a loop running already."""

    def __init__(self, rpc_url: str, network: Network) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = ChainClient(rpc_url, network)
        self.call(lambda client: client.__aenter__())

    def call(self, ask: Callable[[ChainClient], Awaitable[T]]) -> T:
        async def asked() -> T:
            return await ask(self._client)

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result()

    def close(self) -> None:
        self.call(lambda client: client.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass(slots=True)
class LocalChain:
    """The running chain and everybody's keys."""

    process: ManagedProcess
    rpc_url: str
    network: Network
    keys: KeyStore
    _line: _Line
    _names: Iterator[int] = field(default_factory=itertools.count)

    def call(self, ask: Callable[[ChainClient], Awaitable[T]]) -> T:
        """Run one coroutine of a `ChainClient`, from any thread."""
        return self._line.call(ask)

    def control(self) -> Control:
        """The chain's clock and faults, as a context manager; clocks that a test moves stay moved."""
        return Control(self.rpc_url)

    # ---- who is there

    def new_agent(self, *, bond_atomic: int) -> SigningKey:
        """A fresh agent with SOL and a confirmed bond."""
        (agent,) = self.new_agents(1, bond_atomic=bond_atomic)
        return agent

    def new_agents(self, count: int, *, bond_atomic: int) -> list[SigningKey]:
        """Fresh agents with SOL and a confirmed bond each."""
        names = [f"agent-{next(self._names)}" for _ in range(count)]
        bootstrap_chain(
            rpc_url=self.rpc_url,
            network=self.network,
            keys=self.keys,
            agents=names,
            bond_atomic=bond_atomic,
        )
        return [self.keys.get(name) for name in names]

    def top_up(self, agent: SigningKey, amount: int) -> None:
        """Put `amount` more on the agent's bond, confirmed."""
        authority, admin = self.keys.get("mint-authority"), self.keys.get("admin").keypair()
        wallet = tokens.associated_token_address(agent.public, self.network.mint)
        steps = [
            tokens.mint_to(
                mint=self.network.mint, destination=wallet, authority=authority.public, amount=amount
            ),
            deposit_bond(
                self.network, agent=agent.public, source=wallet, amount=amount, payer=admin.pubkey()
            ),
        ]
        self.call(lambda chain: chain.send_and_confirm(steps, admin, [authority.keypair(), agent.keypair()]))

    def gateway(self, offer: Offer) -> SigningKey:
        return self.keys.get(offer.gateway)

    def vendor(self, offer: Offer) -> Pubkey:
        return self.keys.get(f"vendor-{offer.vendor}").public

    def payer(self, agent: SigningKey, offer: Offer) -> Payer:
        gateway = self.gateway(offer)
        channel = self.network.channel(agent.public, gateway.public)
        return Payer(agent, gateway, self.vendor(offer), channel)

    # ---- what the chain says

    def vendor_balance(self, offer: Offer, commitment: Commitment = "finalized") -> int:
        """Atomic units in the vendor's payout account."""
        wallet = tokens.associated_token_address(self.vendor(offer), self.network.mint)
        return self.call(lambda chain: chain.token_balance(wallet, commitment))

    def agent_account(self, agent: SigningKey, commitment: Commitment = "finalized") -> AgentAccount | None:
        return self.call(lambda chain: chain.agent(agent.public, commitment))

    def channel_account(self, payer: Payer, commitment: Commitment = "finalized") -> Channel | None:
        return self.call(lambda chain: chain.channel(payer.agent.public, payer.gateway.public, commitment))

    def wait_until_final(self) -> None:
        """Return when everything sent so far is final."""
        height = self.call(lambda chain: chain.block_height("processed"))
        self.wait_for_height(height)

    def wait_for_height(self, height: int) -> None:
        """Return when the finalised block height has reached `height`."""
        while self.call(lambda chain: chain.block_height("finalized")) < height:
            time.sleep(SLOT_MS / 1000)


def _started_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalChain]:
    """A chain that is set up like the demo's."""
    folder = tmp_path_factory.mktemp("chain")
    keys = KeyStore(folder / "keys")
    state = folder / "state"
    endpoint = state / "endpoint.json"

    def health() -> str | None:
        return json.loads(endpoint.read_text())["rpc_url"] + "/health" if endpoint.exists() else None

    command = [
        *(sys.executable, "-m", "contracts.localnet", "--port", "0", "--state", str(state)),
        *("--program", str(PROGRAM), "--program-keypair", str(keys.path("program"))),
        *("--upgrade-authority", keys.get("admin").pubkey),
        *("--slot-ms", str(SLOT_MS), "--finalized-lag", str(FINALIZED_LAG), "--allow-faults"),
    ]
    process = ManagedProcess(
        "chain", command, env=os.environ, log_dir=folder / "log", health_url=health, cwd=ROOT
    )
    process.start()
    try:
        process.wait_healthy()
        told = json.loads(endpoint.read_text())
        network = Network(
            keys.get("program").public, keys.get("mint").public, Hash.from_string(told["genesis_hash"])
        )
        bootstrap_chain(rpc_url=told["rpc_url"], network=network, keys=keys, agents=[], bond_atomic=0)
        with contextlib.closing(_Line(told["rpc_url"], network)) as line:
            yield LocalChain(process, told["rpc_url"], network, keys, line)
    finally:
        process.stop()


local_chain = pytest.fixture(_started_chain, scope="package", name="local_chain")
module_chain = pytest.fixture(_started_chain, scope="module", name="local_chain")


@pytest.fixture
def chain_settings(local_chain: LocalChain, settings) -> LocalChain:
    """Django's settings point at the chain, as the demo's environment does."""
    settings.SOLANA_RPC_URL = local_chain.rpc_url
    settings.MACHPAY_PROGRAM_ID = str(local_chain.network.program_id)
    settings.USDC_MINT = str(local_chain.network.mint)
    settings.RELAYER_KEYPAIR = str(local_chain.keys.path("relayer"))
    settings.MINT_AUTHORITY_KEYPAIR = str(local_chain.keys.path("mint-authority"))
    settings.SETTLE_MINIMUM_ATOMIC = settings.SETTLE_CREATE_MINIMUM_ATOMIC = 1
    return local_chain
