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
from solders.transaction_metadata import FailedTransactionMetadata, TransactionMetadata
from solders.transaction_status import TransactionErrorFieldless

from machpay.chain import instructions as build
from machpay.chain.instructions import ChannelSettlement
from machpay.chain.transactions import PACKET_BYTES_MAX
from machpay.protocol.aggregates import Aggregate, ChannelTotal
from tests.program.moves import account_of, assert_balanced
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


def test_56_channels_fit_under_one_aggregated_signature(world: World) -> None:
    """64 account locks: relayer, three programs, bond, agent, sysvar and event authority leave 56. Bytes would do for
    more."""
    _vendor, agent, channels = _channels(world, 56)
    raw = _aggregated(world, agent, channels, BUDGET)
    assert len(raw) == 1_020
    _land(world, raw)
    account = account_of(world, agent)
    assert (account.bond, account.paid_total) == (USDC - 56 * 10, 56 * 10)
    assert_balanced(world)


def test_57_channels_fit_without_compute_budget_instructions(world: World) -> None:
    _vendor, agent, channels = _channels(world, 57)
    with world.nothing_moves():
        result = _send(world, _aggregated(world, agent, channels, BUDGET))
        assert isinstance(result, FailedTransactionMetadata)
        assert result.err() == TransactionErrorFieldless.TooManyAccountLocks
    _land(world, _aggregated(world, agent, channels, []))
    assert account_of(world, agent).paid_total == 57 * 10
    assert_balanced(world)


def test_55_channels_of_a_vendor_are_paid_in_one_transfer(world: World) -> None:
    vendor, agent, channels = _channels(world, 55)
    _land(world, _aggregated(world, agent, channels, BUDGET))
    paid = world.tokens(vendor.payout)
    ix = build.distribute(world.network, vendor=vendor.key, payout=vendor.payout, channels=channels)
    instructions = [*BUDGET, ix]
    raw = _signed(world, instructions, table=_table(world, instructions))
    assert len(raw) == 388
    _land(world, raw)
    assert world.tokens(vendor.payout) - paid == 55 * 9
    assert_balanced(world)


def _channels(world: World, count: int) -> tuple[Vendor, Keypair, list[Pubkey]]:
    """One agent with so many channels of one vendor, one unit settled on each."""
    vendor, agent, channels = world.vendor(), world.agent(USDC), []
    for _ in range(count):
        gateway = Keypair()
        done(world.register_gateway(vendor.authority, gateway))
        done(world.settle(vendor, world.item(agent, gateway, 1)))
        channels.append(world.network.channel(agent.pubkey(), gateway.pubkey()))
    return vendor, agent, channels


def _aggregated(world: World, agent: Keypair, channels: list[Pubkey], budget: list[Instruction]) -> bytes:
    """A signed transaction that settles every channel up to 10."""
    network = world.network
    totals = [ChannelTotal(channel, 10) for channel in channels]
    aggregate = Aggregate.of(network.domain, network.mint, agent.pubkey(), totals)
    signature = bytes(agent.sign_message(aggregate.message))
    pair = build.settle_aggregated(
        network, relayer=world.relayer.pubkey(), aggregate=aggregate, signature=signature
    )
    instructions = [*budget, *pair]
    return _signed(world, instructions, table=_table(world, instructions))


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


def _send(world: World, raw: bytes) -> TransactionMetadata | FailedTransactionMetadata:
    return world.svm.send_transaction(VersionedTransaction.from_bytes(raw))


def _land(world: World, raw: bytes) -> None:
    result = _send(world, raw)
    assert isinstance(result, TransactionMetadata), result
