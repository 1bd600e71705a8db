"""Intake stores every payment once and credits exactly what was charged."""

from uuid import UUID

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.ledger.models import Transfer
from apps.payments.models import AgentMirror, Channel, Equivocation, Gateway, PaymentIntent
from apps.payments.services import enforcement
from apps.payments.services.chain_mirror import apply_chain_snapshot
from apps.payments.services.intake import record_batch
from apps.payments.services.reversals import reverse_uncovered
from machpay.protocol.encoding import parse_b64
from machpay.protocol.intents import PaymentIntent as SignedIntent
from machpay.protocol.intents import Voucher
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import deliver, registered, row_of, spent, stored, unsettled
from tests.payments.factories import NETWORK, Payer, agent_account, chain_state, channel_account

pytestmark = pytest.mark.django_db


def test_charged_payments_are_stored_and_credited(payer, gateway):
    results = deliver(payer.pay(100), payer.pay(250, charged=200), payer.pay(50, charged=0))

    assert [(result.status, result.retry) for result in results] == [("accepted", False)] * 3
    assert stored(payer.channel) == [("PENDING", 100, 100), ("PENDING", 200, 300), ("VOID", 0, 300)]
    channel = row_of(payer)
    assert (channel.charged_total_atomic, channel.charged_count, channel.void_count) == (300, 2, 1)
    assert (channel.agent_id, channel.gateway_id, channel.vendor) == (
        payer.agent.pubkey,
        gateway.pubkey,
        str(gateway.vendor),
    )
    assert channel.unsettled_since is not None
    assert (unsettled(gateway), spent(payer.agent)) == (300, -300)


def test_every_field_of_a_payment_is_kept(payer):
    payment = payer.pay(100, charged=90)
    deliver(payment)

    row = PaymentIntent.objects.get()
    intent = payment.intent
    assert (row.agent, row.nonce, row.channel, row.deadline) == (
        payer.agent.pubkey,
        intent.nonce,
        str(intent.channel),
        intent.deadline,
    )
    assert (bytes(row.digest), bytes(row.signature), bytes(row.request_hash)) == (
        intent.digest,
        payment.signature,
        intent.request_hash,
    )
    assert (row.amount_atomic, row.cumulative_atomic, row.served_total_atomic, row.http_status) == (
        100,
        100,
        90,
        200,
    )
    assert row.receipt_signature == payment.receipt.signature
    assert row.served_at is not None
    assert int(row.served_at.timestamp()) == payment.served_at
    assert int(row.nonce_time.timestamp() * 1000) == intent.nonce.int >> 80


def test_one_ledger_transfer_per_channel_and_batch(gateway):
    payers = [Payer(SigningKey.generate(), gateway) for _ in range(3)]
    deliver(*(payer.pay(10) for _ in range(4) for payer in payers))

    assert Transfer.objects.filter(kind="charge").count() == 3
    assert unsettled(gateway) == 120


def test_delivering_again_changes_nothing(payer, gateway):
    payments = [payer.pay(100), payer.pay(50, charged=0)]
    deliver(*payments)
    before = Channel.objects.values().get()

    results = deliver(*payments)

    assert [(result.status, result.retry) for result in results] == [("duplicate", False)] * 2
    assert Channel.objects.values().get() == before
    assert unsettled(gateway) == 100
    assert PaymentIntent.objects.count() == 2


def test_an_item_twice_in_one_batch_is_stored_once(payer, gateway):
    payment = payer.pay(100)

    assert [result.status for result in deliver(payment, payment)] == ["accepted", "duplicate"]
    assert unsettled(gateway) == 100


def test_an_outcome_reported_differently_later_does_not_count(payer, gateway):
    payment = payer.pay(100)
    deliver(payment)
    lower = Payer(payer.agent, gateway).pay(100, charged=10, nonce=payment.intent.nonce)

    assert lower.intent.digest == payment.intent.digest
    assert [result.status for result in deliver(lower)] == ["duplicate"]
    assert unsettled(gateway) == 100


