"""What may be signed on one channel, case by case."""

import pytest

from machpay.client.channels import REMEMBERED_SIGNATURES, Channel, Totals
from machpay.client.errors import GatewayExposureError
from machpay.client.headroom import MAX_PRICES
from machpay.protocol.encoding import U64_MAX
from machpay.protocol.nonces import CLOCK_SKEW_S
from machpay.protocol.x402 import Correction
from tests.sdk.model import (
    GATEWAY,
    NETWORK,
    NOW,
    STRANGER,
    Model,
    Sent,
    a_receipt,
    a_voucher,
    an_agent,
    sign,
)

PRICE = 1_000


def pay(channel: Channel, gateway: Model, charged: int = PRICE) -> Sent:
    """One honest payment from signature to receipt."""
    sent = sign(channel, PRICE)
    assert gateway.accept(sent, PRICE)
    channel.resolved(gateway.finish(sent, PRICE, charged))
    return sent


def sign_unless_exposed(channel: Channel, now: float = NOW) -> Sent | None:
    try:
        return sign(channel, PRICE, now)
    except GatewayExposureError:
        return None


def test_alone_it_signs_exactly_what_it_owes():
    channel, gateway = an_agent(), Model()
    assert [pay(channel, gateway).intent.cumulative for _ in range(4)] == [1_000, 2_000, 3_000, 4_000]
    assert channel.totals == Totals(total=4_000, served=4_000, signed=4_000)
    assert channel.unresolved == 0


def test_a_void_payment_costs_nothing_and_its_signature_is_used_again():
    channel, gateway = an_agent(), Model()
    pay(channel, gateway)
    assert pay(channel, gateway, charged=0).intent.cumulative == 2_000
    assert pay(channel, gateway).intent.cumulative == 2_000
    assert channel.totals == Totals(2_000, 2_000, 2_000)


def test_sixteen_in_flight_are_all_accepted_in_any_order_of_arrival():
    channel, gateway = an_agent(), Model()
    payments = [sign(channel, PRICE) for _ in range(16)]
    assert [sent.intent.cumulative for sent in payments] == [PRICE * n for n in range(1, 17)]
    assert channel.unresolved == 16 * PRICE
    accepted = [gateway.accept(sent, PRICE) for sent in reversed(payments)]
    assert accepted == [True] * 16
    for sent in payments:
        channel.resolved(gateway.finish(sent, PRICE, PRICE))
    assert channel.totals == Totals(16_000, 16_000, 16_000)


def test_charged_less_than_the_ceiling_counts_what_was_charged():
    channel, gateway = an_agent(), Model()
    pay(channel, gateway, charged=400)
    assert sign(channel, PRICE).intent.cumulative == 1_400


def test_an_unresolved_payment_stays_counted_until_its_deadline_and_the_skew():
    channel = an_agent()
    first = sign(channel, PRICE)
    edge = first.intent.deadline + CLOCK_SKEW_S
    assert sign(channel, PRICE, edge).intent.cumulative == 2_000
    assert channel.unresolved == 2_000
    assert sign(channel, PRICE, edge + 1).intent.cumulative == 2_000
    assert not channel.is_open(first.digest)
    assert channel.signed == 2_000


def test_a_payment_that_was_charged_after_all_is_followed_after_its_deadline():
    channel, gateway = an_agent(), Model()
    lost = sign(channel, PRICE)
    assert gateway.accept(lost, PRICE)
    gateway.finish(lost, PRICE, PRICE)
    later = lost.intent.deadline + CLOCK_SKEW_S + 1
    sent = sign(channel, PRICE, later)
    assert sent.intent.cumulative == 1_000
    assert not gateway.accept(sent, PRICE)
    channel.too_low(sent.digest)
    assert channel.correct(gateway.correction(), gateway.receipt, 0)
    again = sign(channel, PRICE, later)
    assert gateway.accept(again, PRICE)
    channel.resolved(gateway.finish(again, PRICE, PRICE))
    assert channel.served == gateway.served == 2_000


