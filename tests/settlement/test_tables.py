"""Lookup tables: five channels a transaction, and nothing held up or lost on the way there."""

import time
from collections.abc import Sequence

import pytest
from django.db import IntegrityError
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from apps.payments.models import LookupTable, LookupTableEntry, Settlement
from apps.payments.selectors.lookup_tables import tables_of
from apps.payments.services.lookup_tables import begin_table
from apps.settlement.services import settle as settle_module
from apps.settlement.services import tables as tables_module
from apps.settlement.services.tables import PAIRS_FILL_MAX, extend_tables, pack
from apps.settlement.tasks import extend_lookup_tables
from devnet.offers import LEXICON
from machpay.chain.client import ChainClient
from machpay.chain.errors import RpcUnavailable
from machpay.chain.lookup_tables import EXTENSION_ADDRESSES_MAX
from tests.settlement.conftest import Recon
from tests.support.chain import SLOT_MS, Payer


class Killed(BaseException):
    """The process is gone."""


def extend(recon: Recon) -> list[str]:
    return recon.run(extend_tables)


def extend_until_listed(recon: Recon, payers: Sequence[Payer]) -> None:
    """Run the task until every channel has an entry."""
    deadline = time.monotonic() + 120
    wanted = {str(payer.channel) for payer in payers}
    while wanted - set(LookupTableEntry.objects.values_list("address", flat=True)):
        assert time.monotonic() < deadline
        extend(recon)
        time.sleep(SLOT_MS / 1000)


def wait_until_confirmed(recon: Recon, table: Pubkey) -> None:
    """A transaction is confirmed a slot after it was taken, which the sender does not wait for."""
    deadline = time.monotonic() + 120
    while not recon.chain.call(lambda client: client.lookup_table(table, "confirmed")):
        assert time.monotonic() < deadline
        time.sleep(SLOT_MS / 1000)


def sizes() -> list[tuple[int, int]]:
    """Channels and bytes of every transaction, in the order they were stored."""
    rows = Settlement.objects.order_by("id").values_list("channel_count", "raw_transaction")
    return [(count, len(bytes(raw))) for count, raw in rows]


def tables_used() -> list[int]:
    rows = Settlement.objects.order_by("id").values_list("raw_transaction", flat=True)
    messages = [VersionedTransaction.from_bytes(bytes(raw)).message for raw in rows]
    return [len(message.address_table_lookups) for message in messages]


def test_from_one_table_four_channels_are_created_and_five_are_settled(recon: Recon) -> None:
    payers = recon.payers(5, LEXICON)
    before = recon.chain.vendor_balance(LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(1_000))
    extend_until_listed(recon, payers)

    recon.settle()
    recon.rest()
    assert [count for count, _ in sizes()] == [4, 1]
    assert tables_used() == [1, 1]

    for payer in payers:
        recon.deliver(payer.pay(100))
    recon.settle()
    recon.rest()
    assert sizes()[2:] == [(5, 1_230)]
    assert recon.chain.vendor_balance(LEXICON) - before == 5 * 1_100
    assert set(recon.states()) == {"FINALIZED"}
    (table,) = tables_of(str(payers[0].vendor))
    assert recon.chain.call(lambda client: client.lookup_table(table.address)) == table


def test_what_is_in_no_table_yet_is_settled_two_by_two_beside_the_rest(recon: Recon) -> None:
    listed = recon.payers(3, LEXICON)
    for payer in listed:
        recon.deliver(payer.pay(1_000))
    extend_until_listed(recon, listed)
    new = recon.payers(3, LEXICON)
    for payer in new:
        recon.deliver(payer.pay(1_000))

    recon.settle()
    recon.rest()

    assert sorted(zip([count for count, _ in sizes()], tables_used(), strict=True)) == [
        (1, 0),
        (2, 0),
        (3, 1),
    ]
    assert set(recon.states()) == {"FINALIZED"}


def test_a_few_channels_are_not_worth_a_table(recon: Recon) -> None:
    for payer in recon.payers(2, LEXICON):
        recon.deliver(payer.pay(1_000))
    assert extend(recon) == []
    assert LookupTable.objects.count() == 0


