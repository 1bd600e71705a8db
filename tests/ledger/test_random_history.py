"""Random histories, seeded by hypothesis: the books always balance and never lie about what was possible."""

from collections import defaultdict

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.ledger import chart
from apps.ledger.errors import IdempotencyConflict, InsufficientFunds
from apps.ledger.selectors import balance
from apps.ledger.services import post
from apps.ledger.types import AccountRef, Leg, Transfer
from tests.ledger.conftest import assert_books_balance

USDC = "usdc"
ACCOUNTS: list[AccountRef] = [
    chart.deposits(USDC),
    chart.bond("a", USDC),
    chart.bond("b", USDC),
    chart.spent_unsettled("a", USDC),
    chart.unsettled("v", "g", USDC),
    chart.settled("v", "g", USDC),
]
MAY_BE_NEGATIVE = {ACCOUNTS[0], ACCOUNTS[3]}


@st.composite
def transfers(draw: st.DrawFn) -> Transfer:
    accounts = draw(st.lists(st.sampled_from(ACCOUNTS), min_size=2, max_size=4, unique=True))
    amounts = draw(
        st.lists(st.integers(-500, 2000), min_size=len(accounts) - 1, max_size=len(accounts) - 1).filter(
            lambda values: all(values) and sum(values) != 0
        )
    )
    legs = tuple(
        Leg(account, amount) for account, amount in zip(accounts, [*amounts, -sum(amounts)], strict=True)
    )
    # Few keys, so that histories repeat them.
    return Transfer(f"key-{draw(st.integers(0, 40))}", "deposit", legs)


@pytest.mark.django_db
@settings(
    max_examples=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batches=st.lists(st.lists(transfers(), min_size=1, max_size=6), min_size=1, max_size=6))
def test_any_history_equals_its_own_fold(batches: list[list[Transfer]]):
    expected: dict[AccountRef, int] = defaultdict(int)
    content: dict[str, bytes] = {}
    with transaction.atomic():
        for batch in batches:
            wanted = dict(expected)
            known = dict(content)
            possible = True
            for transfer in batch:
                if transfer.key in known:
                    possible = possible and known[transfer.key] == transfer.input_hash
                    continue
                known[transfer.key] = transfer.input_hash
                for leg in transfer.legs:
                    wanted[leg.account] = wanted.get(leg.account, 0) + leg.amount_atomic
                    possible = possible and (wanted[leg.account] >= 0 or leg.account in MAY_BE_NEGATIVE)
            try:
                with transaction.atomic():
                    post(batch)
            except (InsufficientFunds, IdempotencyConflict):
                assert not possible
            else:
                assert possible
                expected.update(wanted)
                content = known
            assert {account: balance(account) for account in ACCOUNTS} == {
                a: expected.get(a, 0) for a in ACCOUNTS
            }
        assert_books_balance()
        transaction.set_rollback(True)