def test_a_refused_payment_is_not_counted():
    channel = an_agent()
    channel.refused(sign(channel, PRICE).digest)
    channel.not_sent(sign(channel, PRICE).digest)
    assert channel.unresolved == 0
    assert sign(channel, PRICE).intent.cumulative == 1_000


def test_a_process_that_lost_its_state_starts_from_the_gateways_proof():
    gateway = Model()
    before = an_agent()
    for _ in range(200):
        pay(before, gateway)
    after = an_agent()
    sent = sign(after, PRICE)
    assert not gateway.accept(sent, PRICE)
    after.too_low(sent.digest)
    assert after.correct(gateway.correction(), gateway.receipt, 0)
    assert after.totals == Totals(total=200_000, served=200_000, signed=200_000)
    # The refused payment had doubled the headroom from nothing to one price.
    assert [pay(after, gateway).intent.cumulative for _ in range(3)] == [202_000, 203_000, 204_000]
    assert gateway.served == after.served == 203_000


def test_a_process_that_lost_its_state_starts_even_where_the_gateway_lost_its_receipts():
    gateway = Model()
    before = an_agent()
    for _ in range(200):
        pay(before, gateway)
    after = an_agent()
    after.too_low(sign(after, PRICE).digest)
    assert after.correct(gateway.correction(), None, 0)
    assert gateway.accept(sign(after, PRICE), PRICE)


def test_a_process_that_kept_its_state_goes_on_without_a_refusal():
    channel, gateway = an_agent(), Model()
    for _ in range(5):
        pay(channel, gateway)
    again = an_agent(channel.totals)
    assert pay(again, gateway).intent.cumulative == 6_000


def test_old_state_is_corrected():
    channel, gateway = an_agent(), Model()
    pay(channel, gateway)
    old = channel.totals
    for _ in range(100):
        pay(channel, gateway)
    again = an_agent(old)
    sent = sign(again, PRICE)
    assert not gateway.accept(sent, PRICE)
    again.too_low(sent.digest)
    assert again.correct(gateway.correction(), gateway.receipt, 0)
    pay(again, gateway)
    assert gateway.served == 102_000


@pytest.mark.parametrize(
    "correction",
    [
        pytest.param(Correction(50_000, None), id="no voucher"),
        pytest.param(Correction(50_000, a_voucher(49_999)), id="voucher below the total"),
        pytest.param(Correction(50_000, a_voucher(50_000, STRANGER)), id="another key"),
        pytest.param(
            Correction(50_000, a_voucher(50_000, address=NETWORK.channel(STRANGER.public, GATEWAY.public))),
            id="another channel",
        ),
    ],
)
def test_a_correction_that_proves_nothing_is_not_followed(correction):
    channel = an_agent()
    channel.too_low(sign(channel, PRICE).digest)
    before = channel.totals
    assert not channel.correct(correction, a_receipt(b"\x01" * 32, charged=1, served_total=50_000), 49_999)
    assert channel.totals == before


def test_the_chains_watermark_proves_a_total_without_a_voucher():
    channel = an_agent()
    assert channel.correct(Correction(50_000, None), None, 50_000)
    assert channel.totals == Totals(50_000, 50_000, 50_000)
    assert sign(channel, PRICE).intent.cumulative == 51_000


def test_a_receipts_total_above_everything_signed_is_not_followed():
    channel = an_agent()
    sent = sign(channel, PRICE)
    channel.resolved(a_receipt(sent.digest, charged=PRICE, served_total=10**12))
    assert channel.totals == Totals(1_000, 1_000, 1_000)
    assert sign(channel, PRICE).intent.cumulative == 2_000


