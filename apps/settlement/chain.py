"""One task's connection to the chain, checked against the network that the database belongs to.

Tasks are synchronous because Django's ORM is; `ChainClient` is asynchronous. A `ChainSession` runs one
coroutine at a time and returns, so database work stands between calls and never inside one. It reads
settings and binds the database; nothing more.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from django.conf import settings
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from apps.payments.services import network as binding
from apps.settlement.errors import SettlementPaused
from machpay.chain.client import ChainClient
from machpay.chain.network import Network
from machpay.protocol.errors import ProtocolError
from machpay.protocol.keys import SigningKey

T = TypeVar("T")


class ChainSession:
    """A client and the network it was checked against. Made by `connect()`."""

    def __init__(self, client: ChainClient, network: Network, runner: asyncio.Runner) -> None:
        self.client = client
        self.network = network
        self._runner = runner

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for one call to the chain. Never inside a database transaction."""
        return self._runner.run(coroutine)


@contextmanager
def connect() -> Iterator[ChainSession]:
    """Open the chain that the settings name, for as long as one task runs.

    Raises `SettlementPaused` for missing settings, `NetworkMismatch` if the database belongs to another
    network, `RpcUnavailable`
    if the RPC server does not answer.
    """
    if not settings.SOLANA_RPC_URL:
        raise SettlementPaused("SOLANA_RPC_URL is not set")
    program_id = _key("MACHPAY_PROGRAM_ID")
    mint = _key("USDC_MINT")
    with asyncio.Runner() as runner:
        client = ChainClient(settings.SOLANA_RPC_URL, None)
        runner.run(client.__aenter__())
        try:
            # Asked every time: another cluster may stand behind the same address since the last task.
            network = Network(program_id, mint, runner.run(client.genesis_hash()))
            if binding.bound_network() != network:
                binding.bind(network)
            client.network = network
            yield ChainSession(client, network, runner)
        finally:
            runner.run(client.__aexit__(None, None, None))


def relayer_keypair() -> Keypair:
    """The key that signs settlements, from the file `RELAYER_KEYPAIR` names. Raises `SettlementPaused`."""
    return _keypair("RELAYER_KEYPAIR")


def custody_keypair() -> Keypair:
    """The key that owns the custodial wallet and pays its fees, from the file `CUSTODY_KEYPAIR` names. Raises
    `SettlementPaused`."""
    return _keypair("CUSTODY_KEYPAIR")


def _keypair(setting: str) -> Keypair:
    path = getattr(settings, setting)
    if not path:
        raise SettlementPaused(f"{setting} is not set")
    try:
        return SigningKey.load(path).keypair()
    except (OSError, ProtocolError) as error:
        raise SettlementPaused(f"{setting} ({path}) cannot be used: {error}") from error


def _key(setting: str) -> Pubkey:
    value = getattr(settings, setting)
    if not value:
        raise SettlementPaused(f"{setting} is not set")
    try:
        return Pubkey.from_string(value)
    except ValueError as error:
        raise SettlementPaused(f"{setting} is not an address: {value!r}") from error
