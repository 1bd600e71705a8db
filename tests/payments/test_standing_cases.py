"""Cases that nobody decides stay open: looking at them every few seconds costs the same however many there are."""

from datetime import UTC, datetime, timedelta

import pytest

from apps.payments.models import Case, Channel
from apps.payments.services import claims, overreports
from apps.payments.services.cases import open_case
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import deliver, registered
from tests.payments.factories import Payer

pytestmark = pytest.mark.django_db
CASES = 5


def charged() -> list[Payer]:
    """Channels of `CASES` gateways with 600 charged each."""
    payers = [Payer(SigningKey.generate(), registered()) for _ in range(CASES)]
    for payer in payers:
        deliver(payer.pay(600))
    return payers


def test_claims_ahead_are_looked_at_together(bound, django_assert_num_queries) -> None:
    for payer in charged():
        open_case(
            kind=Case.Kind.CLAIMED_AHEAD,
            subject=payer.gateway.pubkey,
            key=f"claimed:{payer.channel}:601",
            evidence={"channel": str(payer.channel), "settled": "601"},
        )

    with django_assert_num_queries(2):
        assert claims.resolve_covered() == 0

    Channel.objects.update(charged_total_atomic=601, credited_atomic=601)
    assert claims.resolve_covered() == CASES
    assert set(Case.objects.values_list("status", flat=True)) == {"RESOLVED"}


def test_charges_above_vouchers_are_looked_at_together_and_described_once(
    bound, django_assert_num_queries
) -> None:
    charged()
    Channel.objects.update(charged_total_atomic=700, credited_atomic=700)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert overreports.open_cases(unsettled_before=soon) == CASES

    with django_assert_num_queries(4):
        assert overreports.open_cases(unsettled_before=soon) == 0

    Channel.objects.update(highest_cumulative_atomic=700)
    assert overreports.open_cases(unsettled_before=soon) == 0
    assert set(Case.objects.values_list("status", flat=True)) == {"RESOLVED"}
