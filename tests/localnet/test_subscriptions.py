"""solana-py's WebSocket client against the real process. Slots last an hour: the chain moves when a test says so."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Commitment, Confirmed, Finalized, Processed
from solana.rpc.jsonrpc import SolanaJsonRpcError
from solana.rpc.models import DataSliceOpts, MemcmpOpts
from solana.rpc.websocket_api import SolanaWsClient
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.rpc.config import (
    RpcBlockSubscribeFilterMentions,
    RpcTransactionLogsFilter,
    RpcTransactionLogsFilterMentions,
)
from solders.signature import Signature
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import CreateAccountParams, create_account
from solders.transaction_status import InstructionErrorCustom, TransactionErrorInstructionError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from contracts.localnet.control import Control
from contracts.localnet.feed import QUEUE_MESSAGES_MAX
from contracts.localnet.websocket import SUBSCRIPTIONS_MAX
from tests.localnet.conftest import FINALIZED_LAG as LAG
from tests.localnet.conftest import SOL, ChainProcess, pay, send_now, signed

LEVELS = [(Processed, 0), (Confirmed, 1), (Finalized, LAG)]
by_level = pytest.mark.parametrize(("level", "slots"), LEVELS, ids=["processed", "confirmed", "finalized"])


@pytest.fixture
async def ws(still: ChainProcess) -> AsyncIterator[SolanaWsClient]:
    async with SolanaWsClient(still.endpoint["ws_url"]) as opened:
        yield opened


class Raw:
    """A WebSocket connection without a client in between."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def __call__(self, method: str, *params: Any) -> Any:
        return await self.text(json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}))

    async def text(self, text: str) -> Any:
        await self._connection.send(text)
        return await self.next()

    async def next(self) -> Any:
        return json.loads(await asyncio.wait_for(self._connection.recv(), 60))


@asynccontextmanager
async def raw_connection(chain: ChainProcess) -> AsyncIterator[Raw]:
    async with connect(chain.endpoint["ws_url"]) as connection:
        yield Raw(connection)


async def told(ws: SolanaWsClient) -> Any:
    """The next notification."""
    return await asyncio.wait_for(ws.recv(), 60)


async def nothing_more(ws: SolanaWsClient) -> None:
    """Nothing was told before an answer to what is asked now: both come in order on one connection."""
    await ws.unsubscribe(await ws.slot_subscribe())
    assert not ws._notifications


@by_level
async def test_an_account_is_told_of_when_its_change_reaches_the_commitment(
    ws: SolanaWsClient, rpc: AsyncClient, rich: Keypair, control: Control, level: Commitment, slots: int
) -> None:
    to = Keypair().pubkey()
    subscription = await ws.account_subscribe(pubkey=to, commitment=level, encoding="base64")
    slot = control.status()["slots"]["processed"]
    await send_now(rpc, [pay(rich, to, SOL)], rich)
    if slots > 1:
        control.advance_slots(slots - 1)
    if slots:
        await nothing_more(ws)
        control.advance_slots(1)
    notified = await told(ws)
    assert notified.subscription == subscription.subscription_id
    assert notified.result.context.slot == slot
    assert (notified.result.value.lamports, notified.result.value.owner) == (SOL, SYSTEM_PROGRAM)
    await nothing_more(ws)