def test_a_receipts_total_that_our_payments_do_not_explain_is_not_followed():
    channel, gateway = an_agent(), Model()
    for _ in range(3):
        channel.headroom.too_low(channel.headroom.prices)
    sent = sign(channel, PRICE)
    assert sent.intent.cumulative == 5_000
    channel.resolved(a_receipt(sent.digest, charged=PRICE, served_total=5_000))
    assert channel.totals == Totals(total=1_000, served=1_000, signed=5_000)
    assert gateway.served == 0


def test_a_gateway_that_shows_us_our_own_vouchers_stops_at_the_bound():
    channel = an_agent()
    refusals = 0
    while (sent := sign_unless_exposed(channel)) is not None:
        refusals += 1
        assert refusals < 20
        channel.too_low(sent.digest)
        voucher = sent.intent.voucher(sent.signature)
        lie = a_receipt(b"\x07" * 32, charged=PRICE, served_total=sent.intent.cumulative)
        assert channel.correct(Correction(sent.intent.cumulative, voucher), lie, 0)
    assert channel.signed == (MAX_PRICES + 1) * PRICE
    with pytest.raises(GatewayExposureError) as raised:
        channel.quote(PRICE, NOW)
    assert (raised.value.signed, raised.value.served) == (channel.signed, 0)
    assert raised.value.claimed == channel.signed


def test_swallowed_payments_count_when_their_deadlines_have_passed():
    channel = an_agent()
    now = float(NOW)
    signed = 0
    while (sent := sign_unless_exposed(channel, now)) is not None:
        signed += 1
        assert signed <= MAX_PRICES + 1
        now = sent.intent.deadline + CLOCK_SKEW_S + 1
        channel.correct(Correction(sent.intent.cumulative, sent.intent.voucher(sent.signature)), None, 0)
    assert signed == MAX_PRICES + 1
    assert channel.signed == (MAX_PRICES + 1) * PRICE


def test_after_many_voids_a_gateway_is_still_paid():
    channel, gateway = an_agent(), Model()
    for _ in range(20):
        payments = [sign(channel, PRICE) for _ in range(100)]
        for sent in payments:
            assert gateway.accept(sent, PRICE)
        for sent in payments:
            channel.resolved(gateway.finish(sent, PRICE, 0))
    assert channel.signed == 100 * PRICE
    assert pay(channel, gateway).intent.cumulative == 1_000


def test_a_second_live_process_is_recognised_and_its_receipts_count():
    gateway, ours, theirs = Model(), an_agent(), an_agent()
    for _ in range(400):
        for channel in (ours, theirs):
            for _attempt in range(4):
                sent = sign(channel, PRICE)
                if gateway.accept(sent, PRICE):
                    channel.resolved(gateway.finish(sent, PRICE, PRICE))
                    break
                channel.too_low(sent.digest)
                assert channel.correct(gateway.correction(), gateway.receipt, 0)
            else:
                pytest.fail("no progress")
    assert gateway.served == 800 * PRICE
    assert gateway.highest <= gateway.served + 2 * MAX_PRICES * PRICE


def shared_channel() -> Channel:
    """A channel that has seen two vouchers of another process: somebody else pays with our key."""
    channel = an_agent()
    for cumulative in (10 * PRICE, 20 * PRICE):
        assert channel.correct(Correction(cumulative, a_voucher(cumulative)), None, 0)
    return channel


def test_the_first_voucher_of_another_process_is_where_we_start_whatever_its_receipt_says():
    channel = an_agent()
    receipt = a_receipt(b"\x01" * 32, charged=1, served_total=100 * PRICE)
    assert channel.correct(Correction(10 * PRICE, a_voucher(100 * PRICE)), receipt, 0)
    assert channel.totals == Totals(total=10 * PRICE, served=10 * PRICE, signed=100 * PRICE)


def test_a_receipt_for_another_process_counts_up_to_the_voucher_shown_with_it():
    channel = shared_channel()
    assert channel.totals == Totals(total=20 * PRICE, served=10 * PRICE, signed=20 * PRICE)
    lie = a_receipt(b"\x01" * 32, charged=1, served_total=10**12)
    assert channel.correct(Correction(30 * PRICE, a_voucher(40 * PRICE)), lie, 0)
    assert channel.totals == Totals(total=30 * PRICE, served=40 * PRICE, signed=40 * PRICE)


