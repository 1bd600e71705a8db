"""send_and_confirm on a chain that stands still: what sending the same bytes again may conclude, and what not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from contracts.localnet.control import NODE_UNHEALTHY, Control
from contracts.localnet.rpc.errors import INTERNAL_ERROR
from machpay.chain import client as client_module
from machpay.chain.client import ChainClient
from machpay.chain.errors import BlockhashExpired, RpcUnavailable
from tests.localnet.conftest import FINALIZED_LAG, SOL, STILL, ChainProcess, pay

PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    process = ChainProcess(tmp_path_factory.mktemp("sending"), *STILL)
    yield process
    process.close()


@pytest.fixture
def control(still: ChainProcess) -> Iterator[Control]:
    with Control(still.url) as opened:
        yield opened


@pytest.fixture
async def chain(still: ChainProcess, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChainClient]:
    """A client that sends again ten times a second."""
    monkeypatch.setattr(client_module, "_RESEND_SECONDS", 0.1)
    async with ChainClient(still.url) as opened:
        yield opened


@pytest.fixture
async def rich(chain: ChainClient, control: Control) -> Keypair:
    """A key whose 10 SOL are final."""
    keypair = Keypair()
    await chain._rpc.request_airdrop(keypair.pubkey(), 10 * SOL)
    control.advance_slots(FINALIZED_LAG)
    return keypair


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def paying(chain: ChainClient, payer: Keypair, to: Pubkey) -> asyncio.Task[str]:
    return asyncio.create_task(chain.send_and_confirm([pay(payer, to, SOL)], payer, commitment="finalized"))


async def test_what_was_dropped_is_sent_again(chain: ChainClient, control: Control, rich: Keypair) -> None:
    to = Keypair().pubkey()
    control.drop_sends(2)
    payment = paying(chain, rich, to)

    async def landed() -> bool:
        return await chain.lamports(to, "processed") == SOL

    await until(landed)
    control.advance_slots(FINALIZED_LAG)
    signature = await payment
    (status,) = await chain.status([signature])
    assert status is not None
    assert (status.confirmation, status.err) == ("finalized", None)
    assert await chain.lamports(to, "processed") == SOL


async def test_what_landed_is_not_called_expired_when_its_blockhash_grew_old(
    chain: ChainClient, control: Control, rich: Keypair
) -> None:
    """Finality stalls. Who is told "no effect" signs again, and pays twice."""
    to = Keypair().pubkey()
    control.hold_finality()
    payment = paying(chain, rich, to)

    async def landed() -> bool:
        return await chain.lamports(to, "processed") == SOL

    await until(landed)
    control.expire_blockhashes()
    done, _ = await asyncio.wait({payment}, timeout=1)
    assert not done, payment.exception()
    control.release_finality()
    (status,) = await chain.status([await payment])
    assert status is not None
    assert (status.confirmation, status.err) == ("finalized", None)


async def test_what_never_landed_is_expired_once_that_is_final_and_not_before(
    chain: ChainClient, control: Control, rich: Keypair
) -> None:
    to = Keypair().pubkey()
    control.hold_finality()
    control.drop_sends(1_000)
    payment = paying(chain, rich, to)

    async def sent() -> bool:
        return int(control.status()["faults"]["drops"]) < 1_000

    await until(sent)
    control.expire_blockhashes()
    done, _ = await asyncio.wait({payment}, timeout=1)
    assert not done, payment.exception()
    control.release_finality()
    control.advance_slots(FINALIZED_LAG)
    with pytest.raises(BlockhashExpired):
        await payment
    assert await chain.lamports(to, "processed") == 0


async def test_a_server_that_is_away_for_a_while_does_not_end_the_wait(
    chain: ChainClient, control: Control, rich: Keypair
) -> None:
    to = Keypair().pubkey()
    control.interrupt_calls("getSignatureStatuses", calls=2)
    payment = paying(chain, rich, to)

    async def asked() -> bool:
        return not control.status()["faults"]["calls"]

    await until(asked)
    control.advance_slots(FINALIZED_LAG)
    (status,) = await chain.status([await payment])
    assert status is not None
    assert (status.confirmation, status.err) == ("finalized", None)


@pytest.mark.parametrize("code", [INTERNAL_ERROR, NODE_UNHEALTHY])
async def test_a_server_in_trouble_gives_no_verdict_on_what_was_sent(
    chain: ChainClient, control: Control, rich: Keypair, code: int
) -> None:
    """Taken for a refusal it would be signed again, and both may land."""
    signed = await chain.sign([pay(rich, Keypair().pubkey(), SOL)], rich)
    control.fail_calls("sendTransaction", code=code, message="in trouble")
    with pytest.raises(RpcUnavailable, match="in trouble"):
        await chain.send(signed.raw)
    assert await chain.send(signed.raw) == signed.signature