async def test_a_settled_view_is_told_of_an_account_once_a_slot_in_its_last_state(
    ws: SolanaWsClient, rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    await ws.account_subscribe(pubkey=to, commitment=Confirmed, encoding="base64")
    slot = control.status()["slots"]["processed"]
    for lamports in (SOL, SOL + 1, SOL + 2):
        await send_now(rpc, [pay(rich, to, lamports)], rich)
    control.advance_slots(1)
    await send_now(rpc, [pay(rich, to, SOL + 3)], rich)
    control.advance_slots(10)
    seen = [
        (entry.result.context.slot, entry.result.value.lamports) for entry in [await told(ws), await told(ws)]
    ]
    assert seen == [(slot, 3 * SOL + 3), (slot + 1, 4 * SOL + 6)]
    await nothing_more(ws)


async def test_a_closed_account_is_told_of_as_empty(
    ws: SolanaWsClient, rpc: AsyncClient, rich: Keypair
) -> None:
    await ws.account_subscribe(pubkey=rich.pubkey(), commitment=Processed)
    await send_now(rpc, [pay(rich, Keypair().pubkey(), 10 * SOL - 5_000)], rich)
    assert (await told(ws)).result.value.lamports == 0


async def test_a_change_made_before_subscribing_is_told_of_when_it_settles_later(
    ws: SolanaWsClient, rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    await send_now(rpc, [pay(rich, to, SOL)], rich)
    await ws.account_subscribe(pubkey=to, commitment=Processed, encoding="base64")
    settled = await ws.account_subscribe(pubkey=to, commitment=Finalized, encoding="base64")
    control.advance_slots(LAG)
    assert (await told(ws)).subscription == settled.subscription_id
    await nothing_more(ws)


@by_level
async def test_accounts_of_a_program_are_told_of_when_they_pass_every_filter(
    ws: SolanaWsClient, rpc: AsyncClient, rich: Keypair, control: Control, level: Commitment, slots: int
) -> None:
    program = Keypair().pubkey()
    rent = (await rpc.get_minimum_balance_for_rent_exemption(12)).value
    wide = await ws.program_subscribe(program_id=program, commitment=level, encoding="base64")
    narrow = await ws.program_subscribe(
        program_id=program,
        commitment=level,
        encoding="base64",
        data_slice=DataSliceOpts(offset=0, length=4),
        filters=[12, MemcmpOpts(offset=8, bytes="1111")],
    )
    none = [[13], [MemcmpOpts(offset=0, bytes="2")]]
    for filters in none:
        await ws.program_subscribe(program_id=program, commitment=level, encoding="base64", filters=filters)
    account = Keypair()
    create = create_account(
        CreateAccountParams(
            from_pubkey=rich.pubkey(), to_pubkey=account.pubkey(), lamports=rent, space=12, owner=program
        )
    )
    await send_now(rpc, [create], rich, account)
    if slots:
        control.advance_slots(slots)
    seen = {}
    for _ in range(2):
        notified = await told(ws)
        assert notified.result.value.pubkey == account.pubkey()
        seen[notified.subscription] = notified.result.value.account.data
    assert seen == {wide.subscription_id: bytes(12), narrow.subscription_id: bytes(4)}
    await nothing_more(ws)


@by_level
async def test_logs_are_told_of_failed_transactions_too_and_filtered_by_mention(
    ws: SolanaWsClient, rpc: AsyncClient, rich: Keypair, control: Control, level: Commitment, slots: int
) -> None:
    to = Keypair().pubkey()
    all_of_them = await ws.logs_subscribe(filter_=RpcTransactionLogsFilter.All, commitment=level)
    mentions = await ws.logs_subscribe(filter_=RpcTransactionLogsFilterMentions(to), commitment=level)
    good = (await send_now(rpc, [pay(rich, Keypair().pubkey(), SOL)], rich)).signatures[0]
    bad = (await send_now(rpc, [pay(rich, to, 100 * SOL)], rich)).signatures[0]
    if slots:
        await nothing_more(ws)
        control.advance_slots(slots)
    seen: dict[int, list[Any]] = {all_of_them.subscription_id: [], mentions.subscription_id: []}
    for _ in range(3):
        notified = await told(ws)
        value = notified.result.value
        seen[notified.subscription].append((value.signature, value.err, value.logs[-1]))
    failed = TransactionErrorInstructionError(0, InstructionErrorCustom(1))
    program = "Program 11111111111111111111111111111111"
    last = (bad, failed, f"{program} failed: custom program error: 0x1")
    assert seen[all_of_them.subscription_id] == [(good, None, f"{program} success"), last]
    assert seen[mentions.subscription_id] == [last]
    await nothing_more(ws)


@by_level
async def test_a_signature_is_told_of_once_and_its_subscription_ends(
    ws: SolanaWsClient, rpc: AsyncClient, rich: Keypair, control: Control, level: Commitment, slots: int
) -> None:
    blockhash = (await rpc.get_latest_blockhash(Processed)).value.blockhash
    transaction = signed([pay(rich, Keypair().pubkey(), SOL)], blockhash, rich)
    signature = transaction.signatures[0]
    subscription = await ws.signature_subscribe(signature=signature, commitment=level)
    await nothing_more(ws)
    slot = control.status()["slots"]["processed"]
    await rpc.send_transaction(transaction)
    if slots:
        control.advance_slots(slots)
    notified = await told(ws)
    assert notified.subscription == subscription.subscription_id
    assert (notified.result.context.slot, notified.result.value.err) == (slot, None)
    control.advance_slots(LAG)
    await nothing_more(ws)
    # Asked for after the fact, it is told at once.
    await ws.signature_subscribe(signature=signature, commitment=level)
    assert (await told(ws)).result.context.slot == slot


async def test_a_failed_transaction_is_told_of_with_its_error(
    still: ChainProcess, rpc: AsyncClient, rich: Keypair
) -> None:
    signature = (await send_now(rpc, [pay(rich, Keypair().pubkey(), 100 * SOL)], rich)).signatures[0]
    # Over a bare connection: solders 0.29 cannot parse a program's own error in this notification.
    async with raw_connection(still) as ask:
        await ask("signatureSubscribe", str(signature), {"commitment": "processed"})
        notified = await ask.next()
    assert notified["method"] == "signatureNotification"
    assert notified["params"]["result"]["value"] == {"err": {"InstructionError": [0, {"Custom": 1}]}}


async def test_every_slot_and_every_root_is_told_of(ws: SolanaWsClient, control: Control) -> None:
    slots, roots = await ws.slot_subscribe(), await ws.root_subscribe()
    first = control.status()["slots"]["processed"] + 1
    control.advance_slots(3)
    seen: dict[int, list[Any]] = {slots.subscription_id: [], roots.subscription_id: []}
    for _ in range(6):
        notified = await told(ws)
        seen[notified.subscription].append(notified.result)
    opened = [(info.slot, info.parent, info.root) for info in seen[slots.subscription_id]]
    root = first + 2 - LAG
    assert opened == [(slot, slot - 1, root) for slot in range(first, first + 3)]
    assert seen[roots.subscription_id] == [root - 2, root - 1, root]


async def test_blocks_are_told_of_whole_or_with_what_mentions_an_address(
    ws: SolanaWsClient, rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    options: dict[str, Any] = {
        "commitment": Confirmed,
        "encoding": "base64",
        "max_supported_transaction_version": 0,
    }
    whole = await ws.block_subscribe(**options)
    part = await ws.block_subscribe(filter_=RpcBlockSubscribeFilterMentions(to), **options)
    slot = control.status()["slots"]["processed"]
    sent = [
        (await send_now(rpc, [pay(rich, address, SOL)], rich)).signatures[0]
        for address in (Keypair().pubkey(), to)
    ]
    control.advance_slots(2)
    seen: dict[int, list[Any]] = {whole.subscription_id: [], part.subscription_id: []}
    for _ in range(3):
        notified = await told(ws)
        block = notified.result.value.block
        signatures = [entry.transaction.signatures[0] for entry in block.transactions]
        seen[notified.subscription].append((notified.result.value.slot, signatures))
    assert seen[whole.subscription_id] == [(slot, sent), (slot + 1, [])]
    assert seen[part.subscription_id] == [(slot, [sent[1]])]


async def test_after_unsubscribing_nothing_is_told(
    ws: SolanaWsClient, rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    subscriptions = [
        await ws.account_subscribe(pubkey=rich.pubkey(), commitment=Processed),
        await ws.program_subscribe(program_id=SYSTEM_PROGRAM, commitment=Processed, encoding="base64"),
        await ws.logs_subscribe(commitment=Processed),
        await ws.signature_subscribe(signature=Signature.default(), commitment=Processed),
        await ws.slot_subscribe(),
        await ws.root_subscribe(),
        await ws.block_subscribe(commitment=Confirmed),
    ]
    assert len({entry.subscription_id for entry in subscriptions}) == len(subscriptions)
    for subscription in subscriptions:
        await ws.unsubscribe(subscription)
    await send_now(rpc, [pay(rich, Keypair().pubkey(), SOL)], rich)
    control.advance_slots(10)
    await nothing_more(ws)


async def test_what_is_not_offered_or_does_not_fit_is_refused_and_the_connection_goes_on(
    ws: SolanaWsClient, still: ChainProcess
) -> None:
    for ask in (ws.vote_subscribe(), ws.slots_updates_subscribe()):
        with pytest.raises(SolanaJsonRpcError, match="Method not found"):
            await ask
    with pytest.raises(SolanaJsonRpcError, match="below `confirmed`"):
        await ws.block_subscribe(commitment=Processed)
    with pytest.raises(SolanaJsonRpcError, match="enableReceivedNotification"):
        await ws.signature_subscribe(signature=Signature.default(), enable_received_notification=True)
    key = str(Pubkey.default())
    refused: list[tuple[str, list[Any], int]] = [
        ("accountSubscribe", [], -32602),
        ("accountSubscribe", ["x"], -32602),
        ("accountSubscribe", [key, {"commitment": "soon"}], -32602),
        ("programSubscribe", [key, {"filters": [{"size": 1}]}], -32602),
        ("logsSubscribe", ["some"], -32602),
        ("logsSubscribe", [{"mentions": [key, key]}], -32602),
        ("signatureSubscribe", [key], -32602),
        ("slotSubscribe", [1], -32602),
        ("blockSubscribe", [{}], -32602),
        ("slotUnsubscribe", [10**9], -32602),
        ("getSlot", [], -32601),
    ]
    async with raw_connection(still) as ask:
        for method, params, code in refused:
            answer = await ask(method, *params)
            assert (answer["id"], answer["error"]["code"]) == (7, code), method
        assert (await ask.text("{"))["error"]["code"] == -32700
        assert (await ask.text("[]"))["error"]["code"] == -32600
        number = (await ask("slotSubscribe"))["result"]
        # A number names a subscription of its own kind only.
        assert (await ask("rootUnsubscribe", number))["error"]["code"] == -32602
        assert (await ask("slotUnsubscribe", number))["result"] is True
        assert (await ask("slotUnsubscribe", number))["error"]["code"] == -32602
    await nothing_more(ws)


async def test_data_too_long_for_base58_is_said_so(
    still: ChainProcess, rpc: AsyncClient, rich: Keypair
) -> None:
    account = Keypair()
    rent = (await rpc.get_minimum_balance_for_rent_exemption(200)).value
    create = create_account(
        CreateAccountParams(
            from_pubkey=rich.pubkey(),
            to_pubkey=account.pubkey(),
            lamports=rent,
            space=200,
            owner=SYSTEM_PROGRAM,
        )
    )
    async with raw_connection(still) as ask:
        await ask("accountSubscribe", str(account.pubkey()), {"commitment": "processed"})
        await send_now(rpc, [create], rich, account)
        value = (await ask.next())["params"]["result"]["value"]
        assert (value["lamports"], value["data"]) == (rent, "error: data too large for bs58 encoding")
        assert (await ask("rootSubscribe"))["result"]


async def test_subscriptions_of_one_connection_are_limited(still: ChainProcess) -> None:
    async with connect(still.endpoint["ws_url"], max_queue=None) as raw:
        for number in range(SUBSCRIPTIONS_MAX + 1):
            await raw.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "rootSubscribe"}))
        answers = [json.loads(await raw.recv()) for _ in range(SUBSCRIPTIONS_MAX + 1)]
    assert [("result" in answer) for answer in answers] == [True] * SUBSCRIPTIONS_MAX + [False]
    assert "limit reached" in answers[-1]["error"]["message"]


async def test_a_subscriber_that_does_not_read_is_cut_off_and_others_are_not(
    ws: SolanaWsClient, still: ChainProcess, control: Control
) -> None:
    roots = await ws.root_subscribe()
    async with connect(still.endpoint["ws_url"], max_queue=1) as slow:
        for number in range(100):
            await slow.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "slotSubscribe"}))
        control.advance_slots(QUEUE_MESSAGES_MAX // 100 + 1)
        with pytest.raises(ConnectionClosed) as closed:
            await read_to_the_end(slow)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013
    assert (await told(ws)).subscription == roots.subscription_id


async def read_to_the_end(connection: ClientConnection) -> None:
    while True:
        await connection.recv()


async def test_a_lost_connection_is_noticed(ws: SolanaWsClient, control: Control) -> None:
    await ws.slot_subscribe()
    control.disconnect()
    with pytest.raises(ConnectionClosed):
        await told(ws)


async def test_other_paths_refuse_the_upgrade(still: ChainProcess) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        await connect(f"{still.endpoint['ws_url']}/other")


async def test_slots_are_told_of_while_nobody_asks_anything(chain: ChainProcess) -> None:
    async with SolanaWsClient(chain.endpoint["ws_url"]) as ws:
        await ws.slot_subscribe()
        slots = [(await told(ws)).result.slot for _ in range(5)]
    assert slots == list(range(slots[0], slots[0] + 5))


async def test_a_second_port_serves_the_same(tmp_path: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    chain = ChainProcess(tmp_path / "chain", "--ws-port", str(port))
    try:
        async with SolanaWsClient(f"ws://127.0.0.1:{port}") as ws:
            await ws.root_subscribe()
            assert isinstance((await told(ws)).result, int)
    finally:
        chain.close()
