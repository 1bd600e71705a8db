"""What vendors are owed is found without reading what was ever distributed."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from apps.payments.models import Settlement
from apps.payments.selectors.owed import Owed, owed_vendors
from apps.payments.services.chain_mirror import apply_chain_snapshot
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import registered
from tests.payments.factories import Party, agent_account, chain_state, channel_account

pytestmark = pytest.mark.django_db

FILL = """
INSERT INTO payments_settlement (
    kind, vendor, state, signature, raw_transaction, last_valid_block_height, channel_count, planned_atomic,
    paid_atomic, slot, error, send_count, ended_at
)
SELECT 'DISTRIBUTE', %s, CASE n %% 10 WHEN 0 THEN 'FAILED' ELSE 'FINALIZED' END, 'signature' || n, '', 0, 0, 1, 1,
    n, '', 1, now() - interval '1 day'
FROM generate_series(1, 3000) n
"""


@pytest.fixture
def owing(bound) -> Party:
    """A party with one channel that is owed 40, and 3,000 distributions behind it."""
    party, agent = registered(), SigningKey.generate().public
    account = agent_account(agent, deposited=1_000, paid=100)
    channel = channel_account(agent, party, settled=100, owed=40)
    apply_chain_snapshot(chain_state(1, [account], [channel], [party]))
    with connection.cursor() as cursor:
        cursor.execute(FILL, [str(party.vendor)])
        cursor.execute("ANALYZE payments_settlement")
    return party


def owed() -> list[Owed]:
    return owed_vendors(limit=10, vendor=None, not_failed_since=timezone.now() - timedelta(minutes=10))


def test_no_distribution_of_the_past_is_read(owing):
    plans = []

    def explained(execute, sql, params, many, context):
        if "payments_settlement" in sql:
            cursor = context["cursor"].cursor
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
            plans.append(cursor.fetchone()[0][0]["Plan"])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explained):
        (found,) = owed()

    assert (found.vendor, [amount for _, amount in found.channels]) == (str(owing.vendor), [40])
    assert [rows_read(plan) for plan in plans] == [0]


@pytest.mark.parametrize(
    ("change", "is_due"),
    [
        ({"state": "SENT", "paid_atomic": None, "ended_at": None}, False),
        ({"state": "FINALIZED", "paid_atomic": None}, False),
        ({"state": "FAILED", "paid_atomic": None, "ended_at": Now()}, False),
        ({"state": "FAILED", "paid_atomic": None}, True),
        ({"kind": "SETTLE", "state": "SENT", "paid_atomic": None, "ended_at": None}, True),
    ],
)
def test_a_vendor_waits_for_the_distribution_before(owing, change: dict[str, Any], is_due: bool):
    # What ended stays ended, so the newest is stored anew.
    row = Settlement.objects.order_by("-id")[0]
    row.delete()
    for field, value in change.items():
        setattr(row, field, value)
    row.save(force_insert=True)

    assert [each.vendor for each in owed()] == ([str(owing.vendor)] if is_due else [])


def rows_read(plan: dict[str, Any]) -> int:
    """Settlements that a plan looked at, used or not."""
    own = 0
    if plan.get("Relation Name") == "payments_settlement":
        own = int((plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"])
    return own + sum(rows_read(part) for part in plan.get("Plans", []))
