"""Starting the relayer: settings, network, chain client, threads; and stopping it in the reverse order.

The database must belong to the configured network. A bound database is enough to start, so that payments are taken
while the RPC server is away; the genesis hash is then compared as soon as it answers, and a mismatch ends the process.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Final

import redis
import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from solders.hash import Hash
from solders.pubkey import Pubkey

from apps.core import partitions
from apps.core.redis import async_redis
from apps.payments.facilitator.app import Facilitator
from apps.payments.facilitator.keys import HostedKeys
from apps.payments.models import INTENT_PARTITIONS, ChainConfig
from apps.payments.relayer.app import Relayer
from apps.payments.relayer.directory import Directory
from apps.payments.relayer.threads import DatabaseUnavailable, Threads
from apps.payments.relayer.waiting import Followers
from apps.payments.services import leases, pulse
from apps.payments.services import network as binding
from apps.payments.services.config import remember_config
from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError
from machpay.chain.network import Network
from machpay.protocol.errors import MalformedError

_RPC_TIMEOUT_S: Final = 5.0
_FIRST_START_WAIT_S: Final = 30.0
_RETRY_S: Final = 0.5
_RECHECK_S: Final = 5.0

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def started_relayer() -> AsyncIterator[Relayer]:
    """A relayer ready to answer. Raises `ImproperlyConfigured`, `NetworkMismatch`, or `ChainError` if the database is
    not bound yet and the RPC server stays away."""
    program_id, mint = _address("MACHPAY_PROGRAM_ID"), _address("USDC_MINT")
    if not settings.SOLANA_RPC_URL:
        raise ImproperlyConfigured("SOLANA_RPC_URL must be set for the relayer")
    async with contextlib.AsyncExitStack() as stack:
        threads = Threads()
        stack.push_async_callback(threads.close)
        stack.push_async_callback(async_redis().aclose)
        chain = await stack.enter_async_context(
            ChainClient(settings.SOLANA_RPC_URL, timeout_seconds=_RPC_TIMEOUT_S)
        )
        await threads.database(partitions.ensure, INTENT_PARTITIONS)
        bound = await threads.database(binding.bound_network)
        if bound is None:
            genesis = await _first_genesis(chain)
        else:
            genesis = bound.domain
            watcher = asyncio.create_task(_check_genesis(chain, bound))
            stack.push_async_callback(_cancelled, watcher)
        chain.network = Network(program_id, mint, genesis)
        await threads.database(binding.bind, chain.network)
        await _learn_config(chain, threads)
        directory = Directory(chain, threads)
        stack.push_async_callback(directory.close)
        log.info("relayer_started", network=chain.network.caip2, program_id=str(program_id))
        keys = _hosted_keys()
        facilitator = (
            None
            if keys is None
            else Facilitator(network=chain.network, keys=keys, directory=directory, threads=threads)
        )
        stack.push_async_callback(_cancelled, asyncio.create_task(keep_beating(threads)))
        followers = Followers(threads)
        stack.push_async_callback(_cancelled, asyncio.create_task(followers.run()))
        yield Relayer(
            network=chain.network,
            directory=directory,
            threads=threads,
            followers=followers,
            facilitator=facilitator,
        )


async def _first_genesis(chain: ChainClient) -> Hash:
    """The genesis hash for a database that belongs to no network yet."""
    deadline = asyncio.get_running_loop().time() + _FIRST_START_WAIT_S
    while True:
        try:
            return await chain.genesis_hash()
        except ChainError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise
            log.warning("chain_unavailable", error=str(error))
            await asyncio.sleep(_RETRY_S)


async def _check_genesis(chain: ChainClient, bound: Network) -> None:
    """Compare the cluster with the database once the cluster answers; end the process if they differ."""
    while True:
        try:
            genesis = await chain.genesis_hash()
        except ChainError as error:
            log.warning("chain_unavailable", error=str(error))
            await asyncio.sleep(_RECHECK_S)
            continue
        if genesis != bound.domain:
            log.critical("network_mismatch", cluster=str(genesis), database=str(bound.domain))
            os.kill(os.getpid(), signal.SIGTERM)
        return


async def _learn_config(chain: ChainClient, threads: Threads) -> None:
    """Know what leases depend on, and refuse to start with leases that outlast it. While the chain is away, what was
    known before counts; recon keeps it up to date."""
    try:
        slot = await chain.slot("finalized")
        bond = await chain.bond("finalized")
    except ChainError as error:
        log.warning("chain_unavailable", error=str(error))
    else:
        if bond is not None:
            await threads.database(remember_config, bond, slot)
    config = await threads.database(ChainConfig.objects.first)
    if config is not None:
        leases.require_times(config)


async def keep_beating(threads: Threads) -> None:
    """Say in the database that gateways can deliver, for ever: no lease's grace would end once this ended."""
    while True:
        try:
            await beat_once(threads)
        except Exception:
            log.exception("pulse_failed")
        await asyncio.sleep(pulse.EVERY.total_seconds())


async def beat_once(threads: Threads) -> None:
    """Say it if they can. Without Redis no request is taken, since none can be told from a replay."""
    with contextlib.suppress(DatabaseUnavailable, redis.RedisError, OSError):
        await async_redis().ping()
        await threads.database(pulse.beat)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _hosted_keys() -> HostedKeys | None:
    """The facilitator's keys; None if this relayer runs none."""
    if not settings.FACILITATOR_KEYPAIR:
        return None
    try:
        return HostedKeys.load(settings.FACILITATOR_KEYPAIR)
    except (OSError, MalformedError) as error:
        raise ImproperlyConfigured(f"FACILITATOR_KEYPAIR: {error}") from error


def _address(setting: str) -> Pubkey:
    value = getattr(settings, setting)
    try:
        return Pubkey.from_string(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"{setting} must be a base58 address, not {value!r}") from error
