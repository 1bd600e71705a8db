"""Reading accounts and SPL tokens through solana-py's AsyncClient."""

import struct
from typing import Any

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.core import RPCException
from solana.rpc.models import DataSliceOpts, MemcmpOpts, TokenAccountOpts
from solders.account_decoder import ParsedAccount
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import CreateAccountParams, create_account

from tests.localnet.conftest import SOL, ChainProcess, pay, send

TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
ATA = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
MINT_BYTES, ACCOUNT_BYTES = 82, 165


def ata_of(owner: Pubkey, mint: Pubkey, program: Pubkey) -> Pubkey:
    return Pubkey.find_program_address([bytes(owner), bytes(program), bytes(mint)], ATA)[0]


def create_ata(payer: Pubkey, owner: Pubkey, mint: Pubkey, program: Pubkey) -> Instruction:
    writable = [AccountMeta(payer, True, True), AccountMeta(ata_of(owner, mint, program), False, True)]
    readonly = [AccountMeta(key, False, False) for key in (owner, mint, SYSTEM_PROGRAM, program)]
    return Instruction(ATA, b"\x01", writable + readonly)


async def create_mint(client: AsyncClient, payer: Keypair, decimals: int, program: Pubkey = TOKEN) -> Pubkey:
    mint = Keypair()
    rent = (await client.get_minimum_balance_for_rent_exemption(MINT_BYTES)).value
    create = create_account(
        CreateAccountParams(
            from_pubkey=payer.pubkey(),
            to_pubkey=mint.pubkey(),
            lamports=rent,
            space=MINT_BYTES,
            owner=program,
        )
    )
    # InitializeMint2: decimals, authority, no freeze authority.
    data = bytes([20, decimals]) + bytes(payer.pubkey()) + b"\x00"
    await send(
        client, [create, Instruction(program, data, [AccountMeta(mint.pubkey(), False, True)])], payer, mint
    )
    return mint.pubkey()


async def mint_to(
    client: AsyncClient, payer: Keypair, mint: Pubkey, owner: Pubkey, amount: int, program: Pubkey
) -> Pubkey:
    account = ata_of(owner, mint, program)
    metas = [
        AccountMeta(mint, False, True),
        AccountMeta(account, False, True),
        AccountMeta(payer.pubkey(), True, False),
    ]
    issue = Instruction(program, struct.pack("<BQ", 7, amount), metas)
    await send(client, [create_ata(payer.pubkey(), owner, mint, program), issue], payer)
    return account


@pytest.mark.parametrize("program", [TOKEN, TOKEN_2022], ids=["token", "token-2022"])
async def test_minting_shows_in_balance_supply_and_owner_lists(
    client: AsyncClient, payer: Keypair, program: Pubkey
) -> None:
    mint = await create_mint(client, payer, 6, program)
    owner = Keypair().pubkey()
    account = await mint_to(client, payer, mint, owner, 1_234_500, program)
    balance = (await client.get_token_account_balance(account, Confirmed)).value
    assert (balance.amount, balance.decimals, balance.ui_amount_string) == ("1234500", 6, "1.2345")
    assert (await client.get_token_supply(mint, Confirmed)).value.amount == "1234500"
    for selector in (TokenAccountOpts(mint=mint), TokenAccountOpts(program_id=program)):
        listed = (await client.get_token_accounts_by_owner(owner, selector, Confirmed)).value
        assert [entry.pubkey for entry in listed] == [account]
        parsed = (await client.get_token_accounts_by_owner_json_parsed(owner, selector, Confirmed)).value
        info: Any = parsed[0].account.data.parsed
        assert info["info"]["owner"] == str(owner)
        assert info["info"]["tokenAmount"]["amount"] == "1234500"
    assert (
        await client.get_token_accounts_by_owner(Keypair().pubkey(), TokenAccountOpts(mint=mint))
    ).value == []


async def test_token_balances_are_part_of_the_transaction(client: AsyncClient, payer: Keypair) -> None:
    mint = await create_mint(client, payer, 6)
    account = await mint_to(client, payer, mint, payer.pubkey(), 5, TOKEN)
    entry = (await client.get_signatures_for_address(account, commitment=Confirmed)).value[0]
    found = (
        await client.get_transaction(entry.signature, "json", Confirmed, max_supported_transaction_version=0)
    ).value
    assert found is not None
    meta = found.transaction.meta
    assert meta is not None
    assert meta.pre_token_balances == []
    assert meta.post_token_balances is not None
    assert [(held.mint, held.owner, held.ui_token_amount.amount) for held in meta.post_token_balances] == [
        (mint, payer.pubkey(), "5")
    ]
    # Creating the account calls the token and system programs from the instruction at index 0.
    assert meta.inner_instructions is not None
    assert [group.index for group in meta.inner_instructions] == [0]
    assert len(meta.inner_instructions[0].instructions) == 4