def test_what_another_process_authorised_covers_us_up_to_its_highest_total():
    channel = shared_channel()
    assert channel.is_covered_by_others(20 * PRICE)
    assert not channel.is_covered_by_others(20 * PRICE + 1)
    assert not an_agent().is_covered_by_others(0)


def test_a_receipt_for_another_process_counts_only_under_the_gateways_signature():
    channel = shared_channel()
    forged = a_receipt(b"\x01" * 32, charged=1, served_total=30 * PRICE, key=STRANGER)
    assert channel.correct(Correction(30 * PRICE, a_voucher(30 * PRICE)), forged, 0)
    assert channel.served == 10 * PRICE


def test_with_another_process_a_receipts_total_is_followed_up_to_what_is_known_to_be_signed():
    channel = shared_channel()
    sent = sign(channel, PRICE)
    channel.resolved(a_receipt(sent.digest, charged=PRICE, served_total=10**12))
    assert sent.intent.cumulative == 21 * PRICE
    assert channel.totals == Totals(21 * PRICE, 21 * PRICE, 21 * PRICE)


def test_what_another_process_has_authorised_may_be_used_beyond_our_own_bound():
    """Many processes with many payments in flight: the committed total is far above what is proven, but all
    of it is signed already."""
    channel = shared_channel()
    assert channel.correct(Correction(90 * PRICE, a_voucher(100 * PRICE)), None, 0)
    assert channel.served == 10 * PRICE
    signed = [sign(channel, PRICE).intent.cumulative // PRICE for _ in range(12)]
    assert signed == [*range(91, 101), 100, 100]
    assert channel.signed == 100 * PRICE


def test_a_payment_still_open_is_proven_by_its_own_receipt_only():
    channel = an_agent()
    first, second = sign(channel, PRICE), sign(channel, PRICE)
    channel.resolved(a_receipt(second.digest, charged=PRICE, served_total=2 * PRICE))
    assert channel.totals == Totals(total=2 * PRICE, served=PRICE, signed=2 * PRICE)
    channel.resolved(a_receipt(first.digest, charged=PRICE, served_total=PRICE))
    assert sign(channel, PRICE).intent.cumulative == 3 * PRICE


def test_an_idle_process_catches_up_however_far_the_other_went():
    gateway, idle, busy = Model(), an_agent(), an_agent()
    pay(idle, gateway)
    for _ in range(3):
        for _ in range(500):
            sent = sign(busy, PRICE)
            if not gateway.accept(sent, PRICE):
                busy.too_low(sent.digest)
                assert busy.correct(gateway.correction(), gateway.receipt, 0)
                continue
            busy.resolved(gateway.finish(sent, PRICE, PRICE))
        for _attempt in range(3):
            sent = sign(idle, PRICE)
            if gateway.accept(sent, PRICE):
                idle.resolved(gateway.finish(sent, PRICE, PRICE))
                break
            idle.too_low(sent.digest)
            assert idle.correct(gateway.correction(), gateway.receipt, 0)
        else:
            pytest.fail("no progress")


def test_totals_never_pass_64_bits():
    channel = an_agent(Totals(U64_MAX - 10, U64_MAX - 10, U64_MAX - 10))
    assert sign(channel, 10).intent.cumulative == U64_MAX
    channel.settled(U64_MAX)
    with pytest.raises(GatewayExposureError):
        channel.quote(1, NOW)


def test_memory_of_own_signatures_is_bounded():
    channel = an_agent()
    for _ in range(REMEMBERED_SIGNATURES + 10):
        channel.refused(sign(channel, 0).digest)
    assert len(channel._made) == REMEMBERED_SIGNATURES
