"""The index of the program's events: complete, once each, by whatever worker, and from wherever it begins."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.ledger.models import Transfer
from apps.payments.models import ChainEvent, ChainIndex, ChainTransaction, Channel, Settlement
from apps.payments.services import chain_index
from apps.settlement.services import index as index_module
from apps.settlement.services.index import index_events
from apps.settlement.services.sync import sync_chain
from contracts.localnet.rpc.errors import UNSUPPORTED_TRANSACTION_VERSION
from devnet.offers import ATLAS, LEXICON
from machpay.chain.client import SignatureSeen
from tests.settlement.conftest import BOND, Recon

Row = tuple[str, int, int, str, dict[str, object]]


def stored() -> list[Row]:
    rows = ChainEvent.objects.order_by("slot", "transaction", "instruction", "position")
    return list(rows.values_list("transaction", "instruction", "position", "kind", "data"))


def all_read(recon: Recon) -> None:
    """The history of before the first start is read bit by bit."""
    recon.run(index_events)
    while ChainTransaction.objects.filter(state="LISTED").exists():
        recon.run(index_events)


def paid(recon: Recon) -> Settlement:
    all_read(recon)
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))
    recon.settle()
    recon.rest()
    return Settlement.objects.get()


def test_a_settlement_is_indexed_with_its_transaction_and_everybody_in_it(recon: Recon) -> None:
    settlement = paid(recon)

    events = ChainEvent.objects.filter(transaction=settlement.signature).order_by("position")
    assert [event.kind for event in events] == ["ChannelOpened", "Settled"]
    settled = events[1]
    channel = Channel.objects.get(settlement_items__settlement=settlement)
    assert settled.slot == settlement.slot
    assert settled.data["total"] == "1000"
    assert settled.data["channels"] == [
        {
            "channel": channel.address,
            "agent": channel.agent_id,
            "gateway": channel.gateway_id,
            "amount": "1000",
            "settled": "1000",
        }
    ]
    assert {channel.address, channel.agent_id, channel.gateway_id, channel.vendor} <= set(settled.keys)
    assert ChainTransaction.objects.get(signature=settlement.signature).state == "APPLIED"


def test_workers_at_once_store_every_event_once(recon: Recon) -> None:
    paid(recon)
    complete = stored()
    ChainEvent.objects.all().delete()
    ChainTransaction.objects.all().delete()
    ChainIndex.objects.update(slot=0)
    start = Barrier(3)

    def work() -> None:
        start.wait()
        try:
            all_read(recon)
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work) for _ in range(3)]:
            future.result()

    assert stored() == complete


def test_replaying_from_the_first_slot_changes_nothing(recon: Recon, capsys) -> None:
    paid(recon)
    events, transfers = stored(), Transfer.objects.count()

    call_command("replay_chain", "--from-slot", "0", "--json")

    told = json.loads(capsys.readouterr().out)
    assert (told["events"], told["missing"], told["differing"], told["moved"]) == (0, [], [], False)
    assert told["listed"] == ChainTransaction.objects.count() > 0
    assert stored() == events
    assert Transfer.objects.count() == transfers


def test_replaying_brings_back_events_that_were_lost(recon: Recon, capsys) -> None:
    settlement = paid(recon)
    events = stored()
    ChainEvent.objects.filter(transaction=settlement.signature).delete()
    ChainTransaction.objects.filter(signature=settlement.signature).delete()

    call_command("replay_chain", "--from-slot", str(settlement.slot), "--json")

    assert json.loads(capsys.readouterr().out)["events"] == 2
    assert stored() == events


def test_a_look_asks_for_what_moved_and_not_for_all_there_is(recon: Recon, monkeypatch) -> None:
    settlement = paid(recon)
    # What the ledger follows from here on it can only have read account by account.
    monkeypatch.setattr(
        "machpay.chain.client.ChainClient.program_accounts", lambda *_: (_ for _ in ()).throw(AssertionError)
    )
    payer = recon.chain.payer(recon.chain.new_agent(bond_atomic=BOND), ATLAS)
    recon.catch_up()
    recon.deliver(payer.pay(700))
    recon.settle()
    recon.rest()

    assert recon.statuses(payer) == ["SETTLED"]
    assert recon.bond(payer.agent) == BOND - 700
    assert Settlement.objects.exclude(id=settlement.id).get().paid_atomic == 700


def test_a_quiet_look_does_not_cost_more_with_more_channels(recon: Recon) -> None:
    recon.sync()

    def statements() -> int:
        recon.chain.wait_until_final()
        with CaptureQueriesContext(connection) as queries:
            recon.sync()
        assert not any(
            'payments_channel"' in query["sql"] and "WHERE" not in query["sql"] for query in queries
        )
        return len(queries)

    before = statements()
    for payer in recon.payers(3, LEXICON):
        recon.deliver(payer.pay(100))
    recon.settle()
    recon.rest()
    # A look that lists something known asks once whether it is.
    assert statements() <= before + 2


def test_a_transaction_that_is_not_shown_is_asked_for_again_and_then_everything_is_read(recon: Recon) -> None:
    recon.sync()
    index = chain_index.position()
    ghost = SignatureSeen("1" * 64, index.slot, None, failed=False)
    chain_index.store_missing([ghost])
    slot = index.snapshot_slot

    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.chain.wait_until_final()
    # It may have moved anything: until it is shown, nothing is taken over from events alone.
    assert not recon.sync().applied
    recon.sync()
    recon.chain.wait_until_final()
    recon.sync()

    assert ChainTransaction.objects.get(signature=ghost.signature).state == "LISTED"
    assert chain_index.position().snapshot_slot > slot
    assert recon.bond(agent) == BOND


def test_a_transaction_of_a_later_version_holds_up_nobody(recon: Recon) -> None:
    """Anybody may send one that names the program's accounts."""
    all_read(recon)
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.chain.wait_until_final()
    with recon.chain.control() as control:
        control.fail_calls("getTransaction", 1_000, code=UNSUPPORTED_TRANSACTION_VERSION)
        recon.sync()
        control.clear()

    assert recon.bond(agent) == BOND
    assert ChainTransaction.objects.filter(state="UNREADABLE").exists()
    # A client that knows the version reads it after all.
    call_command("replay_chain", "--from-slot", "0")
    assert ChainEvent.objects.filter(kind="Deposited", keys__contains=[agent.pubkey]).exists()


