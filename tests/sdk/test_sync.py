"""The blocking client over the same real gateway. The gateway lives on the test's loop, so a blocking call is
made from a thread, except where a running loop is the point."""

import asyncio
import inspect
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import machpay
from machpay import Budgets, MachPayConfig
from machpay.client.errors import ConfigError, PriceTooHighError, ResponseLostError
from machpay.sync import MachPayClient
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE, network

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(key) -> MachPayConfig:
    return MachPayConfig(key=key, network=network(), timeout_s=60.0)


def threads() -> int:
    return sum(thread.name == "machpay" for thread in threading.enumerate())


def test_it_has_the_methods_of_the_other_client_with_the_same_arguments():
    for name, method in inspect.getmembers(machpay.MachPayClient, inspect.isfunction):
        if not name.startswith("_"):
            there = list(inspect.signature(method).parameters.values())
            here = list(inspect.signature(getattr(MachPayClient, name)).parameters.values())
            assert here == there, f"machpay/sync.py: {name}"


async def test_a_script_pays_and_leaves_nothing_behind(config, gateway, net):
    def script() -> tuple[int, int, bool]:
        with MachPayClient(config) as client:
            response = client.pay_and_call(gateway.url + "/paid", "POST", json={"q": 1})
            payment = response.payment
            assert payment is not None
            known = client.look_up(gateway.url, payment.digest).status == "served"
            return response.status_code, response.charged, known

    assert await asyncio.to_thread(script) == (200, PRICE, True)
    assert threads() == 0
    await eventually(lambda: net.charged == PRICE, "the relayer knows the charge")


async def test_many_threads_share_one_client(config, gateway, net):
    def script() -> list[int]:
        with MachPayClient(config) as client, ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(client.pay_and_call, gateway.url + "/paid") for _ in range(40)]
            return [call.result().charged for call in calls]

    assert await asyncio.to_thread(script) == [PRICE] * 40
    await eventually(lambda: net.charged == 40 * PRICE, "the relayer knows every charge")


async def test_inside_a_running_loop_it_blocks_and_works(config, key):
    """Called on the loop's own thread. Nobody listens, so that the answer does not depend on this loop."""
    with MachPayClient(config) as client:
        assert client.agent == key.pubkey
        with pytest.raises(machpay.client.errors.GatewayUnreachableError):
            client.pay_and_call("http://127.0.0.1:9/paid")


async def test_pieces_of_a_stream_arrive_one_by_one(config, gateway, upstream):
    loop = asyncio.get_running_loop()

    def script() -> list[str]:
        with MachPayClient(config) as client:
            with client.stream(gateway.url + "/paid?mode=stream") as response:
                assert (response.status_code, response.charged) == (200, PRICE)
                assert response.headers["content-type"] == "text/event-stream"
                lines = response.iter_lines()
                found = [next(lines)]
                loop.call_soon_threadsafe(upstream.release.set)
                found += [line for line in lines if line]
            with client.stream(gateway.url + "/paid") as response:
                assert response.read().startswith(b'{"path"')
            return found

    assert await asyncio.to_thread(script) == ["data: first", "data: second"]


async def test_a_broken_stream_says_what_it_cost(config, gateway, upstream):
    loop = asyncio.get_running_loop()

    def script() -> int:
        with MachPayClient(config) as client, client.stream(gateway.url + "/paid?mode=broken") as response:
            pieces = response.iter_bytes()
            assert next(pieces) == b"first half"
            loop.call_soon_threadsafe(upstream.release.set)
            with pytest.raises(ResponseLostError) as raised:
                next(pieces)
            return raised.value.charged

    assert await asyncio.to_thread(script) == 0


async def test_errors_come_as_they_are(config, gateway):
    def script() -> None:
        with MachPayClient(config) as client:
            with pytest.raises(PriceTooHighError):
                client.pay_and_call(gateway.url + "/paid", max_price_atomic=1)
            with pytest.raises(ConfigError, match="rpc_url"):
                client.get_bond_balance()

    await asyncio.to_thread(script)


async def test_closing_ends_calls_of_other_threads_and_may_be_repeated(config, gateway, upstream):
    client = await asyncio.to_thread(MachPayClient, config)
    call = asyncio.create_task(asyncio.to_thread(client.pay_and_call, gateway.url + "/paid?mode=slow"))
    await eventually(lambda: len(upstream.seen) == 1, "the call is on its way")
    await asyncio.to_thread(client.close)
    with pytest.raises(RuntimeError, match="closed during the call"):
        await call
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.pay_and_call(gateway.url + "/paid")
    assert threads() == 0


async def test_a_callback_that_calls_its_own_client_is_told_so(key, gateway):
    def script() -> None:
        clients = []

        def approve(_proposal):
            clients[0].get_bond_balance()

        config = MachPayConfig(key=key, network=network(), budgets=Budgets(approve=approve))
        with MachPayClient(config) as client:
            clients.append(client)
            with pytest.raises(RuntimeError, match="callback"):
                client.pay_and_call(gateway.url + "/paid")

    await asyncio.to_thread(script)


def test_a_client_that_cannot_be_made_leaves_no_thread():
    with pytest.raises(AttributeError):
        MachPayClient(None)  # type: ignore[arg-type]
    assert threads() == 0


async def test_a_forked_process_is_told_to_make_a_client_of_its_own(config, gateway, tmp_path):
    """Its threads and connections are the parent's; it waited for ever."""
    script = """
import asyncio, os, sys
from machpay import MachPayClient as AsyncClient, MachPayConfig
from machpay.protocol.keys import SigningKey
from machpay.sync import MachPayClient
from tests.gateway.factories import network

config = MachPayConfig(key=SigningKey.load(sys.argv[1]), network=network())
one, other = MachPayClient(config), AsyncClient(config)
one.pay_and_call(sys.argv[2])
if os.fork() == 0:
    for call in (lambda: one.pay_and_call(sys.argv[2]), lambda: asyncio.run(other.pay_and_call(sys.argv[2]))):
        try:
            call()
        except RuntimeError as error:
            print(error, flush=True)
    one.close()
    with MachPayClient(config) as own:
        print(own.pay_and_call(sys.argv[2]).charged, flush=True)
    os._exit(0)
os.wait()
with one:
    print(one.pay_and_call(sys.argv[2]).charged, flush=True)
"""
    config.key.save(tmp_path / "key.json")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(tmp_path / "key.json"),
        gateway.url + "/paid",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    told = "the client was made before a fork: each process makes its own"
    assert output.decode().splitlines() == [told, told, str(PRICE), str(PRICE)]
