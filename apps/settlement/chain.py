"""One task's connection to the chain, checked against the network that the database belongs to.

Tasks are synchronous because Django's ORM is; `ChainClient` is asynchronous. A `ChainSession` runs one
coroutine at a time and returns, so database work stands between calls and never inside one. It reads
settings and binds the database; nothing more.

A worker process keeps its client from task to task (`keep_connections`): a new one costs 30 ms for its TLS context
alone, and beat starts several tasks a second. A client's connections belong to one event loop, so both are kept.
"""

import asyncio
import contextvars
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

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
        # A kept loop would log with the context of the first task that used it.
        return self._runner.run(coroutine, context=contextvars.copy_context())


class _Line:
    """An open client with the event loop that its connections belong to. Used by one session at a time."""

    def __init__(self, rpc_url: str) -> None:
        self.rpc_url = rpc_url
        self.runner = asyncio.Runner()
        self.client = ChainClient(rpc_url, None)

    @classmethod
    def opened(cls, rpc_url: str) -> Self:
        line = cls(rpc_url)
        line.runner.run(line.client.__aenter__())
        return line

    def close(self) -> None:
        with self.runner:
            self.runner.run(self.client.__aexit__(None, None, None))


class _Kept:
    """The lines that nobody uses at the moment, in a process that keeps them."""

    def __init__(self) -> None:
        self.keeping = False
        self._idle: list[_Line] = []

    def take(self, rpc_url: str) -> _Line:
        """A line to `rpc_url`: a kept one, or a new one."""
        while self._idle:
            line = self._idle.pop()
            if line.rpc_url == rpc_url:
                return line
            line.close()
        return _Line.opened(rpc_url)

    def give_back(self, line: _Line) -> None:
        if self.keeping:
            self._idle.append(line)
        else:
            line.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


_kept = _Kept()


def keep_connections() -> None:
    """From now on this process keeps clients open between sessions. For processes that run one task after the other;
    call it after forking, and `close_connections` at the end."""
    _kept.keeping = True


def close_connections() -> None:
    """Close what is kept, and keep nothing any more."""
    _kept.keeping = False
    _kept.close()


@contextmanager
def connect() -> Iterator[ChainSession]:
    """Open the chain that the settings name, for as long as one task runs, or take the client that this process kept.

    Raises `SettlementPaused` for missing settings, `NetworkMismatch` if the database belongs to another
    network, `RpcUnavailable`
    if the RPC server does not answer.
    """
    if not settings.SOLANA_RPC_URL:
        raise SettlementPaused("SOLANA_RPC_URL is not set")
    program_id = _key("MACHPAY_PROGRAM_ID")
    mint = _key("USDC_MINT")
    line = _kept.take(settings.SOLANA_RPC_URL)
    sound = False
    try:
        # Asked every time: another cluster may stand behind the same address since the last task.
        network = Network(program_id, mint, line.runner.run(line.client.genesis_hash()))
        if binding.bound_network() != network:
            binding.bind(network)
        line.client.network = network
        yield ChainSession(line.client, network, line.runner)
        sound = True
    finally:
        # What broke off in the middle may have left calls behind in the loop; they end with it.
        if sound:
            _kept.give_back(line)
        else:
            line.close()


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
