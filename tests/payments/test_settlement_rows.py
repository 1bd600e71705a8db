"""Settlement rows: what is due, who may claim it, and the only ways from one state to another."""

import threading
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from apps.payments.models import Channel, Settlement, SettlementItem
from apps.payments.selectors.due import DuePolicy
from apps.payments.services import network
from apps.payments.services.chain_mirror import apply_chain_snapshot
from apps.payments.services.settlements import (
    DueChannel,
    begin_send,
    claim_due_channels,
    mark_confirmed,
    mark_failed,
    mark_finalized,
    mark_unknown,
    open_settlements,
    store_settlement,
)
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import deliver, registered, row_of
from tests.payments.factories import NETWORK, Payer, agent_account, chain_state, channel_account

AT_ONCE = DuePolicy(minimum_atomic=1, trigger_atomic=1, max_age=timedelta(0))
pytestmark = pytest.mark.django_db


@pytest.fixture
def funded(payer: Payer) -> Payer:
    """A payer with a bond of 1000 on chain and 100 charged."""
    apply_chain_snapshot(chain_state(1, [agent_account(payer.agent.public, deposited=1000)]))
    deliver(payer.pay(100))
    return payer


def plan(policy: DuePolicy = AT_ONCE, **options) -> list[DueChannel]:
    with transaction.atomic():
        return claim_due_channels(policy=policy, limit=10, **options)


def store(signature: str = "sig") -> int:
    with transaction.atomic():
        return store_settlement(
            channels=claim_due_channels(policy=AT_ONCE, limit=10),
            raw_transaction=b"bytes",
            signature=signature,
            last_valid_block_height=77,
        )


def test_a_due_channel_comes_with_its_highest_voucher_and_its_charges(funded, gateway):
    ahead = funded.pay(900, charged=0)
    deliver(ahead)

    (due,) = plan()

    assert (due.address, due.agent, due.gateway, due.vendor) == (
        str(funded.channel),
        funded.agent.pubkey,
        gateway.pubkey,
        str(gateway.vendor),
    )
    assert (due.cumulative_atomic, due.up_to_atomic, due.settled_atomic, due.payable_atomic) == (
        1000,
        100,
        0,
        100,
    )
    assert due.voucher == ahead.voucher
    assert due.voucher.is_signed_by(funded.agent.public)


def test_nothing_is_due_below_the_minimum_or_before_its_time(funded):
    hour = timedelta(hours=1)
    assert plan(DuePolicy(minimum_atomic=101, trigger_atomic=1, max_age=timedelta(0))) == []
    assert plan(DuePolicy(minimum_atomic=1, trigger_atomic=101, max_age=hour)) == []
    assert (
        len(plan(DuePolicy(minimum_atomic=100, trigger_atomic=101, max_age=hour), now=timezone.now() + hour))
        == 1
    )
    assert len(plan(DuePolicy(minimum_atomic=100, trigger_atomic=100, max_age=hour))) == 1


def test_an_agent_without_a_bond_is_not_due(payer):
    deliver(payer.pay(100))
    assert plan() == []


def test_other_vendors_are_left_out_when_one_is_asked_for(funded, gateway):
    assert plan(vendors=["somebody else"]) == []
    assert len(plan(vendors=[str(gateway.vendor)])) == 1


@pytest.mark.django_db(transaction=True)
def test_two_workers_never_claim_one_channel():
    network.bind(NETWORK)
    gateway = registered()
    payers = [Payer(SigningKey.generate(), gateway) for _ in range(6)]
    apply_chain_snapshot(
        chain_state(1, [agent_account(payer.agent.public, deposited=1000) for payer in payers])
    )
    deliver(*(payer.pay(100) for payer in payers))
    both = threading.Barrier(2)
    claimed: list[list[str]] = []

    def work() -> None:
        try:
            with transaction.atomic():
                due = claim_due_channels(policy=AT_ONCE, limit=4)
                claimed.append([channel.address for channel in due])
                both.wait()
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sorted(len(addresses) for addresses in claimed) == [2, 4]
    assert len({address for addresses in claimed for address in addresses}) == 6


def test_a_stored_settlement_keeps_its_bytes_and_takes_its_channels_out_of_planning(funded, gateway):
    settlement = store()

    assert plan() == []
    row = Settlement.objects.get()
    assert (row.vendor, row.state, row.planned_atomic, row.channel_count) == (
        str(gateway.vendor),
        "PENDING",
        100,
        1,
    )
    item = SettlementItem.objects.get()
    assert (item.channel_id, item.cumulative_atomic, item.up_to_atomic, item.settled_before_atomic) == (
        str(funded.channel),
        100,
        100,
        0,
    )
    (listed,) = open_settlements()
    assert (listed.id, listed.raw_transaction, listed.signature, listed.last_valid_block_height) == (
        settlement,
        b"bytes",
        "sig",
        77,
    )