async def test_program_accounts_are_filtered(client: AsyncClient, payer: Keypair) -> None:
    one, two = await create_mint(client, payer, 6), await create_mint(client, payer, 6)
    owner = Keypair().pubkey()
    held_one = await mint_to(client, payer, one, owner, 1, TOKEN)
    held_two = await mint_to(client, payer, two, owner, 2, TOKEN)

    async def found(*filters: int | MemcmpOpts) -> set[Pubkey]:
        answer = await client.get_program_accounts(TOKEN, Confirmed, encoding="base64", filters=filters)
        return {entry.pubkey for entry in answer.value}

    # Other tests of this file leave accounts on the same chain.
    mine = {one, two, held_one, held_two}
    assert await found() & mine == mine
    assert await found(MINT_BYTES) & mine == {one, two}
    assert await found(ACCOUNT_BYTES) & mine == {held_one, held_two}
    assert await found(MemcmpOpts(offset=0, bytes=str(one))) == {held_one}
    assert await found(ACCOUNT_BYTES, MemcmpOpts(offset=32, bytes=str(owner))) == {held_one, held_two}
    assert await found(MINT_BYTES, MemcmpOpts(offset=32, bytes=str(owner))) == set()
    sliced = await client.get_program_accounts(
        TOKEN,
        Confirmed,
        encoding="base64",
        data_slice=DataSliceOpts(offset=64, length=8),
        filters=[ACCOUNT_BYTES],
    )
    read = {entry.pubkey: entry.account.data for entry in sliced.value}
    amounts = {address: int.from_bytes(read[address], "little") for address in (held_one, held_two)}
    assert amounts == {held_one: 1, held_two: 2}


async def test_program_accounts_come_with_the_slot_they_were_read_at(
    chain: ChainProcess, client: AsyncClient, payer: Keypair
) -> None:
    mint = await create_mint(client, payer, 6)
    body = {"encoding": "base64", "commitment": "finalized", "withContext": True}
    while True:
        raw = chain.call("getProgramAccounts", [str(TOKEN), body])
        slot = raw["result"]["context"]["slot"]
        keys = [entry["pubkey"] for entry in raw["result"]["value"]]
        if str(mint) in keys:
            break
    status = (await client.get_signatures_for_address(mint, commitment=Confirmed)).value[0]
    assert slot >= status.slot


async def test_multiple_accounts_keep_their_order_and_gaps(client: AsyncClient, payer: Keypair) -> None:
    nobody, other = Keypair().pubkey(), Keypair().pubkey()
    await send(client, [pay(payer, other, SOL)], payer)
    values = (await client.get_multiple_accounts([other, nobody, payer.pubkey()], Confirmed)).value
    assert [value.lamports if value else None for value in values] == [SOL, None, 9 * SOL - 5_000]


async def test_parsed_accounts(client: AsyncClient, payer: Keypair) -> None:
    mint = await create_mint(client, payer, 9)
    parsed = (await client.get_account_info_json_parsed(mint, Confirmed)).value
    assert parsed is not None
    assert isinstance(parsed.data, ParsedAccount)
    content: Any = parsed.data.parsed
    assert content["info"] == {
        "decimals": 9,
        "freezeAuthority": None,
        "isInitialized": True,
        "mintAuthority": str(payer.pubkey()),
        "supply": "0",
    }
    plain = (await client.get_account_info_json_parsed(payer.pubkey(), Processed)).value
    assert plain is not None
    assert plain.data == b""


async def test_a_view_older_than_asked_for_is_refused(chain: ChainProcess, client: AsyncClient) -> None:
    slot = (await client.get_slot(Finalized)).value
    answer = chain.call("getSlot", [{"commitment": "finalized", "minContextSlot": slot + 1_000}])
    assert answer["error"]["code"] == -32016
    assert answer["error"]["data"]["contextSlot"] >= slot


async def test_tokens_of_what_is_no_token_account_are_refused(client: AsyncClient, payer: Keypair) -> None:
    with pytest.raises(RPCException, match="not a Token account"):
        await client.get_token_account_balance(payer.pubkey(), Confirmed)
    with pytest.raises(RPCException, match="not a Token mint"):
        await client.get_token_supply(payer.pubkey(), Confirmed)
