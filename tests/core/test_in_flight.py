"""The bound on requests under way holds, whatever becomes of each."""

import pytest

from apps.core.asgi import Busy, InFlight


def test_one_more_than_the_limit_is_told_to_come_back_and_is_not_counted() -> None:
    bound = InFlight(2, "too many of them")
    with bound, bound:
        assert (bound.count, bound.is_full) == (2, True)
        with pytest.raises(Busy, match="too many of them") as raised, bound:
            pytest.fail("it was let in")
        assert raised.value.retry_after_s == 1
        assert bound.count == 2
    assert (bound.count, bound.is_full) == (0, False)


def test_one_that_fails_is_not_counted_any_more() -> None:
    bound = InFlight(1, "too many of them")
    with pytest.raises(ZeroDivisionError), bound:
        _ = 1 // 0
    assert bound.count == 0
