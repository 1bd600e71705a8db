"""Sending through solana-py's AsyncClient to the real process: landing, refusals, look-ups."""

from typing import Any

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.core import RPCException
from solana.rpc.models import TxOpts
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.errors import SerdeJSONError
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.rpc.errors import RpcCustomErrorFieldless, SendTransactionPreflightFailureMessage
from solders.signature import Signature
from solders.transaction import Transaction, VersionedTransaction
from solders.transaction_status import (
    InstructionErrorCustom,
    TransactionConfirmationStatus,
    TransactionErrorFieldless,
    TransactionErrorInstructionError,
)

from tests.localnet.conftest import SOL, ChainProcess, funded, pay, send, signed

FEE = 5_000


async def balance(client: AsyncClient, address: Pubkey) -> int:
    return (await client.get_balance(address, Processed)).value


async def fresh(
    client: AsyncClient, instructions: list[Instruction], *signers: Keypair
) -> VersionedTransaction:
    return signed(instructions, (await client.get_latest_blockhash(Processed)).value.blockhash, *signers)


async def refusal(
    client: AsyncClient, transaction: VersionedTransaction
) -> SendTransactionPreflightFailureMessage:
    with pytest.raises(RPCException) as refused:
        await client.send_transaction(transaction)
    message = refused.value.args[0]
    assert isinstance(message, SendTransactionPreflightFailureMessage)
    return message


async def test_a_transfer_moves_lamports_and_costs_its_fee(client: AsyncClient, payer: Keypair) -> None:
    to = Keypair().pubkey()
    await send(client, [pay(payer, to, SOL)], payer)
    assert await balance(client, to) == SOL
    assert await balance(client, payer.pubkey()) == 9 * SOL - FEE


async def test_a_legacy_transaction_lands(client: AsyncClient, payer: Keypair) -> None:
    to = Keypair().pubkey()
    blockhash = (await client.get_latest_blockhash(Processed)).value.blockhash
    message = Message.new_with_blockhash([pay(payer, to, SOL)], payer.pubkey(), blockhash)
    raw = bytes(Transaction([payer], message, blockhash))
    signature = (await client.send_raw_transaction(raw)).value
    await client.confirm_transaction(signature, Confirmed, sleep_seconds=0.01)
    found = (await client.get_transaction(signature, "json", Confirmed)).value
    assert found is not None
    assert await balance(client, to) == SOL


async def test_equal_airdrops_both_arrive(client: AsyncClient) -> None:
    address = Keypair().pubkey()
    first = (await client.request_airdrop(address, SOL)).value
    second = (await client.request_airdrop(address, SOL)).value
    assert first != second
    assert await balance(client, address) == 2 * SOL


async def test_confirm_transaction_waits_for_finality(client: AsyncClient, payer: Keypair) -> None:
    to = Keypair().pubkey()
    latest = (await client.get_latest_blockhash(Processed)).value
    transaction = signed([pay(payer, to, SOL)], latest.blockhash, payer)
    signature = (await client.send_transaction(transaction)).value
    answer = await client.confirm_transaction(
        signature, Finalized, sleep_seconds=0.01, last_valid_block_height=latest.last_valid_block_height
    )
    status = answer.value[0]
    assert status is not None
    assert status.confirmation_status == TransactionConfirmationStatus.Finalized
    assert status.confirmations is None
    assert (await client.get_balance(to, Finalized)).value == SOL


async def test_a_duplicate_is_refused_and_moves_nothing(client: AsyncClient, payer: Keypair) -> None:
    to = Keypair().pubkey()
    transaction = await send(client, [pay(payer, to, SOL)], payer)
    message = await refusal(client, transaction)
    assert message.data.err == TransactionErrorFieldless.AlreadyProcessed
    again = await client.send_transaction(transaction, TxOpts(skip_preflight=True))
    assert again.value == transaction.signatures[0]
    assert await balance(client, to) == SOL
    assert await balance(client, payer.pubkey()) == 9 * SOL - FEE


async def test_preflight_refuses_a_failing_transaction_with_its_logs(
    client: AsyncClient, payer: Keypair
) -> None:
    transaction = await fresh(client, [pay(payer, Keypair().pubkey(), 100 * SOL)], payer)
    message = await refusal(client, transaction)
    assert message.message == (
        "Transaction simulation failed: Error processing Instruction 0: custom program error: 0x1"
    )
    assert message.data.err == TransactionErrorInstructionError(0, InstructionErrorCustom(1))
    assert message.data.logs is not None
    assert (
        message.data.logs[-1] == "Program 11111111111111111111111111111111 failed: custom program error: 0x1"
    )
    assert (await client.get_signature_statuses([transaction.signatures[0]])).value == [None]
    assert await balance(client, payer.pubkey()) == 10 * SOL


async def test_without_preflight_a_failing_transaction_lands_and_pays_its_fee(
    client: AsyncClient, payer: Keypair
) -> None:
    transaction = await fresh(client, [pay(payer, Keypair().pubkey(), 100 * SOL)], payer)
    signature = (await client.send_transaction(transaction, TxOpts(skip_preflight=True))).value
    await client.confirm_transaction(signature, Confirmed, sleep_seconds=0.01)
    status = (await client.get_signature_statuses([signature])).value[0]
    assert status is not None
    assert status.err == TransactionErrorInstructionError(0, InstructionErrorCustom(1))
    assert await balance(client, payer.pubkey()) == 10 * SOL - FEE


async def test_a_payer_without_funds_is_refused_or_dropped(client: AsyncClient) -> None:
    poor = Keypair()
    transaction = await fresh(client, [pay(poor, Keypair().pubkey(), 1)], poor)
    assert (await refusal(client, transaction)).data.err == TransactionErrorFieldless.AccountNotFound
    signature = (await client.send_transaction(transaction, TxOpts(skip_preflight=True))).value
    assert (await client.get_signature_statuses([signature], search_transaction_history=True)).value == [None]


