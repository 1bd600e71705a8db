"""Who gets how much of a bond that does not cover everything."""

from hypothesis import given
from hypothesis import strategies as st

from apps.payments.selectors.solvency import Due, _overlap
from apps.settlement.services.shares import fair_shares, pro_rata


def test_what_was_leased_comes_first_and_the_rest_is_shared() -> None:
    dues = [Due("a", 600, leased_atomic=400), Due("b", 300), Due("c", 100, leased_atomic=100)]
    assert fair_shares(1_000, dues) == {"a": 600, "b": 300, "c": 100}
    # 500 leased, then 250 over 200 and 300.
    assert fair_shares(750, dues) == {"a": 500, "b": 150, "c": 100}
    assert fair_shares(250, dues) == {"a": 200, "b": 0, "c": 50}
    assert fair_shares(0, dues) == {"a": 0, "b": 0, "c": 0}


def test_what_is_leased_and_not_charged_yet_is_kept_from_charges_without_a_lease() -> None:
    dues = [Due("a", 600, leased_atomic=400), Due("b", 300)]
    assert fair_shares(1_000, dues, unused_leases=100) == {"a": 600, "b": 300}
    # 400 leased, then 150 over 200 and 300.
    assert fair_shares(1_000, dues, unused_leases=450) == {"a": 460, "b": 90}
    assert fair_shares(1_000, dues, unused_leases=600) == {"a": 400, "b": 0}
    assert fair_shares(300, dues, unused_leases=600) == {"a": 300, "b": 0}


def test_units_that_do_not_divide_go_to_the_largest_remainders() -> None:
    assert pro_rata(10, {"a": 1, "b": 1, "c": 1_000}) == {"a": 0, "b": 0, "c": 10}
    assert pro_rata(2, {"a": 1, "b": 1, "c": 1}) == {"a": 1, "b": 1, "c": 0}


@given(st.integers(0, 10**12), st.dictionaries(st.text(max_size=3), st.integers(0, 10**12), max_size=8))
def test_all_of_the_amount_is_given_and_nobody_gets_more_than_is_due(
    amount: int, due: dict[str, int]
) -> None:
    shares = pro_rata(amount, due)
    assert sum(shares.values()) == min(amount, sum(due.values()))
    assert all(0 <= shares[key] <= due[key] for key in due)


def test_charges_under_two_leases_count_once() -> None:
    assert _overlap([(0, 100), (50, 150), (150, 200)], 40, 180) == 140
    assert _overlap([(0, 30)], 40, 180) == 0
    assert _overlap([], 0, 10) == 0
