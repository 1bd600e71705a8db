"""Blocks and old transactions through solana-py: what they say, how far back they go, and after a restart."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.core import RPCException
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.signature import Signature
from solders.transaction import Transaction
from solders.transaction_status import (
    InstructionErrorCustom,
    TransactionDetails,
    TransactionErrorInstructionError,
)

from contracts.localnet.control import Control
from contracts.localnet.errors import TransactionRefused
from contracts.localnet.faucet import MEMO_PROGRAM
from contracts.localnet.slots import BLOCKHASH_AGE_MAX, Commitment
from tests.localnet.conftest import SOL, STILL, ChainProcess, SteppedLedger, pay, send_now, signed

FEE = 5_000


def processed(control: Control) -> int:
    return int(control.status()["slots"]["processed"])


@pytest.mark.parametrize("encoding", ["json", "jsonParsed", "base58", "base64"])
async def test_a_block_has_its_transactions_in_order_in_every_encoding(
    rpc: AsyncClient, rich: Keypair, control: Control, encoding: str
) -> None:
    slot = processed(control)
    good = await send_now(rpc, [pay(rich, Keypair().pubkey(), SOL)], rich)
    bad = await send_now(rpc, [pay(rich, Keypair().pubkey(), 100 * SOL)], rich)
    control.advance_slots(1)
    block = (await rpc.get_block(slot, encoding, 0, commitment=Confirmed)).value
    assert block is not None
    assert (block.parent_slot, block.block_height, block.rewards) == (slot - 1, slot, [])
    failed = TransactionErrorInstructionError(0, InstructionErrorCustom(1))
    assert block.transactions is not None
    metas = [entry.meta for entry in block.transactions]
    assert [(meta.err, meta.fee, meta.post_balances[0]) for meta in metas if meta is not None] == [
        (None, FEE, 9 * SOL - FEE),
        (failed, FEE, 9 * SOL - 2 * FEE),
    ]
    if encoding.startswith("base"):
        assert [entry.transaction for entry in block.transactions] == [good, bad]


async def test_a_block_with_less_detail(
    rpc: AsyncClient, rich: Keypair, control: Control, still: ChainProcess
) -> None:
    slot = processed(control)
    to = Keypair().pubkey()
    sent = await send_now(rpc, [pay(rich, to, SOL)], rich)
    control.advance_slots(1)

    async def block(details: TransactionDetails) -> Any:
        answer = await rpc.get_block(slot, "json", 0, details, rewards=False, commitment=Confirmed)
        assert answer.value is not None
        assert answer.value.rewards is None
        return answer.value

    signatures = await block(TransactionDetails.Signatures)
    assert (signatures.signatures, signatures.transactions) == (sent.signatures, None)
    none = await block(TransactionDetails.None_)
    assert (none.signatures, none.transactions) == (None, None)
    config = {
        "transactionDetails": "accounts",
        "maxSupportedTransactionVersion": 0,
        "commitment": "confirmed",
    }
    (entry,) = still.call("getBlock", [slot, config])["result"]["transactions"]
    keys = [
        (key["pubkey"], key["signer"], key["writable"], key["source"])
        for key in entry["transaction"]["accountKeys"]
    ]
    assert keys[:2] == [
        (str(rich.pubkey()), True, True, "transaction"),
        (str(to), False, True, "transaction"),
    ]
    assert "logMessages" not in entry["meta"]
    assert entry["meta"]["postBalances"][1] == SOL


async def test_blocks_are_a_chain_and_every_slot_has_one(rpc: AsyncClient, control: Control) -> None:
    control.advance_slots(10)
    newest = processed(control)
    slots = (await rpc.get_blocks(newest - 9, newest)).value
    # The default commitment is finalized.
    assert slots == list(range(newest - 9, newest - 3))
    assert (await rpc.get_blocks(newest - 9)).value == slots
    blocks = [(await rpc.get_block(slot, "json", 0, commitment=Finalized)).value for slot in slots]
    for before, block in pairwise(blocks):
        assert before is not None
        assert block is not None
        assert block.previous_blockhash == before.blockhash
        assert block.block_time is not None
        assert before.block_time is not None
        assert block.block_time - before.block_time == 3_600
    latest = (await rpc.get_latest_blockhash(Finalized)).value.blockhash
    assert blocks[-1] is not None
    assert blocks[-1].blockhash == latest
    assert (await rpc.get_block_time(slots[-1])).value == blocks[-1].block_time


async def test_block_calls_that_do_not_fit_are_refused(
    rpc: AsyncClient, rich: Keypair, control: Control, still: ChainProcess
) -> None:
    slot = processed(control)
    await send_now(rpc, [pay(rich, Keypair().pubkey(), SOL)], rich)
    confirmed = {"commitment": "confirmed"}
    refused: list[tuple[str, list[Any], int]] = [
        # It is not confirmed yet.
        ("getBlock", [slot, confirmed], -32004),
        ("getBlock", [slot, {"commitment": "processed"}], -32602),
        ("getBlock", [], -32602),
        ("getBlock", [slot, {"encoding": "hex"}], -32602),
        ("getBlock", [slot, {"transactionDetails": "some"}], -32602),
        ("getBlocks", [0, 500_001], -32602),
        ("getBlocks", [0, "1"], -32602),
        ("getBlocks", [0, 1, {"commitment": "processed"}], -32602),
        ("getBlocksWithLimit", [0], -32602),
        ("getBlocksWithLimit", [0, 500_001], -32602),
        ("getBlockTime", [slot + 1_000_000], -32004),
    ]
    for method, params, code in refused:
        assert still.call(method, params)["error"]["code"] == code, (method, params)
    control.advance_slots(1)
    # A version the client did not ask for.
    assert still.call("getBlock", [slot, confirmed])["error"]["code"] == -32015
    assert (
        still.call("getBlock", [slot, confirmed | {"transactionDetails": "none"}])["result"]["blockHeight"]
        == slot
    )
    assert still.call("getBlocksWithLimit", [slot - 2, 2])["result"] == []
    control.advance_slots(4)
    assert still.call("getBlocksWithLimit", [slot - 2, 2])["result"] == [slot - 2, slot - 1]
    assert still.call("getBlocks", [slot - 1, None, confirmed])["result"][0] == slot - 1
    assert still.call("getBlocks", [slot - 1, confirmed])["result"][-1] == slot + 4


async def test_a_legacy_transaction_needs_no_version_and_says_which_it_is(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    slot = processed(control)
    blockhash = (await rpc.get_latest_blockhash(Processed)).value.blockhash
    message = Message.new_with_blockhash([pay(rich, Keypair().pubkey(), SOL)], rich.pubkey(), blockhash)
    await rpc.send_raw_transaction(bytes(Transaction([rich], message, blockhash)))
    control.advance_slots(1)
    for highest, version in ((None, None), (0, "Legacy")):
        block = (await rpc.get_block(slot, "json", highest, commitment=Confirmed)).value
        assert block is not None
        assert block.transactions is not None
        told = block.transactions[0].version
        assert (None if told is None else str(told).rsplit(".", 1)[-1]) == version


async def test_signatures_come_with_error_memo_and_time(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    memo = Instruction(MEMO_PROGRAM, "grüße".encode(), [])
    good = await send_now(rpc, [pay(rich, to, SOL), memo, memo], rich)
    bad = await send_now(rpc, [pay(rich, to, 100 * SOL)], rich)
    slot = processed(control)
    control.advance_slots(1)
    entries = (await rpc.get_signatures_for_address(to, commitment=Confirmed)).value
    failed = TransactionErrorInstructionError(0, InstructionErrorCustom(1))
    assert [(e.signature, e.slot, e.err, e.memo) for e in entries] == [
        (bad.signatures[0], slot, failed, None),
        (good.signatures[0], slot, None, "[7] grüße; [7] grüße"),
    ]
    block_time = (await rpc.get_block_time(slot)).value
    assert [entry.block_time for entry in entries] == [block_time, block_time]
    found = (await rpc.get_transaction(good.signatures[0], "base64", Confirmed, 0)).value
    assert found is not None
    assert (found.block_time, found.slot) == (block_time, slot)


async def test_signatures_older_than_the_slot_asked_for_are_refused(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    slot = processed(control)
    with pytest.raises(RPCException) as refused:
        await rpc.get_signatures_for_address(rich.pubkey(), commitment=Confirmed, min_context_slot=slot)
    assert refused.value.args[0].data.context_slot == slot - 1
    entries = await rpc.get_signatures_for_address(
        rich.pubkey(), commitment=Confirmed, min_context_slot=slot - 1
    )
    assert len(entries.value) == 1


async def test_history_is_bounded_and_kept_across_a_restart(tmp_path: Path) -> None:
    chain = ChainProcess(tmp_path / "chain", *STILL, "--history", "10")
    try:
        payer, to = Keypair(), Keypair().pubkey()
        sent: list[tuple[int, Signature]] = []
        async with AsyncClient(chain.url, commitment=Confirmed) as rpc:
            with Control(chain.url) as control:
                await rpc.request_airdrop(payer.pubkey(), 100 * SOL)
                assert (await rpc.get_first_available_block()).value == 0
                for _ in range(29):
                    # Of the last 150 slots everything is kept: these are fewer than 10.
                    control.advance_slots(20)
                    transaction = await send_now(rpc, [pay(payer, to, SOL)], payer)
                    sent.append((processed(control), transaction.signatures[0]))
                control.advance_slots(4)
        chain.stop()
        chain.start()
        kept = sent[-10:]
        async with AsyncClient(chain.url, commitment=Confirmed) as rpc:
            listed = (await rpc.get_signatures_for_address(to)).value
            assert [(entry.slot, entry.signature) for entry in listed] == kept[::-1]
            for slot, signature in kept:
                found = (await rpc.get_transaction(signature, "json", Confirmed, 0)).value
                assert found is not None
                assert found.slot == slot
            assert (await rpc.get_transaction(sent[-11][1], "json", Confirmed, 0)).value is None
            # Whether the oldest kept transaction was the first of its slot is not known any more.
            first = kept[0][0] + 1
            assert (await rpc.get_first_available_block()).value == first
            assert (await rpc.get_minimum_ledger_slot()).value == first
            cleaned = chain.call("getBlock", [first - 1])["error"]
            assert cleaned["code"] == -32001
            assert cleaned["message"].endswith(f"First available block: {first}")
            block = (await rpc.get_block(kept[1][0], "json", 0)).value
            assert block is not None
            assert block.transactions is not None
            assert len(block.transactions) == 1
            # Money does not go with its history.
            assert (await rpc.get_balance(to)).value == 29 * SOL
    finally:
        chain.close()


def test_duplicates_are_refused_after_a_restart_however_little_is_kept(tmp_path: Path) -> None:
    payer, to = Keypair(), Keypair().pubkey()
    first = SteppedLedger(tmp_path / "chain", transactions_kept=1)
    first.airdrop(payer.pubkey(), 10 * SOL)
    once = signed([pay(payer, to, SOL)], first.latest_blockhash(Commitment.processed)[0], payer)
    first.send(bytes(once), skip_preflight=False)
    for _ in range(10):
        first.airdrop(to, SOL)
    first.close()
    second = SteppedLedger(tmp_path / "chain", transactions_kept=1)
    with pytest.raises(TransactionRefused, match="already been processed"):
        second.send(bytes(once), skip_preflight=False)
    second.send(bytes(once), skip_preflight=True)
    held = second.account(to, Commitment.processed)
    assert held is not None
    assert held.lamports == 11 * SOL
    # Once its block hash has died, only what is to be kept stays.
    second.step(BLOCKHASH_AGE_MAX + 1)
    newest = second.airdrop(to, SOL)
    listed = second.transactions_of(to, Commitment.processed, before=None, until=None, limit=100)
    assert [entry.signature for entry in listed] == [newest]
    second.close()
