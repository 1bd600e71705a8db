"""Lookup tables on the local chain: created, extended, read at each commitment, drawn from."""

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from contracts.localnet.control import Control
from machpay.chain.client import ChainClient
from machpay.chain.errors import DecodeError, TransactionFailed
from machpay.chain.lookup_tables import (
    CLOSABLE_AFTER_SLOTS,
    EXTENSION_ADDRESSES_MAX,
    LookupTable,
    choose_table,
    close_table,
    create_table,
    deactivate_table,
    extend_table,
    table_address,
)
from machpay.chain.tokens import create_ata_idempotent
from tests.chain.test_client import Cluster, chain, cluster

__all__ = ["chain", "cluster"]


async def _table(chain: ChainClient, cluster: Cluster, addresses: list[Pubkey]) -> Pubkey:
    """A new table with `addresses`, finalised."""
    admin, slot = cluster.admin, await chain.slot("finalized")
    address = table_address(admin.pubkey(), slot)
    create = create_table(authority=admin.pubkey(), payer=admin.pubkey(), recent_slot=slot)
    extend = extend_table(table=address, authority=admin.pubkey(), payer=admin.pubkey(), addresses=addresses)
    await chain.send_and_confirm([create, extend], admin, commitment="finalized")
    return address


async def test_a_table_is_created_with_24_addresses_in_one_transaction_and_grows(chain, cluster) -> None:
    first = [Pubkey.new_unique() for _ in range(EXTENSION_ADDRESSES_MAX)]
    address = await _table(chain, cluster, first)
    assert await chain.lookup_table(address) == LookupTable(address, tuple(first))

    more, admin = [Pubkey.new_unique()], cluster.admin.pubkey()
    step = extend_table(table=address, authority=admin, payer=admin, addresses=more)
    await chain.send_and_confirm([step], cluster.admin, commitment="finalized")
    assert await chain.lookup_table(address) == LookupTable(address, tuple(first + more))


async def test_a_transaction_names_what_the_table_holds_by_its_place(chain, cluster) -> None:
    owner, mint = Keypair().pubkey(), chain.network.mint
    step = create_ata_idempotent(payer=cluster.admin.pubkey(), owner=owner, mint=mint)
    looked_up = [meta.pubkey for meta in step.accounts if not meta.is_signer]
    table = await chain.lookup_table(await _table(chain, cluster, looked_up))
    assert table is not None

    plain = await chain.sign([step], cluster.admin)
    signed = await chain.sign([step], cluster.admin, lookup_tables=[table])

    # 31 bytes less for each of five accounts; the table's address and two counts more.
    assert len(plain.raw) - len(signed.raw) == 31 * len(looked_up) - (32 + 2)
    message = VersionedTransaction.from_bytes(signed.raw).message
    assert [lookup.account_key for lookup in message.address_table_lookups] == [table.address]
    await chain.send(signed.raw)
    await chain.confirm(signed.signature)
    assert await chain.exists(looked_up[0])


async def test_only_its_authority_extends_a_table(chain, cluster) -> None:
    address = await _table(chain, cluster, [Pubkey.new_unique()])
    stranger = Keypair()
    await chain.airdrop(stranger.pubkey(), 10**9)
    step = extend_table(
        table=address, authority=stranger.pubkey(), payer=stranger.pubkey(), addresses=[Pubkey.new_unique()]
    )
    with pytest.raises(TransactionFailed):
        await chain.send_and_confirm([step], stranger)
    table = await chain.lookup_table(address, "confirmed")
    assert table is not None
    assert len(table.addresses) == 1


async def test_creating_a_table_twice_changes_nothing(chain, cluster) -> None:
    admin, slot = cluster.admin.pubkey(), await chain.slot("finalized")
    step = create_table(authority=admin, payer=admin, recent_slot=slot)
    address = table_address(admin, slot)
    await chain.send_and_confirm([step], cluster.admin)
    before = await chain.lookup_table(address, "confirmed")
    await chain.send_and_confirm([step], cluster.admin)
    assert await chain.lookup_table(address, "confirmed") == before == LookupTable(address, ())


async def test_a_table_is_closed_in_two_steps_and_its_rent_comes_back(chain, cluster) -> None:
    kept, address = [await _table(chain, cluster, [Pubkey.new_unique()]) for _ in range(2)]
    admin, heir = cluster.admin.pubkey(), Keypair().pubkey()
    assert {kept, address} <= {table.address for table in await chain.lookup_tables_of(admin)}
    assert await chain.lookup_tables_of(heir) == []
    close = close_table(table=address, authority=admin, recipient=heir)
    with pytest.raises(TransactionFailed):
        await chain.send_and_confirm([close], cluster.admin)

    step = deactivate_table(table=address, authority=admin)
    await chain.send_and_confirm([step], cluster.admin, commitment="finalized")
    table = await chain.lookup_table(address)
    assert table is not None
    assert table.deactivated_at is not None
    assert not table.is_active
    assert table in await chain.lookup_tables_of(admin)
    with pytest.raises(TransactionFailed):
        await chain.send_and_confirm([close], cluster.admin)

    rent = await chain.lamports(address)
    with Control(cluster.process.url) as control:
        control.advance_slots(CLOSABLE_AFTER_SLOTS + 1)
    await chain.send_and_confirm([close], cluster.admin, commitment="finalized")
    assert (await chain.lamports(heir), await chain.lookup_table(address)) == (rent, None)
    found = {table.address for table in await chain.lookup_tables_of(admin)}
    assert (kept in found, address in found) == (True, False)


async def test_what_is_no_table_is_not_read_as_one(chain, cluster) -> None:
    assert await chain.lookup_table(Keypair().pubkey()) is None
    assert await chain.lookup_table(chain.network.mint) is None
    with pytest.raises(DecodeError):
        LookupTable.decode(Keypair().pubkey(), bytes(55))
    with pytest.raises(DecodeError):
        LookupTable.decode(Keypair().pubkey(), b"\x01" + bytes(60))


@pytest.mark.parametrize("count", [0, EXTENSION_ADDRESSES_MAX + 1])
def test_an_extension_has_1_to_24_addresses(count: int) -> None:
    key = Pubkey.default()
    with pytest.raises(ValueError, match="1 to 24"):
        extend_table(table=key, authority=key, payer=key, addresses=[key] * count)


def test_the_table_chosen_holds_everything_and_is_active() -> None:
    a, b, c = (Pubkey.new_unique() for _ in range(3))
    part, whole = LookupTable(Pubkey.new_unique(), (a,)), LookupTable(Pubkey.new_unique(), (b, a, c))
    assert choose_table([part, whole], [a, b]) == whole
    assert choose_table([part, whole], [a]) == part
    assert choose_table([part], [a, b]) is None
    closing = LookupTable(whole.address, whole.addresses, deactivated_at=7)
    assert choose_table([closing], [a]) is None