def test_a_history_that_does_not_reach_back_is_a_gap_and_everything_is_read(
    recon: Recon, monkeypatch
) -> None:
    recon.sync()
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.chain.wait_until_final()
    snapshot_slot = chain_index.position().snapshot_slot
    # The index reaches a transaction of which this chain's history knows nothing older or equal.
    monkeypatch.setattr("apps.settlement.services.index.OVERLAP_SLOTS", 10**9)
    ChainIndex.objects.update(slot=10**9 + 1)
    first = ChainTransaction.objects.order_by("slot").values_list("slot", flat=True)[0]
    ChainTransaction.objects.filter(slot=first).update(slot=0)

    recon.sync()

    assert chain_index.position().snapshot_slot > snapshot_slot
    assert chain_index.position().snapshot_wanted == ""
    assert recon.bond(agent) == BOND


def test_a_history_too_long_to_be_listed_by_one_task_holds_up_no_money(
    recon: Recon, monkeypatch, capsys
) -> None:
    all_read(recon)
    agent = recon.chain.new_agent(bond_atomic=BOND)
    for amount in (10, 20):
        recon.chain.top_up(agent, amount)
    recon.chain.wait_until_final()
    monkeypatch.setattr(index_module, "OVERLAP_SLOTS", 0)
    with monkeypatch.context() as patched:
        patched.setattr(index_module, "_FIRST_PAGE", 1)
        patched.setattr(index_module, "_LIST_SECONDS", 0.0)
        recon.sync()

    assert recon.bond(agent) == BOND + 30
    deposits = ChainEvent.objects.filter(kind="Deposited", keys__contains=[agent.pubkey])
    all_read(recon)
    recon.sync()
    assert [event.data["amount"] for event in deposits] == ["20"]
    # What lies between is for the operator to bring back, who is told of the gap.
    call_command("replay_chain", "--from-slot", "0", "--json")
    assert json.loads(capsys.readouterr().out)["missing"] == []
    assert [event.data["amount"] for event in deposits.order_by("slot")] == [str(BOND), "10", "20"]
    assert recon.bond(agent) == BOND + 30


def test_a_reading_of_before_does_not_answer_what_is_wanted_later(recon: Recon) -> None:
    """One worker reads all accounts while another finds that a later slot needs it."""
    recon.sync()
    slot = chain_index.position().slot
    chain_index.want_snapshot("a gap", slot=slot + 1)

    chain_index.snapshot_taken(slot)
    assert chain_index.position().snapshot_wanted == "a gap"

    chain_index.snapshot_taken(slot + 1)
    assert chain_index.position().snapshot_wanted == ""

    # The next looks meet the same gap again.
    chain_index.want_snapshot("a gap", slot=slot + 1)
    assert chain_index.position().snapshot_wanted == ""


def test_a_channel_that_moved_unseen_stops_a_part_and_everything_is_read(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    other = recon.chain.payer(payer.agent, ATLAS)
    recon.settle_elsewhere(other, other.pay(300), up_to=300)
    recon.chain.wait_until_final()
    recon.run(index_events)
    # The index forgets who was settled, and the agent moves once more.
    ChainTransaction.objects.filter(state="READ").update(state="APPLIED")
    recon.chain.top_up(payer.agent, 50)
    recon.chain.wait_until_final()

    applied = recon.run(sync_chain)

    assert [seen.channel for seen in applied.settled] == [str(other.channel)]
    assert recon.bond(payer.agent) == BOND - 300 + 50


def test_a_database_that_begins_on_an_old_chain_follows_it_at_once(recon: Recon, monkeypatch) -> None:
    """Its history is read afterwards, and moves nothing."""
    paid(recon)
    complete, transfers = stored(), Transfer.objects.count()
    ChainEvent.objects.all().delete()
    ChainTransaction.objects.all().delete()
    ChainIndex.objects.all().delete()
    monkeypatch.setattr("apps.settlement.services.index._WAITING_PER_RUN", 3)

    recon.chain.wait_until_final()
    recon.sync()
    assert stored() == []
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()
    assert recon.bond(agent) == BOND
    assert 0 < ChainTransaction.objects.exclude(state="LISTED").count() < len(complete)

    monkeypatch.undo()
    all_read(recon)
    recon.sync()
    assert [row for row in stored() if row in complete] == complete
    assert Transfer.objects.count() == transfers + 1
