"""Address lookup tables as on a cluster: made from a recent slot, used one slot later, closed when nobody can use them.

The chain stands still, so that "the same slot" and "one slot later" are exact.
"""

from pathlib import Path

from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Processed
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.transaction import VersionedTransaction

from contracts.localnet.control import Control
from contracts.localnet.slots import SLOT_HASHES_MAX
from tests.localnet.conftest import SOL, STILL, ChainProcess, pay, send_now

LOOKUP = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")
HEADER_BYTES = 56


class Table:
    """One lookup table and the instructions of its authority."""

    def __init__(self, authority: Pubkey, slot: int) -> None:
        self.authority, self.slot = authority, slot
        self.address, self.bump = Pubkey.find_program_address(
            [bytes(authority), slot.to_bytes(8, "little")], LOOKUP
        )

    def create(self) -> Instruction:
        data = u32(0) + self.slot.to_bytes(8, "little") + bytes([self.bump])
        return Instruction(LOOKUP, data, self._metas(payer=True))

    def extend(self, *addresses: Pubkey) -> Instruction:
        data = u32(2) + len(addresses).to_bytes(8, "little") + b"".join(map(bytes, addresses))
        return Instruction(LOOKUP, data, self._metas(payer=True))

    def deactivate(self) -> Instruction:
        return Instruction(LOOKUP, u32(3), self._metas())

    def close(self) -> Instruction:
        return Instruction(LOOKUP, u32(4), [*self._metas(), AccountMeta(self.authority, False, True)])

    def _metas(self, *, payer: bool = False) -> list[AccountMeta]:
        metas = [AccountMeta(self.address, False, True), AccountMeta(self.authority, True, False)]
        if payer:
            metas += [AccountMeta(self.authority, True, True), AccountMeta(SYSTEM_PROGRAM, False, False)]
        return metas


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


async def pay_through(
    rpc: AsyncClient, payer: Keypair, table: Table, listed: list[Pubkey], to: Pubkey
) -> VersionedTransaction:
    """A payment whose receiver is named through the table only."""
    blockhash = (await rpc.get_latest_blockhash(Processed)).value.blockhash
    lookup = AddressLookupTableAccount(table.address, listed)
    message = MessageV0.try_compile(payer.pubkey(), [pay(payer, to, SOL)], [lookup], blockhash)
    assert to not in message.account_keys
    return VersionedTransaction(message, [payer])


async def preflight(rpc: AsyncClient, transaction: VersionedTransaction) -> str | None:
    """Why a transaction would fail, None if it would not."""
    err = (await rpc.simulate_transaction(transaction)).value.err
    return None if err is None else str(err)


async def error_of(rpc: AsyncClient, transaction: VersionedTransaction) -> str | None:
    """Why a transaction that landed failed, None if it did not."""
    status = (await rpc.get_signature_statuses([transaction.signatures[0]])).value[0]
    assert status is not None
    return None if status.err is None else str(status.err)


async def balance(rpc: AsyncClient, address: Pubkey) -> int:
    return (await rpc.get_balance(address, Processed)).value


async def open_table(rpc: AsyncClient, control: Control, owner: Keypair, *addresses: Pubkey) -> Table:
    """A table that can be used."""
    table = Table(owner.pubkey(), (await rpc.get_slot(Confirmed)).value)
    made = await send_now(rpc, [table.create(), table.extend(*addresses)], owner)
    assert await error_of(rpc, made) is None
    control.advance_slots(1)
    return table


