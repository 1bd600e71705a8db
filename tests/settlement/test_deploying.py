"""Deploying, initialising and looking at a chain with the operator's commands, on a local chain of its own."""

import asyncio
import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from apps.settlement.errors import DeploymentRefused
from apps.settlement.management.commands.initialize_bond import _require_production
from apps.settlement.management.deploying import ARTIFACT
from apps.settlement.services.clusters import MAINNET_USDC, cluster_name, load_key, sol
from machpay.chain import loader, tokens
from machpay.chain.client import ChainClient
from machpay.chain.instructions import BondConfig
from tests.support.chain import LocalChain, module_chain

__all__ = ["module_chain"]

SOL = 10**9
MIN_BOND = 5_000_000


class Operator:
    """Keys in files, and the commands as an operator runs them."""

    def __init__(self, chain: LocalChain, folder: Path) -> None:
        self.chain = chain
        self.keys = {name: Keypair() for name in ("program", "authority", "mint", "relayer")}
        self.files = {name: folder / f"{name}.json" for name in self.keys}
        for name, key in self.keys.items():
            self.files[name].write_text(json.dumps(list(bytes(key))))
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        authority, mint = self.keys["authority"], self.keys["mint"]
        async with ChainClient(self.chain.rpc_url) as chain:
            await chain.airdrop(authority.pubkey(), 10 * SOL)
            steps = tokens.create_mint(
                payer=authority.pubkey(),
                mint=mint.pubkey(),
                authority=authority.pubkey(),
                decimals=6,
                lamports=await chain.rent(tokens.MINT_LENGTH),
            )
            await chain.send_and_confirm(steps, authority, [mint])

    def run(self, command: str, *arguments: str) -> str:
        out = StringIO()
        call_command(command, "--cluster", "local", *arguments, stdout=out)
        return out.getvalue()

    def deploy(self, *arguments: str) -> str:
        keys = ("--program-keypair", str(self.files["program"]))
        return self.run(
            "deploy_program", *keys, "--upgrade-authority", str(self.files["authority"]), *arguments
        )

    def initialize(self, *arguments: str) -> str:
        return self.run(
            "initialize_bond",
            *("--upgrade-authority", str(self.files["authority"]), "--min-bond", str(MIN_BOND)),
            *("--relayer", str(self.keys["relayer"].pubkey()), *arguments),
        )

    def lamports(self) -> int:
        return self.chain.call(lambda chain: chain.lamports(self.keys["authority"].pubkey()))


@pytest.fixture
def operator(local_chain: LocalChain, settings, tmp_path: Path) -> Operator:
    operator = Operator(local_chain, tmp_path)
    settings.SOLANA_RPC_URL = local_chain.rpc_url
    settings.MACHPAY_PROGRAM_ID = str(operator.keys["program"].pubkey())
    settings.USDC_MINT = str(operator.keys["mint"].pubkey())
    return operator


def test_a_program_is_deployed_initialised_upgraded_and_shown(operator: Operator, tmp_path: Path) -> None:
    assert "not deployed" in operator.run("chain_status")
    before = operator.lamports()
    assert "dry run" in operator.deploy()
    assert operator.lamports() == before

    elf = ARTIFACT.read_bytes()
    told = operator.deploy("--yes", "--max-length", str(len(elf) + 1_000))
    (cost,) = [line for line in told.splitlines() if line.startswith("cost")]
    assert sol(before - operator.lamports()) in cost
    assert "nothing to do" in operator.deploy("--yes")
    assert "not initialised" in operator.run("chain_status")

    before = operator.lamports()
    assert "dry run: it would succeed" in operator.initialize()
    with pytest.raises(CommandError, match="InvalidConfig"):
        operator.initialize("--timelock", "59")
    with pytest.raises(CommandError, match="-1"):
        operator.initialize("--bond-cap", "-1")
    assert operator.lamports() == before
    told = operator.initialize("--yes")
    (cost,) = [line for line in told.splitlines() if line.startswith("cost")]
    assert sol(before - operator.lamports()) in cost
    again = operator.initialize("--yes", "--timelock", "90000")
    assert "nothing to do" in again
    assert "timelock is 86400, not 90000" in again
    status = operator.run("chain_status")
    assert "is the committed artifact" in status
    assert str(operator.keys["relayer"].pubkey()) in status

    # Another version: one sentence of its rodata reads differently.
    changed = elf.replace(b"deposits are paused", b"deposits are PAUSED")
    assert changed != elf
    newer = tmp_path / "newer.so"
    newer.write_bytes(changed)
    assert "upgrade by" in operator.deploy("--yes", "--file", str(newer))
    assert "is NOT the committed artifact" in operator.run("chain_status")