def test_one_nonce_signed_twice_on_a_channel_is_refused_but_its_voucher_counts(payer, gateway):
    first = payer.pay(100)
    deliver(first)
    second = payer.pay(900, nonce=first.intent.nonce)

    (result,) = deliver(second)

    assert (result.status, result.code, result.retry) == ("rejected", "nonce_replayed", False)
    assert result.digest == second.intent.digest.hex()
    assert stored(payer.channel) == [("PENDING", 100, 100)]
    channel = row_of(payer)
    assert (channel.charged_total_atomic, channel.highest_cumulative_atomic) == (100, 1000)
    assert channel.highest_signature == second.signature
    assert unsettled(gateway) == 100
    assert Equivocation.objects.count() == 0


def test_one_nonce_at_two_gateways_is_credited_twice_and_recorded_once(payer, gateway):
    other = registered()
    rival = Payer(payer.agent, other)
    first = payer.pay(100)
    second = rival.pay(70, nonce=first.intent.nonce)

    assert [result.status for result in (*deliver(first), *deliver(second))] == ["accepted", "accepted"]
    assert (unsettled(gateway), unsettled(other), spent(payer.agent)) == (100, 70, -170)
    found = Equivocation.objects.get()
    assert (found.agent_id, found.nonce, found.status) == (payer.agent.pubkey, first.intent.nonce, "OPEN")
    assert {found.channel_a, found.channel_b} == {str(payer.channel), str(rival.channel)}
    by_gateway = {side["gateway"]: side for side in found.evidence.values()}
    assert by_gateway[gateway.pubkey]["cumulative"] == "100"
    assert by_gateway[other.pubkey]["cumulative"] == "70"

    assert [result.status for result in (*deliver(first), *deliver(second))] == ["duplicate", "duplicate"]
    assert Equivocation.objects.count() == 1


def test_the_evidence_verifies_by_itself(payer):
    rival = Payer(payer.agent, registered())
    first = payer.pay(100)
    deliver(first)
    deliver(rival.pay(70, nonce=first.intent.nonce))

    evidence = Equivocation.objects.get().evidence
    assert evidence.keys() == {"a", "b"}
    for side in evidence.values():
        intent = SignedIntent(
            channel=NETWORK.channel(payer.agent.public, Pubkey.from_string(side["gateway"])),
            cumulative=int(side["cumulative"]),
            nonce=UUID(side["nonce"]),
            amount=int(side["amount"]),
            deadline=side["deadline"],
            request_hash=bytes.fromhex(side["request_hash"]),
        )
        assert intent.nonce == first.intent.nonce
        assert intent.is_signed_by(payer.agent.public, parse_b64(side["signature"], "signature"))


def test_a_channel_keeps_the_highest_voucher_whatever_the_order(payer):
    low, high = payer.pay(100), payer.pay(900)
    deliver(high)
    deliver(low)

    channel = row_of(payer)
    assert (channel.highest_cumulative_atomic, channel.highest_context) == (1000, high.intent.context)


def test_vouchers_beside_the_batch_raise_the_highest(payer):
    payment = payer.pay(100)
    ahead = payer.pay(5000)

    deliver(payment, vouchers=[ahead.voucher])

    assert row_of(payer).highest_cumulative_atomic == 5100
    assert row_of(payer).charged_total_atomic == 100


def test_a_voucher_that_comes_late_makes_due_what_was_given_up_for_want_of_it(payer):
    first = payer.pay(100)
    deliver(first, payer.pay(100, cumulative=100))
    apply_chain_snapshot(
        chain_state(
            5,
            [agent_account(payer.agent.public, deposited=1_000, paid=100)],
            [channel_account(payer.agent.public, payer.gateway, settled=100)],
        )
    )
    (given_up,) = reverse_uncovered(payer.agent.pubkey, unsettled_before=timezone.now())
    assert (given_up.amount_atomic, row_of(payer).unsettled_since) == (100, None)

    late = payer.pay(1, cumulative=160)
    record_batch(mint="m", gateway="g", vendor="v", items=[], vouchers=[late.voucher])

    # A part of it: the voucher ends at 160, the charges at 200.
    assert row_of(payer).unsettled_since is not None


def test_vouchers_that_nobody_signed_or_nobody_knows_are_ignored(payer, gateway):
    payment = payer.pay(100)
    stranger = Payer(SigningKey.generate(), gateway).pay(77)
    forged = Voucher(payment.intent.channel, 10**9, payment.intent.context, payment.signature)

    deliver(payment, vouchers=[forged, stranger.voucher])

    assert row_of(payer).highest_cumulative_atomic == 100
    assert Channel.objects.count() == 1