def test_a_channel_under_way_cannot_be_stored_again(funded):
    with transaction.atomic():
        due = claim_due_channels(policy=AT_ONCE, limit=10)
    store()

    with pytest.raises(IntegrityError), transaction.atomic():
        store_settlement(
            channels=due, raw_transaction=b"other", signature="other", last_valid_block_height=78
        )
    assert Settlement.objects.count() == 1


def test_the_way_to_the_end(funded):
    settlement = store()

    assert begin_send(settlement, send_count=0)
    assert mark_unknown(settlement, error="timeout")
    assert begin_send(settlement, send_count=1)
    assert mark_confirmed({settlement: 9}) == {settlement}
    assert not mark_confirmed({settlement: 10})
    assert not begin_send(settlement, send_count=2)
    assert mark_finalized({settlement: 9}) == {settlement}
    assert not mark_finalized({settlement: 11})
    assert not mark_failed(settlement, error="late")
    row = Settlement.objects.get()
    assert (row.state, row.slot, row.send_count, row.error) == ("FINALIZED", 9, 2, "")
    assert open_settlements() == []


def test_a_send_is_begun_by_one_worker_only(funded):
    settlement = store()

    assert begin_send(settlement, send_count=0)
    assert not begin_send(settlement, send_count=0)
    assert not mark_failed(settlement, error="refused", send_count=2)
    assert mark_failed(settlement, error="refused", send_count=1)
    assert (Settlement.objects.get().state, Settlement.objects.get().send_count) == ("FAILED", 1)


def test_a_final_settlement_frees_its_channels_only_when_the_mirror_has_it(funded, gateway):
    settlement = store()
    mark_finalized({settlement: 9})
    deliver(funded.pay(40))
    agent = funded.agent.public
    apply_chain_snapshot(chain_state(8, [agent_account(agent, deposited=1000)]))
    assert plan() == []
    assert Settlement.objects.get().paid_atomic is None

    result = apply_chain_snapshot(
        chain_state(
            9,
            [agent_account(agent, deposited=1000, paid=100)],
            [channel_account(agent, gateway, settled=100)],
        )
    )

    assert result.ended_settlements == [settlement]
    assert Settlement.objects.get().paid_atomic == SettlementItem.objects.get().paid_atomic == 100
    (due,) = plan()
    assert (due.settled_atomic, due.up_to_atomic) == (100, 140)


def test_a_settlement_that_paid_nothing_makes_its_channel_wait(funded):
    settlement = store()
    mark_finalized({settlement: 9})

    apply_chain_snapshot(chain_state(9, [agent_account(funded.agent.public, deposited=1000)]))

    channel = row_of(funded)
    assert (Settlement.objects.get().paid_atomic, channel.in_flight_id, channel.settle_failures) == (
        0,
        None,
        1,
    )
    assert plan() == []
    assert len(plan(now=timezone.now() + timedelta(seconds=6))) == 1


def test_failures_free_the_channel_after_growing_delays(funded):
    for failures, wait in ((1, 5), (2, 10), (3, 20)):
        settlement = store(f"sig{failures}")
        assert mark_failed(settlement, error="expired")
        channel = row_of(funded)
        assert (channel.in_flight_id, channel.settle_failures) == (None, failures)
        assert channel.settle_after is not None
        left = channel.settle_after - timezone.now()
        assert timedelta(seconds=wait - 2) < left <= timedelta(seconds=wait)
        Channel.objects.update(settle_after=None)
    assert set(Settlement.objects.values_list("state", "error")) == {("FAILED", "expired")}


@pytest.mark.parametrize(
    "change",
    [
        "state = 'GONE'",
        "planned_atomic = 0",
        "state = 'FINALIZED'",
        "paid_atomic = -1",
        "ended_at = now()",
        "raw_transaction = '\\x00'",
        "last_valid_block_height = last_valid_block_height + 1",
    ],
)
def test_the_database_refuses_wrong_settlements(funded, change):
    store()
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE payments_settlement SET {change}")


def test_a_settlement_that_ended_is_not_under_way_again(funded):
    store()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE payments_settlement SET state = 'FAILED', ended_at = now()")
        with pytest.raises(IntegrityError, match="keeps what is"), transaction.atomic():
            cursor.execute("UPDATE payments_settlement SET state = 'SENT', ended_at = NULL")


@pytest.mark.parametrize(
    "change",
    [
        "charged_total_atomic = credited_atomic + 1",
        "settled_atomic = credited_atomic + 1",
        "owed_atomic = settled_atomic + 1",
        "highest_signature = NULL",
        "void_count = -1",
        "charged_total_atomic = charged_total_atomic - 1",
        "highest_cumulative_atomic = highest_cumulative_atomic - 1",
        "vendor = gateway",
    ],
)
def test_the_database_refuses_wrong_channels(funded, change):
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE payments_channel SET {change}")
