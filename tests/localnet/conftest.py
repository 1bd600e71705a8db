"""A local chain as a process of its own, and a chain in memory whose clock the test turns."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Processed
from solana.rpc.models import TxOpts
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from contracts.localnet.control import Control
from contracts.localnet.ledger import Ledger
from tests.support.http import LOCAL

ROOT = Path(__file__).resolve().parents[2]
SOL = 1_000_000_000
FINALIZED_LAG = 4
STILL = ("--slot-ms", "3600000", "--finalized-lag", str(FINALIZED_LAG), "--allow-faults")


class ChainProcess:
    """`python -m contracts.localnet` over one state folder; can be killed and started again."""

    def __init__(self, state: Path, *options: str) -> None:
        self.state = state
        self.options = options
        self.start()

    def start(self) -> None:
        (self.state / "endpoint.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "contracts.localnet", "--port", "0", "--state", str(self.state)]
        self.process = subprocess.Popen([*command, *self.options], cwd=ROOT, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (self.state / "endpoint.json").exists():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, "the chain to be ready"
            time.sleep(0.02)
        self.endpoint = json.loads((self.state / "endpoint.json").read_text())
        self.url: str = self.endpoint["rpc_url"]

    def post(self, body: object) -> httpx.Response:
        """Send a raw request body (bytes as they are, anything else as JSON)."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(self.url, content=content, headers={"content-type": "application/json"}, **LOCAL)

    def call(self, method: str, params: object) -> Any:
        """Return the whole answer of one call."""
        return self.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).json()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate()
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop()


@pytest.fixture(scope="package")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    """A chain with slots of 50 ms, finalised after 4, shared by all tests here: each uses keys of its own."""
    process = ChainProcess(tmp_path_factory.mktemp("chain"), "--slot-ms", "50", "--finalized-lag", "4")
    yield process
    process.close()


@pytest.fixture(scope="package")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    """A chain whose slots last an hour: it moves when a test says so, through `control`."""
    process = ChainProcess(tmp_path_factory.mktemp("still"), *STILL)
    yield process
    process.close()


@pytest.fixture
def control(still: ChainProcess) -> Iterator[Control]:
    """The test-only side of `still`."""
    with Control(still.url) as opened:
        yield opened


@pytest.fixture
async def rpc(still: ChainProcess) -> AsyncIterator[AsyncClient]:
    """solana-py's own client on `still`, reading what is newest."""
    async with AsyncClient(still.url, commitment=Processed, timeout=30) as opened:
        yield opened


@pytest.fixture
async def rich(rpc: AsyncClient, control: Control) -> Keypair:
    """A key on `still` whose 10 SOL are final."""
    keypair = Keypair()
    await rpc.request_airdrop(keypair.pubkey(), 10 * SOL)
    control.advance_slots(FINALIZED_LAG)
    return keypair


@pytest.fixture
def own_chain(tmp_path: Path) -> Iterator[ChainProcess]:
    """A chain that the test may stop."""
    process = ChainProcess(tmp_path / "chain")
    yield process
    process.close()


@pytest.fixture
async def client(chain: ChainProcess) -> AsyncIterator[AsyncClient]:
    """solana-py's own client, reading at `confirmed`."""
    async with AsyncClient(chain.url, commitment=Confirmed) as opened:
        yield opened


@pytest.fixture
async def payer(client: AsyncClient) -> Keypair:
    """A key with 10 SOL."""
    return await funded(client, 10 * SOL)


async def funded(client: AsyncClient, lamports: int) -> Keypair:
    keypair = Keypair()
    signature = (await client.request_airdrop(keypair.pubkey(), lamports)).value
    await client.confirm_transaction(signature, Confirmed, sleep_seconds=0.01)
    return keypair


def pay(source: Keypair, to: Pubkey, lamports: int) -> Instruction:
    return transfer(TransferParams(from_pubkey=source.pubkey(), to_pubkey=to, lamports=lamports))


def signed(instructions: list[Instruction], blockhash: Hash, *signers: Keypair) -> VersionedTransaction:
    message = MessageV0.try_compile(signers[0].pubkey(), instructions, [], blockhash)
    return VersionedTransaction(message, list(signers))


async def send_now(
    rpc: AsyncClient, instructions: list[Instruction], *signers: Keypair
) -> VersionedTransaction:
    """Send without preflight or waiting: a failing transaction lands too."""
    blockhash = (await rpc.get_latest_blockhash(Processed)).value.blockhash
    transaction = signed(instructions, blockhash, *signers)
    await rpc.send_transaction(transaction, TxOpts(skip_preflight=True))
    return transaction


async def send(
    client: AsyncClient, instructions: list[Instruction], *signers: Keypair
) -> VersionedTransaction:
    """Send and wait until confirmed; returns the transaction."""
    blockhash = (await client.get_latest_blockhash(Processed)).value.blockhash
    transaction = signed(instructions, blockhash, *signers)
    signature = (await client.send_transaction(transaction)).value
    statuses = await client.confirm_transaction(signature, Confirmed, sleep_seconds=0.01)
    status = statuses.value[0]
    assert status is not None
    assert status.err is None
    return transaction


class SteppedLedger(Ledger):
    """A chain in this process that moves only when the test says so: one slot a second."""

    def __init__(self, folder: Path, finalized_lag: int = 4, transactions_kept: int = 1_000) -> None:
        self.seconds = 1_700_000_000.0
        super().__init__(
            folder,
            slot_ms=1000,
            finalized_lag=finalized_lag,
            transactions_kept=transactions_kept,
            wall=lambda: self.seconds,
            steady=lambda: self.seconds,
        )

    def step(self, slots: int = 1) -> None:
        self.seconds += slots
        self.advance()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SteppedLedger]:
    opened = SteppedLedger(tmp_path / "chain")
    yield opened
    opened.close()