def test_an_entry_is_used_when_it_is_final_and_not_before(recon: Recon) -> None:
    payers = recon.payers(3, LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(1_000))
    with recon.chain.control() as control:
        control.hold_finality()
        (address,) = extend(recon)
        wait_until_confirmed(recon, Pubkey.from_string(address))
        assert extend(recon) == []
        assert LookupTable.objects.get().length == 0
        recon.settle()
    assert tables_used() == [0, 0]

    recon.rest()
    extend(recon)
    row = LookupTable.objects.get()
    assert (row.address, row.length, row.pending_length) == (address, row.entries.count(), None)
    assert row.length == 8 + 1 + 2 * 3


def test_another_worker_that_is_ahead_leaves_nothing_to_begin(recon: Recon, monkeypatch) -> None:
    payers = recon.payers(3, LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(1_000))
    vendor, other = str(payers[0].vendor), str(Pubkey.new_unique())
    taken = {"vendor": vendor, "recent_slot": 1, "pending_length": 9, "until_height": 2**40}
    vendors = tables_module.vendors_to_list

    def overtaken(**options: int) -> list[str]:
        found = vendors(**options)
        assert begin_table(address=other, **taken)
        return found

    monkeypatch.setattr(tables_module, "vendors_to_list", overtaken)
    assert extend(recon) == []
    assert list(LookupTable.objects.values_list("address", flat=True)) == [other]


def test_killed_before_the_creation_leaves_the_bytes_unsent_and_is_planned_anew(recon, monkeypatch) -> None:
    payers = recon.payers(3, LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(1_000))

    def die(*_args: object) -> None:
        raise Killed

    monkeypatch.setattr(tables_module, "_send", die)
    with pytest.raises(Killed):
        extend(recon)
    monkeypatch.undo()
    lost = LookupTable.objects.get()
    assert extend(recon) == []

    # Nothing can land any more once this height is final.
    LookupTable.objects.update(pending_until_height=0)
    (address,) = extend(recon)
    assert address != lost.address
    assert [row.address for row in LookupTable.objects.all()] == [address]
    extend_until_listed(recon, payers)


def test_killed_after_the_creation_finds_the_table_again(recon, monkeypatch) -> None:
    payers = recon.payers(3, LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(1_000))
    send = ChainClient.send

    async def send_and_die(self: ChainClient, raw: bytes) -> str:
        await send(self, raw)
        raise Killed

    monkeypatch.setattr(ChainClient, "send", send_and_die)
    with pytest.raises(Killed):
        extend(recon)
    monkeypatch.undo()
    (row,) = LookupTable.objects.all()
    assert row.length == 0

    recon.chain.wait_until_final()
    assert extend(recon) == []
    (found,) = LookupTable.objects.all()
    assert (found.address, found.length, found.pending_length) == (row.address, 8 + 1 + 2 * 3, None)


def test_an_answer_that_is_lost_does_not_double_the_entries(recon, monkeypatch) -> None:
    payers = recon.payers(3, LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(1_000))
    send = ChainClient.send

    async def send_without_answer(self: ChainClient, raw: bytes) -> str:
        await send(self, raw)
        raise RpcUnavailable("the connection broke")

    monkeypatch.setattr(ChainClient, "send", send_without_answer)
    with pytest.raises(RpcUnavailable):
        extend(recon)
    monkeypatch.undo()
    extend_until_listed(recon, payers)
    addresses = list(LookupTableEntry.objects.values_list("address", flat=True))
    assert len(addresses) == len(set(addresses))


def test_a_full_table_is_followed_by_another_and_a_transaction_draws_from_one(recon, monkeypatch) -> None:
    monkeypatch.setattr(tables_module, "PAIRS_FILL_MAX", 8 + 1 + 2 * 3)
    first = recon.payers(3, LEXICON)
    for payer in first:
        recon.deliver(payer.pay(1_000))
    extend_until_listed(recon, first)
    second = recon.payers(2, LEXICON)
    for payer in second:
        recon.deliver(payer.pay(1_000))
    extend_until_listed(recon, second)

    recon.settle()
    recon.rest()

    assert LookupTable.objects.count() == 2
    assert sorted(count for count, _ in sizes()) == [2, 3]
    assert tables_used() == [1, 1]
    assert set(recon.states()) == {"FINALIZED"}


