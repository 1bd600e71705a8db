"""The bond commands of `machpay` against the real program."""

import asyncio
import json

import pytest

from devnet.chain import MIN_BOND_ATOMIC
from machpay import cli
from machpay.cli import options
from tests.sdk.test_bonds import a_flaky_rpc, a_wallet
from tests.support.chain import LocalChain, module_chain

__all__ = ["module_chain"]


@pytest.fixture
async def run(local_chain: LocalChain, tmp_path, capsys, monkeypatch):
    """Run `machpay agent ...` for a wallet with three times the smallest bond; exit code and its JSON."""
    for name in ("MACHPAY_AGENT_SECRET", "MACHPAY_NETWORK", "MACHPAY_STATE_DIR", "SOLANA_RPC_URL"):
        monkeypatch.delenv(name, raising=False)
    key = await a_wallet(local_chain, tokens_atomic=3 * MIN_BOND_ATOMIC)
    key.save(tmp_path / "secret_key.json")
    net = local_chain.network
    document = {"program_id": str(net.program_id), "mint": str(net.mint), "domain": str(net.domain)}
    (tmp_path / "network.json").write_text(json.dumps({**document, "rpc_url": local_chain.rpc_url}))
    own = ["--json", "--key", str(tmp_path / "secret_key.json"), "--network", str(tmp_path / "network.json")]
    own += ["--state-dir", str(tmp_path / "state")]

    async def execute(*arguments: str, rpc_url: str | None = None) -> tuple[int, dict[str, object]]:
        if rpc_url is not None:
            monkeypatch.setenv("SOLANA_RPC_URL", rpc_url)
        code = await asyncio.to_thread(cli.main, ["agent", *arguments, *own])
        out, err = capsys.readouterr()
        return code, json.loads(out or err)

    return execute


async def test_a_bond_goes_in_and_its_way_out_begins_with_a_timelock(run):
    code, answer = await run("balance")
    assert (code, answer["bond_atomic"]) == (cli.OK, 0)
    usdc = options.usdc(2 * MIN_BOND_ATOMIC)
    code, answer = await run("deposit", usdc)
    assert (code, answer["bond_atomic"]) == (cli.OK, 2 * MIN_BOND_ATOMIC)
    code, answer = await run("deposit", usdc)
    assert (code, answer["error"]) == (cli.REFUSED, "InsufficientFundsError")
    half = options.usdc(MIN_BOND_ATOMIC)
    code, answer = await run("withdraw", half)
    assert (code, answer["pending_atomic"]) == (cli.OK, MIN_BOND_ATOMIC)
    code, answer = await run("withdraw", half)
    assert (code, answer["error"]) == (cli.REFUSED, "TimelockError")
    code, answer = await run("withdraw", "--cancel")
    assert (code, answer["pending_atomic"], answer["unlocks_at"]) == (cli.OK, 0, None)
    assert answer["bond_atomic"] == 2 * MIN_BOND_ATOMIC


async def test_what_is_done_is_told_though_the_chain_answers_no_more(run, local_chain):
    """An error here would have a person do it again."""
    async with a_flaky_rpc(local_chain) as rpc:
        sent: list[bytes] = []

        def refuses(body: bytes) -> bool:
            if b"sendTransaction" in body:
                sent.append(body)
            return bool(sent) and b"getAccountInfo" in body

        rpc.refuses = refuses
        for command, amount in (("deposit", 2 * MIN_BOND_ATOMIC), ("withdraw", MIN_BOND_ATOMIC)):
            sent.clear()
            code, answer = await run(command, options.usdc(amount), rpc_url=rpc.url)
            assert (code, "transaction" in answer, "bond_atomic" in answer) == (cli.OK, True, False)


@pytest.mark.parametrize("arguments", [(), ("1", "--cancel")])
async def test_withdraw_takes_an_amount_or_the_word_to_cancel(run, arguments):
    code, answer = await run("withdraw", *arguments)
    assert (code, answer["error"]) == (cli.MISUSED, "ConfigError")
