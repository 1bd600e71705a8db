"""How many channels fit into one transaction of 1,232 bytes: the accounts and arguments are laid out for this."""

import struct

from solders.account import Account
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from machpay.chain.instructions import ChannelSettlement
from machpay.chain.transactions import PACKET_BYTES_MAX
from tests.program.world import USDC, Vendor, World, done

BUDGET = [set_compute_unit_limit(60_000), set_compute_unit_price(1_000)]
SLOT = 100


def test_two_channels_fit_without_a_lookup_table_even_when_both_are_created(world: World) -> None:
    vendor, items = _items(world, 2, create=True)
    raw = _signed(world, [*BUDGET, *world.settle_ixs(vendor, *items)])
    assert len(raw) <= PACKET_BYTES_MAX
    _land(world, raw)
    assert world.tokens(vendor.payout) == 2 * 10


def test_five_existing_channels_fit_in_1230_bytes_with_one_lookup_table(world: World) -> None:
    vendor, items = _items(world, 5, create=False)
    instructions = [*BUDGET, *world.settle_ixs(vendor, *items)]
    raw = _signed(world, instructions, table=_table(world, instructions))
    assert len(raw) == 1_230
    _land(world, raw)
    assert world.tokens(vendor.payout) == 5 * 10


def test_four_channels_fit_with_one_lookup_table_when_all_are_created(world: World) -> None:
    vendor, items = _items(world, 4, create=True)
    instructions = [*BUDGET, *world.settle_ixs(vendor, *items)]
    raw = _signed(world, instructions, table=_table(world, instructions))
    assert len(raw) <= PACKET_BYTES_MAX
    _land(world, raw)
    assert world.tokens(vendor.payout) == 4 * 10


def _items(world: World, count: int, *, create: bool) -> tuple[Vendor, list[ChannelSettlement]]:
    vendor = world.vendor()
    agents = [world.agent(USDC) for _ in range(count)]
    if not create:
        for agent in agents:
            done(world.settle(vendor, world.item(agent, vendor.gateway, 1)))
    return vendor, [world.item(agent, vendor.gateway, 10, create=create) for agent in agents]


def _table(world: World, instructions: list[Instruction]) -> AddressLookupTableAccount:
    """A lookup table with every account that may be looked up: not signers, not programs that are called."""
    called = {ix.program_id for ix in instructions}
    addresses: list[Pubkey] = []
    for ix in instructions:
        for meta in ix.accounts:
            if not meta.is_signer and meta.pubkey not in called and meta.pubkey not in addresses:
                addresses.append(meta.pubkey)
    key = Keypair().pubkey()
    state = struct.pack("<IQQBB32sH", 1, 2**64 - 1, 0, 0, 1, bytes(world.payer.pubkey()), 0)
    owner = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")
    data = state + b"".join(bytes(address) for address in addresses)
    world.svm.set_account(key, Account(10**9, data, owner))
    world.svm.warp_to_slot(SLOT)
    return AddressLookupTableAccount(key, addresses)


def _signed(
    world: World, instructions: list[Instruction], table: AddressLookupTableAccount | None = None
) -> bytes:
    tables = [table] if table else []
    blockhash = world.svm.latest_blockhash()
    message = MessageV0.try_compile(world.relayer.pubkey(), instructions, tables, blockhash)
    return bytes(VersionedTransaction(message, [world.relayer]))


def _land(world: World, raw: bytes) -> None:
    result = world.svm.send_transaction(VersionedTransaction.from_bytes(raw))
    assert type(result).__name__ == "TransactionMetadata", result