async def test_a_table_serves_from_the_slot_after_its_extension_on(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    first, second = Keypair().pubkey(), Keypair().pubkey()
    table = await open_table(rpc, control, rich, first)
    await send_now(rpc, [table.extend(second)], rich)
    # What was there before serves on; what was added serves one slot later.
    assert await preflight(rpc, await pay_through(rpc, rich, table, [first, second], first)) is None
    early = await pay_through(rpc, rich, table, [first, second], second)
    assert "InvalidAddressLookupTableIndex" in str(await preflight(rpc, early))
    assert await balance(rpc, second) == 0
    control.advance_slots(1)
    late = await pay_through(rpc, rich, table, [first, second], second)
    await rpc.send_transaction(late)
    assert await balance(rpc, second) == SOL


async def test_a_new_table_does_not_serve_in_its_own_slot(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    table = Table(rich.pubkey(), (await rpc.get_slot(Confirmed)).value)
    await send_now(rpc, [table.create(), table.extend(to)], rich)
    assert await preflight(rpc, await pay_through(rpc, rich, table, [to], to)) is not None
    control.advance_slots(1)
    assert await preflight(rpc, await pay_through(rpc, rich, table, [to], to)) is None


async def test_what_went_through_a_table_is_in_the_history_under_its_address(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    table = await open_table(rpc, control, rich, to)
    transaction = await pay_through(rpc, rich, table, [to], to)
    await rpc.send_transaction(transaction)
    control.advance_slots(1)
    signature = transaction.signatures[0]
    listed = (await rpc.get_signatures_for_address(to, commitment=Confirmed)).value
    assert [entry.signature for entry in listed] == [signature]
    found = (
        await rpc.get_transaction(signature, "json", Confirmed, max_supported_transaction_version=0)
    ).value
    assert found is not None
    meta = found.transaction.meta
    assert meta is not None
    assert meta.loaded_addresses is not None
    assert (meta.loaded_addresses.writable, meta.loaded_addresses.readonly) == ([to], [])
    # Balances count the loaded address last.
    assert (meta.pre_balances[-1], meta.post_balances[-1]) == (0, SOL)


async def test_a_table_is_made_from_a_slot_of_the_recent_past_only(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    control.advance_slots(SLOT_HASHES_MAX + 2)
    newest = (await rpc.get_slot(Processed)).value
    for slot in (newest + 1, newest, newest - SLOT_HASHES_MAX - 1):
        table = Table(rich.pubkey(), slot)
        refused = await send_now(rpc, [table.create()], rich)
        assert "InvalidInstructionData" in str(await error_of(rpc, refused)), slot - newest
        assert (await rpc.get_account_info(table.address, Processed)).value is None
    for slot in (newest - 1, newest - SLOT_HASHES_MAX):
        made = await send_now(rpc, [Table(rich.pubkey(), slot).create()], rich)
        assert await error_of(rpc, made) is None, slot - newest


async def test_a_table_is_closed_only_once_nothing_recent_can_name_it(
    rpc: AsyncClient, rich: Keypair, control: Control
) -> None:
    to = Keypair().pubkey()
    table = await open_table(rpc, control, rich, to)
    await send_now(rpc, [table.deactivate()], rich)
    control.advance_slots(SLOT_HASHES_MAX)
    # Still in the slot hashes: it serves, and stays.
    assert await preflight(rpc, await pay_through(rpc, rich, table, [to], to)) is None
    assert await error_of(rpc, await send_now(rpc, [table.close()], rich)) is not None
    control.advance_slots(1)
    assert await preflight(rpc, await pay_through(rpc, rich, table, [to], to)) is not None
    assert await error_of(rpc, await send_now(rpc, [table.close()], rich)) is None
    assert (await rpc.get_account_info(table.address, Processed)).value is None


async def test_a_table_serves_after_a_restart(tmp_path: Path) -> None:
    chain = ChainProcess(tmp_path / "chain", *STILL)
    owner, to = Keypair(), Keypair().pubkey()
    try:
        async with AsyncClient(chain.url) as rpc:
            with Control(chain.url) as control:
                await rpc.request_airdrop(owner.pubkey(), 10 * SOL)
                table = await open_table(rpc, control, owner, to)
        chain.stop()
        chain.start()
        async with AsyncClient(chain.url) as rpc:
            account = (await rpc.get_account_info(table.address, Confirmed)).value
            assert account is not None
            assert account.data[HEADER_BYTES:] == bytes(to)
            transaction = await pay_through(rpc, owner, table, [to], to)
            await rpc.send_transaction(transaction)
            assert await balance(rpc, to) == SOL
    finally:
        chain.close()
