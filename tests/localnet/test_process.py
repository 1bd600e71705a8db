"""The process: options, the ready file, one owner per state, a clean stop, programs deployed at start."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Processed
from solana.rpc.core import RPCException
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey

from contracts.localnet.__main__ import main
from tests.localnet.conftest import ROOT, SOL, ChainProcess, funded, send

LOADER = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
ARTIFACT = ROOT / "contracts" / "artifacts" / "machpay.so"


def memo_program(path: Path) -> Path:
    """Write the memo program that LiteSVM carries to a file: real bytecode, easy to call."""
    account = LiteSVM().get_account(Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"))
    assert account is not None
    path.write_bytes(account.data)
    return path


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[tuple[ChainProcess, Pubkey, Pubkey]]:
    """A chain with the project's program: (chain, program id, upgrade authority)."""
    keypair, authority = Keypair(), Keypair().pubkey()
    file = tmp_path / "program.json"
    file.write_text(json.dumps(list(bytes(keypair))))
    chain = ChainProcess(
        tmp_path / "chain",
        *("--program", str(ARTIFACT), "--program-keypair", str(file), "--upgrade-authority", str(authority)),
    )
    yield chain, keypair.pubkey(), authority
    chain.close()


def test_the_ready_file_names_the_chain_and_goes_with_it(own_chain: ChainProcess) -> None:
    endpoint = own_chain.endpoint
    assert set(endpoint) == {"rpc_url", "ws_url", "genesis_hash", "program_id", "pid"}
    assert endpoint["pid"] == own_chain.process.pid
    assert endpoint["program_id"] is None
    assert own_chain.call("getGenesisHash", [])["result"] == endpoint["genesis_hash"]
    assert own_chain.stop() == 0
    assert not (own_chain.state / "endpoint.json").exists()


def test_an_interrupt_stops_it_cleanly(own_chain: ChainProcess) -> None:
    assert own_chain.stop(signal.SIGINT) == 0


def test_a_second_process_on_the_same_state_is_refused(chain: ChainProcess) -> None:
    command = [sys.executable, "-m", "contracts.localnet", "--port", "0", "--state", str(chain.state)]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "is served by another process" in second.stderr
    assert chain.call("getHealth", [])["result"] == "ok"


def test_a_taken_port_is_reported(chain: ChainProcess, tmp_path: Path) -> None:
    port = chain.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "contracts.localnet", "--port", port, "--state", str(tmp_path / "other")]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "Address already in use" in second.stderr


async def test_the_program_is_executable_and_names_its_upgrade_authority(
    deployed: tuple[ChainProcess, Pubkey, Pubkey],
) -> None:
    chain, program_id, authority = deployed
    assert chain.endpoint["program_id"] == str(program_id)
    async with AsyncClient(chain.url, commitment=Confirmed) as client:
        program = (await client.get_account_info(program_id)).value
        assert program is not None
        assert program.executable
        data_address = Pubkey.find_program_address([bytes(program_id)], LOADER)[0]
        assert program.data == (2).to_bytes(4, "little") + bytes(data_address)
        data = (await client.get_account_info(data_address)).value
        assert data is not None
        assert data.owner == LOADER
        assert data.data[:4] == (3).to_bytes(4, "little")
        assert data.data[12:45] == b"\x01" + bytes(authority)
        assert data.data[45:] == ARTIFACT.read_bytes()
        # The bytecode runs: an unknown instruction is refused by the program itself.
        payer = await funded(client, SOL)
        with pytest.raises(RPCException) as refused:
            await send(client, [Instruction(program_id, b"\xff" * 8, [])], payer)
        assert refused.value.args[0].data.logs[0] == f"Program {program_id} invoke [1]"


async def test_a_changed_program_file_runs_after_a_restart_and_accounts_stay(tmp_path: Path) -> None:
    program_id = Keypair().pubkey()
    file = memo_program(tmp_path / "program.so")
    chain = ChainProcess(tmp_path / "chain", "--program", str(file), "--program-id", str(program_id))
    hello = Instruction(program_id, b"hello", [])
    try:
        async with AsyncClient(chain.url) as client:
            payer = await funded(client, SOL)
            await send(client, [hello], payer)
            genesis = (await client.get_genesis_hash()).value
        chain.stop()
        file.write_bytes(ARTIFACT.read_bytes())
        chain.start()
        async with AsyncClient(chain.url) as client:
            assert (await client.get_genesis_hash()).value == genesis
            assert (await client.get_balance(payer.pubkey())).value == SOL - 5_000
            with pytest.raises(RPCException):
                await send(client, [hello], payer)
            assert (await client.get_balance(payer.pubkey(), Processed)).value == SOL - 5_000
    finally:
        chain.close()


def test_a_torn_chain_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "chain.sqlite3"
    file.write_bytes(b"SQLite format 3\0" + bytes(5_000))
    command = [sys.executable, "-m", "contracts.localnet", "--port", "0", "--state", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"the chain in {tmp_path} cannot be read" in done.stderr
    assert file.read_bytes() == b"SQLite format 3\0" + bytes(5_000)


def test_bad_options_are_refused(tmp_path: Path) -> None:
    for options in (
        ["--slot-ms", "0"],
        ["--finalized-lag", "0"],
        ["--program", str(ARTIFACT)],
        ["--program", str(tmp_path / "nothing.so"), "--program-id", str(LOADER)],
        ["--program", str(ARTIFACT), "--program-keypair", str(ARTIFACT)],
        ["--program-id", "x"],
        ["--history", "0"],
    ):
        with pytest.raises(SystemExit) as refusal:
            main(["--state", str(tmp_path / "none"), *options])
        assert refusal.value.code == 2
    assert not (tmp_path / "none").exists()
