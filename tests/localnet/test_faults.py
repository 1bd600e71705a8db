"""Faults as a client sees them, through `Control` and solana-py, and what they leave alone."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.core import RPCException
from solana.rpc.models import TxOpts
from solana.rpc.websocket_api import SolanaWsClient
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.rpc.errors import NodeUnhealthy, NodeUnhealthyMessage, SendTransactionPreflightFailureMessage
from solders.signature import Signature
from solders.transaction import VersionedTransaction
from solders.transaction_status import TransactionErrorFieldless

from contracts.localnet.control import Control, ControlError
from tests.localnet.conftest import FINALIZED_LAG as LAG
from tests.localnet.conftest import SOL, STILL, ChainProcess, pay, signed

CLOCK = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")


async def payment(rpc: AsyncClient, payer: Keypair, to: Pubkey) -> VersionedTransaction:
    blockhash = (await rpc.get_latest_blockhash(Processed)).value.blockhash
    return signed([pay(payer, to, SOL)], blockhash, payer)


async def balance(rpc: AsyncClient, address: Pubkey) -> int:
    return (await rpc.get_balance(address, Processed)).value


async def is_known(rpc: AsyncClient, signature: Signature) -> bool:
    return (await rpc.get_signature_statuses([signature], search_transaction_history=True)).value[
        0
    ] is not None


def slots(control: Control) -> list[int]:
    return list(control.status()["slots"].values())


async def clock(rpc: AsyncClient) -> int:
    account = (await rpc.get_account_info(CLOCK, Processed)).value
    assert account is not None
    return int.from_bytes(account.data[32:40], "little")


async def test_dropped_sends_are_answered_and_never_run(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    control.drop_sends(2)
    transaction = await payment(rpc, rich, to)
    for _ in range(2):
        assert (await rpc.send_transaction(transaction)).value == transaction.signatures[0]
        assert not await is_known(rpc, transaction.signatures[0])
    assert (await balance(rpc, to), await balance(rpc, rich.pubkey())) == (0, 10 * SOL)
    # The same bytes sent again land: the fault was used up.
    await rpc.send_transaction(transaction)
    assert await is_known(rpc, transaction.signatures[0])
    assert await balance(rpc, to) == SOL


async def test_airdrops_and_what_preflight_refuses_use_up_no_fault(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    control.drop_sends(1)
    await rpc.request_airdrop(to, SOL)
    assert await balance(rpc, to) == SOL
    poor = await payment(rpc, Keypair(), to)
    with pytest.raises(RPCException):
        await rpc.send_transaction(poor)
    assert control.status()["faults"]["drops"] == 1
    await rpc.send_transaction(await payment(rpc, rich, to))
    assert control.status()["faults"]["drops"] == 0
    assert await balance(rpc, to) == SOL


async def test_a_delayed_transaction_lands_in_its_slot_and_not_before(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    control.delay_landing(slots=3)
    transaction = await payment(rpc, rich, to)
    sent_at = slots(control)[0]
    await rpc.send_transaction(transaction)
    # Sending it again changes nothing while it is on its way.
    await rpc.send_transaction(transaction)
    control.advance_slots(2)
    assert (await balance(rpc, to), await is_known(rpc, transaction.signatures[0])) == (0, False)
    assert control.status()["faults"]["waiting"] == 1
    # It lands in its slot also when the chain jumps past it.
    control.advance_slots(10)
    assert await balance(rpc, to) == SOL
    status = (await rpc.get_signature_statuses([transaction.signatures[0]])).value[0]
    assert status is not None
    assert status.slot == sent_at + 3
    assert control.status()["faults"]["waiting"] == 0


async def test_a_transaction_delayed_past_its_blockhash_never_lands(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    control.delay_landing(slots=151)
    transaction = await payment(rpc, rich, to)
    await rpc.send_transaction(transaction)
    control.advance_slots(200)
    assert not await is_known(rpc, transaction.signatures[0])
    assert (await balance(rpc, to), await balance(rpc, rich.pubkey())) == (0, 10 * SOL)


async def test_a_lost_confirmation_is_seen_in_accounts_only_until_its_slot(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    control.lose_confirmation(slots=10)
    transaction = await payment(rpc, rich, to)
    signature = transaction.signatures[0]
    await rpc.send_transaction(transaction)
    control.advance_slots(9)
    assert await balance(rpc, to) == SOL
    assert not await is_known(rpc, signature)
    assert (await rpc.get_transaction(signature, "base64", Confirmed, 0)).value is None
    assert (await rpc.get_signatures_for_address(to, commitment=Confirmed)).value == []
    with pytest.raises(RPCException) as refused:
        await rpc.send_transaction(transaction)
    message = refused.value.args[0]
    assert isinstance(message, SendTransactionPreflightFailureMessage)
    assert message.data.err == TransactionErrorFieldless.AlreadyProcessed
    control.advance_slots(1)
    assert await is_known(rpc, signature)
    assert (await rpc.get_transaction(signature, "base64", Confirmed, 0)).value is not None
    assert [e.signature for e in (await rpc.get_signatures_for_address(to, commitment=Confirmed)).value] == [
        signature
    ]
    assert await balance(rpc, to) == SOL


async def test_a_lost_confirmation_reaches_a_signature_subscriber_late(
    still: ChainProcess, rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    control.lose_confirmation(slots=10)
    transaction = await payment(rpc, rich, Keypair().pubkey())
    async with SolanaWsClient(still.endpoint["ws_url"]) as ws:
        await ws.signature_subscribe(signature=transaction.signatures[0], commitment=Confirmed)
        await rpc.send_transaction(transaction)
        control.advance_slots(9)
        await ws.unsubscribe(await ws.slot_subscribe())
        assert not ws._notifications
        control.advance_slots(1)
        notified: Any = await ws.recv()
        assert notified.result.value.err is None


async def test_expired_blockhashes_are_refused_and_new_ones_work(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    latest = (await rpc.get_latest_blockhash(Processed)).value
    late = await payment(rpc, rich, to)
    control.expire_blockhashes()
    assert (await rpc.get_block_height(Processed)).value > latest.last_valid_block_height
    with pytest.raises(RPCException) as refused:
        await rpc.send_transaction(late)
    message = refused.value.args[0]
    assert isinstance(message, SendTransactionPreflightFailureMessage)
    assert message.message == "Transaction simulation failed: Blockhash not found"
    assert message.data.err == TransactionErrorFieldless.BlockhashNotFound
    await rpc.send_transaction(late, TxOpts(skip_preflight=True))
    assert (await balance(rpc, to), await balance(rpc, rich.pubkey())) == (0, 10 * SOL)
    await rpc.send_transaction(await payment(rpc, rich, to))
    assert await balance(rpc, to) == SOL


async def test_held_finality_stays_while_the_chain_goes_on(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    control.advance_slots(LAG)
    processed, _, finalized = slots(control)
    control.hold_finality()
    await rpc.send_transaction(await payment(rpc, rich, to))
    control.advance_slots(100)
    assert slots(control) == [processed + 100, processed + 99, finalized]
    assert (await rpc.get_balance(to, Confirmed)).value == SOL
    assert (await rpc.get_balance(to, Finalized)).value == 0
    assert (await rpc.get_balance(rich.pubkey(), Finalized)).value == 10 * SOL
    control.release_finality()
    assert slots(control) == [processed + 100, processed + 99, processed + 100 - LAG]
    assert (await rpc.get_balance(to, Finalized)).value == SOL


async def test_calls_fail_as_told_and_are_not_done(rpc: AsyncClient, rich: Keypair, control: Control) -> None:
    to = Keypair().pubkey()
    transaction = await payment(rpc, rich, to)
    control.fail_calls("sendTransaction", 1)
    with pytest.raises(RPCException) as failed:
        await rpc.send_transaction(transaction)
    assert failed.value.args[0] == NodeUnhealthyMessage("Node is unhealthy", NodeUnhealthy())
    control.interrupt_calls("sendTransaction", 2, status=429)
    for _ in range(2):
        with pytest.raises(SolanaRpcException):
            await rpc.send_transaction(transaction)
    # Other methods are not meant.
    assert await balance(rpc, to) == 0
    await rpc.send_transaction(transaction)
    assert await balance(rpc, to) == SOL


def test_an_error_has_the_code_asked_for_and_any_method_can_be_meant(
    still: ChainProcess, control: Control
) -> None:
    control.fail_calls("*", 2, code=-32004, message="Block not available for slot 7")
    for method in ("getSlot", "getVersion"):
        error = {"code": -32004, "message": "Block not available for slot 7"}
        assert still.call(method, [])["error"] == error
    assert "result" in still.call("getSlot", [])
    control.interrupt_calls("getSlot", status=503)
    call = {"jsonrpc": "2.0", "id": 1, "method": "getSlot"}
    assert still.post([call, call]).status_code == 503
    assert still.post([call, call]).status_code == 200


def held(still: ChainProcess, key: Pubkey) -> int:
    answer = still.call("getBalance", [str(key), {"commitment": "processed"}])
    return int(answer["result"]["value"])


def test_a_client_that_waits_less_than_the_answer_takes_cannot_know(
    still: ChainProcess, control: Control
) -> None:
    key = Keypair().pubkey()
    body = {"jsonrpc": "2.0", "id": 1, "method": "requestAirdrop", "params": [str(key), SOL]}
    for fault, lamports in ((control.interrupt_calls, 0), (control.slow_calls, SOL)):
        fault("requestAirdrop", seconds=60)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(still.url, json=body, timeout=httpx.Timeout(60, read=0.5))
        deadline = time.monotonic() + 30
        while held(still, key) != lamports:
            assert time.monotonic() < deadline
    control.slow_calls("getSlot", seconds=0.05)
    assert "result" in still.call("getSlot", [])


async def test_subscribing_can_fail_too(still: ChainProcess, control: Control) -> None:
    control.fail_calls("slotSubscribe", message="try later")
    async with SolanaWsClient(still.endpoint["ws_url"]) as ws:
        with pytest.raises(Exception, match="try later"):
            await ws.slot_subscribe()
        await ws.slot_subscribe()


async def test_leaving_the_context_undoes_what_has_not_happened(
    still: ChainProcess, rpc: AsyncClient, rich: Keypair
) -> None:
    delayed, hidden = Keypair().pubkey(), Keypair().pubkey()
    with Control(still.url) as control:
        control.delay_landing(slots=50)
        await rpc.send_transaction(await payment(rpc, rich, delayed))
        control.lose_confirmation(slots=50)
        unseen = await payment(rpc, rich, hidden)
        await rpc.send_transaction(unseen)
        control.drop_sends(5)
        control.fail_calls("getSlot", 5)
        control.hold_finality()
        assert (await balance(rpc, delayed), await is_known(rpc, unseen.signatures[0])) == (0, False)
    with Control(still.url) as control:
        assert control.status()["faults"] == {
            "drops": 0,
            "delays": 0,
            "hidings": 0,
            "calls": {},
            "finality_held_at": None,
            "waiting": 0,
        }
    assert (await balance(rpc, delayed), await is_known(rpc, unseen.signatures[0])) == (SOL, True)
    assert (await rpc.get_slot(Processed)).value > 0


async def test_the_clock_and_the_slots_move_apart_and_stay_moved_across_a_restart(tmp_path: Path) -> None:
    chain = ChainProcess(tmp_path / "chain", *STILL)
    try:
        async with AsyncClient(chain.url) as rpc:
            with Control(chain.url) as control:
                before, first = await clock(rpc), slots(control)[0]
                control.move_clock(86_400)
                # The process takes some seconds of real time at most.
                assert 86_400 <= await clock(rpc) - before < 86_460
                control.advance_slots(1_000)
                assert slots(control)[0] == first + 1_000
                moved = await clock(rpc)
                assert moved - before < 86_460
                times = [(await rpc.get_block_time(slot)).value for slot in (first + 999, first + 1_000)]
        assert times[1] is not None
        assert moved - 60 < times[1] <= moved
        chain.stop()
        chain.start()
        async with AsyncClient(chain.url) as rpc:
            with Control(chain.url) as control:
                assert slots(control)[2] >= first + 1_000
                assert 86_400 <= await clock(rpc) - before < 86_500
                # What time a block had does not change.
                again = [(await rpc.get_block_time(slot)).value for slot in (first + 999, first + 1_000)]
                assert again == times
    finally:
        chain.close()


def test_without_the_option_there_is_no_such_path(chain: ChainProcess) -> None:
    control = Control(chain.url)
    with pytest.raises(ControlError, match="404"):
        control.drop_sends(1)
    control.close()
    assert chain.call("getHealth", [])["result"] == "ok"


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("advance_slots", {}),
        ("advance_slots", {"slots": 0}),
        ("advance_slots", {"slots": True}),
        ("move_clock", {"seconds": 1.5}),
        ("drop_sends", {"sends": -1}),
        ("drop_sends", {"sends": 1, "slots": 1}),
        ("delay_landing", {"slots": 0, "sends": 1}),
        ("fail_calls", {"method": "", "calls": 1, "code": 1, "message": "x"}),
        ("interrupt_calls", {"method": "getSlot", "calls": 1, "status": 200, "seconds": 0}),
        ("slow_calls", {"method": "getSlot", "calls": 1, "seconds": "1"}),
        ("clear", []),
    ],
)
def test_arguments_that_do_not_fit_are_refused_and_nothing_is_set(
    still: ChainProcess, control: Control, action: str, body: object
) -> None:
    before = control.status()
    answer = httpx.post(f"{still.url}/test/{action}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    after = control.status()
    assert (after["slots"], after["faults"]) == (before["slots"], before["faults"])
    assert httpx.post(f"{still.url}/test/nothing").status_code == 404
    assert httpx.post(f"{still.url}/test/{action}", content=b'{"\xff"').status_code == 400