def test_an_option_that_is_no_address_is_named(operator: Operator) -> None:
    with pytest.raises(CommandError, match="--treasury: 'cold' is not an address"):
        operator.initialize("--treasury", "cold")


def test_what_is_no_program_is_written_nowhere(operator: Operator, tmp_path: Path) -> None:
    before = operator.lamports()
    for file in (operator.files["authority"], tmp_path / "nothing.so"):
        with pytest.raises(CommandError, match=r"no compiled program|No such file"):
            operator.deploy("--yes", "--file", str(file))
    assert operator.lamports() == before


def test_a_payer_without_enough_is_told_before_anything_is_sent(operator: Operator, tmp_path: Path) -> None:
    poor = tmp_path / "poor.json"
    poor.write_text(json.dumps(list(bytes(Keypair()))))
    with pytest.raises(CommandError, match=r"has 0\.000000000 SOL, .* are needed"):
        operator.deploy("--yes", "--upgrade-authority", str(poor))


def test_a_deployment_that_broke_off_is_finished_by_the_next_run(operator: Operator, monkeypatch) -> None:
    write = loader._write_step
    calls = []

    def breaks_off(*arguments):
        calls.append(arguments)
        if len(calls) > 40:
            raise ValueError("the power is gone")
        return write(*arguments)

    monkeypatch.setattr(loader, "_write_step", breaks_off)
    with pytest.raises(CommandError, match="power"):
        operator.deploy("--yes")
    monkeypatch.undo()

    pieces = -(-len(ARTIFACT.read_bytes()) // loader.WRITE_BYTES)
    (action,) = [line for line in operator.deploy().splitlines() if line.startswith("action")]
    assert 0 < int(action.split()[-2]) < pieces
    assert "deploy by" in operator.deploy("--yes")


def test_another_authority_may_not_upgrade(operator: Operator, tmp_path: Path) -> None:
    operator.deploy("--yes")
    stranger = tmp_path / "stranger.json"
    stranger.write_text(json.dumps(list(bytes(Keypair()))))
    newer = tmp_path / "newer.so"
    newer.write_bytes(ARTIFACT.read_bytes()[:-8])
    with pytest.raises(CommandError, match="may upgrade"):
        operator.deploy("--yes", "--file", str(newer), "--upgrade-authority", str(stranger))
    assert "is the committed artifact" in operator.run("chain_status")


@pytest.mark.parametrize("command", ["chain_status", "initialize_bond"])
def test_a_cluster_that_is_not_the_one_named_is_refused(operator: Operator, command: str) -> None:
    more = ("--relayer", str(Pubkey.default()), "--min-bond", "1") if command == "initialize_bond" else ()
    with pytest.raises(CommandError, match="says mainnet, but SOLANA_RPC_URL leads to local"):
        call_command(command, "--cluster", "mainnet", *more)


def test_public_clusters_are_known_by_their_genesis() -> None:
    assert cluster_name("5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d") == "mainnet"
    assert cluster_name("EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG") == "devnet"
    assert cluster_name(str(Pubkey.new_unique())) == "local"


def test_mainnet_refuses_placeholder_and_readable_keys(tmp_path: Path) -> None:
    good, path = Keypair(), tmp_path / "key.json"
    path.write_text(json.dumps(list(bytes(good))))
    path.chmod(0o644)
    with pytest.raises(DeploymentRefused, match="chmod 600"):
        load_key(str(path), cluster="mainnet", role="the admin")
    assert load_key(str(path), cluster="devnet", role="the admin") == good
    path.chmod(0o600)
    assert load_key(str(path), cluster="mainnet", role="the admin") == good
    assert load_key(path.read_text(), cluster="mainnet", role="the admin") == good
    placeholder = json.dumps(list(bytes(Keypair.from_seed(bytes([7]) * 32))))
    with pytest.raises(DeploymentRefused, match="placeholder"):
        load_key(placeholder, cluster="mainnet", role="the admin")
    for source in ("", str(tmp_path / "absent.json"), "[1, 2]"):
        with pytest.raises(DeploymentRefused, match="the admin"):
            load_key(source, cluster="local", role="the admin")


def test_mainnet_wants_the_real_usdc_and_a_relayer_without_other_jobs() -> None:
    admin, relayer = Pubkey.new_unique(), Pubkey.new_unique()
    good = BondConfig(admin, relayer, admin, min_bond=1)
    _require_production(MAINNET_USDC, good)
    with pytest.raises(DeploymentRefused, match="USDC_MINT"):
        _require_production(Pubkey.new_unique(), good)
    with pytest.raises(DeploymentRefused, match="relayer"):
        _require_production(MAINNET_USDC, BondConfig(relayer, relayer, admin, min_bond=1))