def test_vouchers_alone_may_be_delivered_for_known_channels(payer):
    deliver(payer.pay(100))
    ahead = payer.pay(400)

    assert record_batch(mint="m", gateway="g", vendor="v", items=[], vouchers=[ahead.voucher]) == []
    assert row_of(payer).highest_cumulative_atomic == 500


def test_charges_that_a_claim_already_covered_are_not_credited_again(payer, gateway):
    deliver(payer.pay(100))
    agent = payer.agent.public
    apply_chain_snapshot(
        chain_state(
            9,
            [agent_account(agent, deposited=1000, paid=160)],
            [channel_account(agent, gateway, settled=160)],
        )
    )
    assert (unsettled(gateway), spent(payer.agent)) == (0, 0)

    deliver(payer.pay(40), payer.pay(50))

    assert stored(payer.channel) == [("SETTLED", 100, 100), ("SETTLED", 40, 140), ("PENDING", 50, 190)]
    assert (unsettled(gateway), spent(payer.agent)) == (30, -30)
    assert row_of(payer).credited_atomic == 190


def test_what_was_served_is_credited_whatever_became_of_agent_gateway_and_network(payer, gateway):
    enforcement.set_limits(payer.agent.pubkey, "test", "ada", per_call_atomic=1, per_day_atomic=1)
    enforcement.set_kill_switch(payer.agent.pubkey, True, "test", "ada")
    enforcement.set_status(payer.agent.pubkey, "SLASHED", "test", "ada")
    enforcement.set_rules("test", "ada", mode="lease", cap_atomic=0, halted=True)
    Gateway.objects.update(revoked=True, blacklisted_at=timezone.now())

    (result,) = deliver(payer.pay(100))

    assert (result.status, unsettled(gateway)) == ("accepted", 100)


def test_an_unknown_agent_is_mirrored_without_a_bond(payer):
    deliver(payer.pay(100))

    mirror = AgentMirror.objects.get()
    assert (mirror.agent, mirror.bond_atomic, mirror.slot, mirror.status) == (
        payer.agent.pubkey,
        0,
        0,
        "ACTIVE",
    )


def test_amounts_may_reach_the_end_of_64_bits(payer, gateway):
    top = 2**64 - 1
    deliver(*(payer.pay(top, cumulative=top, receipt=False) for _ in range(2)))

    assert row_of(payer).charged_total_atomic == 2 * top
    assert unsettled(gateway) == 2 * top


def test_the_number_of_statements_does_not_grow_with_the_batch(gateway):
    def statements(count: int) -> int:
        payers = [Payer(SigningKey.generate(), gateway) for _ in range(count)]
        payments = [payer.pay(1) for payer in payers for _ in range(3)]
        with CaptureQueriesContext(connection) as queries:
            deliver(*payments)
        return len(queries)

    assert statements(1) == statements(40)


@pytest.mark.parametrize(
    "change",
    [
        "status = 'LOST'",
        "charged_atomic = amount_atomic + 1",
        "charged_atomic = 0",
        "status = 'VOID'",
        "charged_through_atomic = 0",
        "charged_atomic = charged_atomic - 1",
        "amount_atomic = amount_atomic + 1",
        "signature = '\\x00'",
        "nonce_time = nonce_time - interval '1 hour'",
    ],
)
def test_the_database_refuses_wrong_intents(payer, change):
    deliver(payer.pay(100))

    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE payment_intents SET {change}")
    assert stored(payer.channel) == [("PENDING", 100, 100)]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE payment_intents SET status = 'PENDING'",
        "UPDATE payment_intents SET status = 'REVERSED'",
        "DELETE FROM payment_intents",
    ],
)
def test_a_settled_intent_stays_so_and_is_never_deleted(payer, sql):
    deliver(payer.pay(100))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE payment_intents SET status = 'SETTLED'")
        with pytest.raises(IntegrityError, match="keeps what is signed"), transaction.atomic():
            cursor.execute(sql)
    assert stored(payer.channel) == [("SETTLED", 100, 100)]


def test_the_primary_key_refuses_a_second_copy(payer):
    deliver(payer.pay(100))
    row = PaymentIntent.objects.get()

    with pytest.raises(IntegrityError), transaction.atomic():
        PaymentIntent.objects.bulk_create([row])
    assert PaymentIntent.objects.count() == 1