async def test_a_forged_signature_is_refused(client: AsyncClient, payer: Keypair) -> None:
    transaction = await fresh(client, [pay(payer, Keypair().pubkey(), SOL)], payer)
    forged = VersionedTransaction.populate(transaction.message, [Keypair().sign_message(b"something else")])
    with pytest.raises(RPCException) as refused:
        await client.send_transaction(forged)
    assert refused.value.args[0] == RpcCustomErrorFieldless.TransactionSignatureVerificationFailure
    await client.send_transaction(forged, TxOpts(skip_preflight=True))
    assert await balance(client, payer.pubkey()) == 10 * SOL


async def test_simulation_reports_and_changes_nothing(client: AsyncClient, payer: Keypair) -> None:
    to = Keypair().pubkey()
    transaction = await fresh(client, [pay(payer, to, SOL)], payer)
    simulated = (await client.simulate_transaction(transaction, sig_verify=True)).value
    assert simulated.err is None
    assert simulated.units_consumed == 150
    assert await balance(client, to) == 0
    unsigned = VersionedTransaction.populate(transaction.message, [Signature.default()])
    assert (await client.simulate_transaction(unsigned)).value.err is None
    with pytest.raises(RPCException):
        await client.simulate_transaction(unsigned, sig_verify=True)


async def test_the_fee_asked_for_is_the_fee_taken(client: AsyncClient, payer: Keypair) -> None:
    instructions = [set_compute_unit_limit(50_000), set_compute_unit_price(123_457)]
    blockhash = (await client.get_latest_blockhash(Processed)).value.blockhash
    transaction = signed([*instructions, pay(payer, Keypair().pubkey(), SOL)], blockhash, payer)
    assert isinstance(transaction.message, MessageV0)
    quoted = (await client.get_fee_for_message(transaction.message)).value
    assert quoted == FEE + 6_173
    signature = (await client.send_transaction(transaction)).value
    await client.confirm_transaction(signature, Confirmed, sleep_seconds=0.01)
    assert await balance(client, payer.pubkey()) == 9 * SOL - quoted


@pytest.mark.parametrize("encoding", ["json", "jsonParsed", "base58", "base64"])
async def test_get_transaction_in_every_encoding(client: AsyncClient, payer: Keypair, encoding: str) -> None:
    to = Keypair().pubkey()
    transaction = await send(client, [pay(payer, to, SOL)], payer)
    found = (
        await client.get_transaction(
            transaction.signatures[0], encoding, Confirmed, max_supported_transaction_version=0
        )
    ).value
    assert found is not None
    meta = found.transaction.meta
    assert meta is not None
    assert (meta.err, meta.fee, meta.compute_units_consumed) == (None, FEE, 150)
    assert meta.pre_balances[:2] == [10 * SOL, 0]
    assert meta.post_balances[:2] == [9 * SOL - FEE, SOL]
    assert meta.log_messages == [
        "Program 11111111111111111111111111111111 invoke [1]",
        "Program 11111111111111111111111111111111 success",
    ]
    if encoding.startswith("base"):
        assert found.transaction.transaction == transaction


async def test_a_versioned_transaction_is_refused_to_clients_that_do_not_know_versions(
    client: AsyncClient, payer: Keypair
) -> None:
    transaction = await send(client, [pay(payer, Keypair().pubkey(), SOL)], payer)
    with pytest.raises((RPCException, SerdeJSONError), match=r"(?i)version"):
        await client.get_transaction(transaction.signatures[0], "json", Confirmed)


async def test_signatures_for_address_are_newest_first_and_can_be_paged(client: AsyncClient) -> None:
    payer = await funded(client, 10 * SOL)
    to = Keypair().pubkey()
    sent = [(await send(client, [pay(payer, to, SOL + n)], payer)).signatures[0] for n in range(4)]

    async def listed(**bounds: Any) -> list[Signature]:
        entries = (await client.get_signatures_for_address(to, commitment=Confirmed, **bounds)).value
        return [entry.signature for entry in entries]

    assert await listed() == sent[::-1]
    assert await listed(limit=2) == [sent[3], sent[2]]
    assert await listed(before=sent[2]) == [sent[1], sent[0]]
    assert await listed(until=sent[1]) == [sent[3], sent[2]]
    assert await listed(before=sent[3], until=sent[0], limit=1) == [sent[2]]


async def test_what_was_answered_survives_a_kill(own_chain: ChainProcess) -> None:
    to = Keypair().pubkey()
    async with AsyncClient(own_chain.url, commitment=Confirmed) as client:
        payer = await funded(client, 10 * SOL)
        transaction = signed(
            [pay(payer, to, SOL)], (await client.get_latest_blockhash(Processed)).value.blockhash, payer
        )
        await client.send_transaction(transaction)
        genesis = (await client.get_genesis_hash()).value
        slot = (await client.get_slot(Processed)).value
    own_chain.process.kill()
    own_chain.process.communicate()
    own_chain.start()
    async with AsyncClient(own_chain.url, commitment=Finalized) as client:
        assert (await client.get_genesis_hash()).value == genesis
        assert (await client.get_slot()).value > slot
        assert (await client.get_balance(to)).value == SOL
        status = (await client.get_signature_statuses([transaction.signatures[0]])).value[0]
        assert status is not None
        assert status.confirmation_status == TransactionConfirmationStatus.Finalized
        assert (await refusal(client, transaction)).data.err == TransactionErrorFieldless.AlreadyProcessed
        assert (await client.get_balance(to)).value == SOL