def test_a_table_without_the_payout_account_is_not_drawn_from_until_it_has_it(recon, monkeypatch) -> None:
    payers = recon.payers(3, LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(1_000))
    extend_until_listed(recon, payers)
    shared = settle_module.shared_addresses
    elsewhere = Pubkey.new_unique()
    monkeypatch.setattr(settle_module, "shared_addresses", lambda *a, **k: [*shared(*a, **k), elsewhere])
    recon.settle()
    monkeypatch.undo()
    recon.rest()
    assert tables_used() == [0, 0]

    monkeypatch.setattr(tables_module, "shared_addresses", lambda *a, **k: [*shared(*a, **k), elsewhere])
    (new,) = recon.payers(1, LEXICON)
    recon.deliver(new.pay(1))
    extend_until_listed(recon, [new])
    (table,) = tables_of(str(new.vendor))
    assert elsewhere in table.addresses


def test_a_table_that_the_chain_refuses_holds_no_payment_up(recon: Recon, settings) -> None:
    """A registry that names a table nobody created: the first try fails, the second goes without."""
    payers = recon.payers(2, LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(1_000))
    settings.LOOKUP_TABLE_CHANNELS_MIN = 1
    extend_until_listed(recon, payers)
    (good,) = tables_of(str(payers[0].vendor))
    row = LookupTable.objects.create(
        address=str(Pubkey.new_unique()), vendor=str(payers[0].vendor), recent_slot=1
    )
    LookupTableEntry.objects.update(table=row)
    assert str(good.address) != row.address

    recon.settle()
    assert recon.states() == ["FAILED"]
    recon.end_backoff()
    recon.settle()
    recon.rest()

    assert recon.states() == ["FAILED", "FINALIZED"]
    assert tables_used() == [1, 0]
    assert [recon.channel(payer).settled_atomic for payer in payers] == [1_000, 1_000]


def test_the_task_pauses_without_the_relayers_key(recon: Recon, settings) -> None:
    for payer in recon.payers(3, LEXICON):
        recon.deliver(payer.pay(1_000))
    settings.RELAYER_KEYPAIR = ""
    extend_lookup_tables()
    assert LookupTable.objects.count() == 0


# ---- packing extensions, and what the database refuses


def groups(count: int) -> list[list[Pubkey]]:
    """What `count` channels of one gateway need."""
    gateway = Pubkey.new_unique()
    return [[gateway, Pubkey.new_unique(), Pubkey.new_unique()] for _ in range(count)]


def test_extensions_never_divide_what_a_channel_needs() -> None:
    shared = [Pubkey.new_unique() for _ in range(8)]
    wanted = groups(30)
    parts = pack(wanted, known=(), room=PAIRS_FILL_MAX, lead=shared)
    assert parts[0][:8] == shared
    assert max(len(part) for part in parts) <= EXTENSION_ADDRESSES_MAX
    for group in wanted:
        assert sum(set(group) <= set(part) for part in parts) == 1


def test_a_table_takes_119_channels_of_one_gateway() -> None:
    shared = [Pubkey.new_unique() for _ in range(8)]
    wanted = groups(200)
    (first, *_) = pack(wanted, known=(), room=256, lead=shared)
    listed = sum(set(group) <= set(first) for group in wanted)
    rest = pack(wanted[listed:], known=first, room=PAIRS_FILL_MAX - len(first), lead=[])
    assert listed + sum(len(part) for part in rest) // 2 == 119
    assert len(first) + sum(len(part) for part in rest) == 8 + 1 + 2 * 119


def test_known_addresses_are_not_repeated() -> None:
    (group,) = groups(1)
    assert pack([group], known=group[:2], room=10, lead=[]) == [group[2:]]
    assert pack([group], known=[], room=2, lead=[]) == []


@pytest.mark.django_db
def test_the_database_refuses_two_changes_of_one_vendor() -> None:
    taken = {"vendor": "vera", "recent_slot": 1, "pending_length": 9, "until_height": 10}
    assert begin_table(address="one", **taken)
    assert not begin_table(address="two", **taken)
    with pytest.raises(IntegrityError):
        LookupTable.objects.create(
            address="two", vendor="vera", recent_slot=1, pending_length=9, pending_until_height=10
        )
