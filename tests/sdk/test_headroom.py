"""Headroom doubles when payments are too low, counts a burst once, and shrinks in calm."""

from hypothesis import given
from hypothesis import strategies as st

from machpay.client.headroom import CALM_PAYMENTS, MAX_PRICES, Headroom


def test_starts_at_zero_and_doubles_from_one_to_the_cap():
    headroom = Headroom()
    seen = [headroom.prices]
    for _ in range(9):
        headroom.too_low(headroom.prices)
        seen.append(headroom.prices)
    assert seen == [0, 1, 2, 4, 8, 16, 32, 64, 64, 64]


def test_payments_that_fail_together_double_it_once():
    headroom = Headroom()
    for _ in range(16):
        headroom.too_low(signed_with=0)
    assert headroom.prices == 1


def test_calm_halves_it_down_to_zero():
    headroom = Headroom()
    for _ in range(3):
        headroom.too_low(headroom.prices)
    seen = []
    for _ in range(4):
        for _ in range(CALM_PAYMENTS - 1):
            headroom.accepted()
        before = headroom.prices
        headroom.accepted()
        seen.append((before, headroom.prices))
    assert seen == [(4, 2), (2, 1), (1, 0), (0, 0)]


def test_a_refusal_ends_the_calm():
    headroom = Headroom()
    headroom.too_low(0)
    for _ in range(CALM_PAYMENTS - 1):
        headroom.accepted()
    headroom.too_low(signed_with=0)
    headroom.accepted()
    assert headroom.prices == 1


@given(st.lists(st.one_of(st.none(), st.integers(0, MAX_PRICES)), max_size=300))
def test_never_leaves_its_bounds(events):
    headroom = Headroom()
    for event in events:
        if event is None:
            headroom.accepted()
        else:
            headroom.too_low(event)
        assert 0 <= headroom.prices <= MAX_PRICES
