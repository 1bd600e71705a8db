"""What the relayer asks of chain, database and Redis, and what follows when they do not answer."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
import redis.asyncio
from django.conf import settings
from django.db import connection
from solders.keypair import Keypair

from apps.payments.errors import ChainUnavailable
from apps.payments.models import RelayerPulse
from apps.payments.relayer import startup
from apps.payments.relayer.directory import Asker, Directory
from apps.payments.relayer.startup import beat_once, keep_beating
from apps.payments.relayer.threads import DATABASE_THREADS, DatabaseUnavailable, Threads
from apps.payments.services import pulse
from machpay.chain.client import ChainClient
from tests.payments.factories import NETWORK


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    """Closed with the connection of every one of its threads."""
    made = Threads()
    yield made
    all_of_them = threading.Barrier(DATABASE_THREADS)

    def close() -> None:
        all_of_them.wait(60)
        connection.close()

    await asyncio.gather(*(made.database(close) for _ in range(DATABASE_THREADS)))
    await made.close()


@pytest.fixture
def redis_client(monkeypatch) -> Callable[[str], redis.asyncio.Redis]:
    """Have the relayer use the Redis at an address."""

    def use(url: str) -> redis.asyncio.Redis:
        client = redis.asyncio.Redis.from_url(url)
        monkeypatch.setattr(startup, "async_redis", lambda: client)
        return client

    return use


@pytest.fixture
async def directory() -> AsyncIterator[Directory]:
    """Its chain takes every question and answers none."""
    ended = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    threads = Threads()
    async with ChainClient(f"http://127.0.0.1:{port}", NETWORK) as chain:
        made = Directory(chain, threads)
        yield made
        await made.close()
    ended.set()
    server.close()
    await server.wait_closed()
    await threads.close()


async def looked_up(directory: Directory, asker: Asker) -> str:
    """Why a fresh key cannot be looked up."""
    with pytest.raises(ChainUnavailable) as refused:
        await directory.refresh_agent(str(Keypair().pubkey()), asker=asker)
    return refused.value.detail


async def test_made_up_agents_of_others_use_up_no_look_up_of_the_gateways(directory: Directory) -> None:
    flood: list[Asker] = ["facilitator"] * 100 + ["agent"] * 100
    told = await asyncio.gather(*(looked_up(directory, asker) for asker in flood))
    assert "too many look-ups are under way" in told

    assert await looked_up(directory, "gateway") == "the chain did not answer in time"


@pytest.mark.django_db(transaction=True)
async def test_a_standby_that_takes_no_writes_yet_is_a_database_that_is_away(threads: Threads) -> None:
    def beat_on_a_standby() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on")
        try:
            pulse.beat()
        finally:
            connection.close()

    with pytest.raises(DatabaseUnavailable):
        await threads.database(beat_on_a_standby)


@pytest.mark.django_db(transaction=True)
async def test_a_relayer_that_cannot_take_requests_does_not_say_that_gateways_can_deliver(
    threads: Threads, redis_client: Callable[[str], redis.asyncio.Redis]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        redis_client(f"redis://127.0.0.1:{nobody.getsockname()[1]}/0")
        await beat_once(threads)
    assert await threads.database(RelayerPulse.objects.count) == 0

    client = redis_client(settings.REDIS_URL)
    await beat_once(threads)
    await client.aclose()
    assert await threads.database(RelayerPulse.objects.count) == 1


@pytest.mark.django_db(transaction=True)
async def test_no_failure_ends_the_relayers_pulse(
    threads: Threads, redis_client: Callable[[str], redis.asyncio.Redis], monkeypatch
) -> None:
    client = redis_client(settings.REDIS_URL)
    answers = iter([RuntimeError("nobody foresaw this")])

    def broken_once() -> redis.asyncio.Redis:
        for error in answers:
            raise error
        return client

    monkeypatch.setattr(startup, "async_redis", broken_once)
    monkeypatch.setattr(pulse, "EVERY", timedelta(milliseconds=20))
    beating = asyncio.create_task(keep_beating(threads))
    deadline = time.monotonic() + 60
    while not await threads.database(RelayerPulse.objects.count):
        assert not beating.done()
        assert time.monotonic() < deadline
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    await client.aclose()
