"""Users pay each other from balance to balance, and the view that shows every payment in one shape."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection, transaction

from apps.core.money import InvalidAmount
from apps.ledger import chart
from apps.ledger.errors import InsufficientFunds
from apps.ledger.selectors import balance
from apps.payments.errors import PaymentToSelf, ReferenceUsed, UnknownUser
from apps.payments.models import CustodialPayment, PaymentIntent, Transaction
from apps.payments.selectors.transactions import transactions
from apps.payments.services.custody import SeenDeposit, deposit_reference, pay, record_deposits
from machpay.protocol.nonces import new_nonce
from tests.payments.conftest import deliver
from tests.payments.factories import MINT

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
pytestmark = pytest.mark.django_db


@pytest.fixture
def ann(db) -> int:
    """A user with 100."""
    user_id = get_user_model().objects.create_user(username="ann").pk
    seen = SeenDeposit("sig", "0.0", 100, "", (deposit_reference(user_id),), 1)
    record_deposits([seen], mint=MINT, signature="sig", slot=1)
    return user_id


@pytest.fixture
def bob(db) -> int:
    return get_user_model().objects.create_user(username="bob").pk


def has(user_id: int) -> int:
    return balance(chart.custodial(user_id, MINT))


def give(payer: int, payee: int, amount: int, reference: str = "r") -> CustodialPayment:
    return pay(payer_id=payer, payee_id=payee, amount_atomic=amount, reference=reference, mint=MINT)


def test_a_payment_moves_its_amount_once(ann, bob):
    first = give(ann, bob, 40)
    again = give(ann, bob, 40)

    assert first.pk == again.pk
    assert (has(ann), has(bob)) == (60, 40)


@pytest.mark.parametrize(
    ("error", "to", "amount", "reference"),
    [
        (InsufficientFunds, "bob", 61, "new"),
        (ReferenceUsed, "bob", 41, "r"),
        (PaymentToSelf, "ann", 1, "new"),
        (UnknownUser, "nobody", 1, "new"),
        (InvalidAmount, "bob", 0, "new"),
    ],
)
def test_a_payment_that_cannot_be_moves_nothing(ann, bob, error, to, amount, reference):
    give(ann, bob, 40)
    with pytest.raises(error), transaction.atomic():
        give(ann, {"ann": ann, "bob": bob, "nobody": 10**9}[to], amount, reference)
    assert (has(ann), has(bob)) == (60, 40)
    assert CustodialPayment.objects.count() == 1


def test_every_payment_is_a_transaction_of_one_shape(ann, bob, payer):
    paid = payer.pay(3_000_000, charged=2_500_000)
    deliver(paid, payer.pay(1, charged=0))
    made = give(ann, bob, 40)
    intent = PaymentIntent.objects.get(charged_atomic=2_500_000)

    custodial, charged = transactions(since=LONG_AGO)
    assert (custodial.id, custodial.kind, custodial.from_agent_id, custodial.to_vendor_id) == (
        f"custodial-{made.pk}",
        "custodial",
        ann,
        bob,
    )
    assert (custodial.status, custodial.settled_at, custodial.latency_ms) == (
        "SETTLED",
        made.created_at,
        None,
    )
    assert custodial.amount == Decimal("0.000040")
    assert (charged.id, charged.kind, charged.status, charged.settled_at) == (
        paid.intent.digest.hex(),
        "intent",
        "PENDING",
        None,
    )
    assert (charged.from_agent, charged.to_vendor, charged.gateway) == (
        payer.agent.pubkey,
        str(payer.gateway.vendor),
        payer.gateway.pubkey,
    )
    assert (charged.amount, charged.amount_atomic) == (Decimal("2.5"), 2_500_000)
    assert charged.created_at == intent.nonce_time
    assert Transaction.objects.values("hash").distinct().count() == 2


@pytest.mark.parametrize("later_s", [0, 1, 2])
def test_latency_is_what_the_gateways_event_says(payer, later_s):
    paid = payer.pay(1_000)
    deliver(paid)
    (before,) = transactions(since=LONG_AGO)
    assert before.latency_ms is None
    served_at = PaymentIntent.objects.get().served_at
    assert served_at is not None
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO payment_authorized (event_time, source, id, gateway, agent, amount_atomic, charged_atomic,"
            " http_status, latency_ms) VALUES (%s, %s, %s, %s, %s, 1000, 1000, 200, 12.6)",
            [
                served_at + timedelta(seconds=later_s),
                f"gateway:{payer.gateway.pubkey}",
                paid.intent.digest.hex(),
                payer.gateway.pubkey,
                payer.agent.pubkey,
            ],
        )
    (after,) = transactions(since=LONG_AGO)
    assert after.latency_ms == 13


def test_transactions_are_found_by_party_and_page_by_page(ann, bob, payer):
    deliver(*[payer.pay(1_000) for _ in range(3)])
    give(ann, bob, 40)

    assert {each.kind for each in transactions(since=LONG_AGO, user_id=bob)} == {"custodial"}
    mine = transactions(since=LONG_AGO, agent=payer.agent.pubkey)
    assert len(mine) == 3
    assert len(transactions(since=LONG_AGO, vendor=str(payer.gateway.vendor))) == 3
    assert transactions(since=datetime.now(UTC) + timedelta(days=1)) == []
    pages, before = [], None
    while page := transactions(since=LONG_AGO, limit=1, before=before):
        pages += page
        before = (page[-1].created_at, page[-1].id)
    assert [each.id for each in pages] == [each.id for each in transactions(since=LONG_AGO)]
    assert len(pages) == 4


def test_payments_of_one_moment_are_each_on_one_page(payer):
    """Nonces of one millisecond have one time; the digest decides the order among them."""
    moment = int(datetime.now(UTC).timestamp() * 1000)
    nonces = [new_nonce(moment) for _ in range(5)]
    deliver(*[payer.pay(1_000, nonce=nonce) for nonce in nonces])
    deliver(payer.pay(1_000))

    for limit in (1, 2, 3, 6):
        pages, before = [], None
        while page := transactions(since=LONG_AGO, agent=payer.agent.pubkey, limit=limit, before=before):
            pages.append(len(page))
            before = (page[-1].created_at, page[-1].id)
        assert sum(pages) == 6
        assert max(pages) == limit


FILL = """
INSERT INTO payment_intents (
    nonce_time, agent, nonce, channel, gateway, vendor, digest, amount_atomic, charged_atomic, charged_through_atomic,
    cumulative_atomic, deadline, request_hash, signature, status, http_status, gateway_seq
)
SELECT now() - (4000 - n) * interval '1 ms', 'agent' || n % 400, gen_random_uuid(), 'channel' || n % 400, 'gateway',
    'vendor', sha256(n::text::bytea), 10, 10, 10 * n, 10 * n, 0, '', '', 'SETTLED', 200, n
FROM generate_series(1, 4000) n
"""


def test_an_agents_page_reads_none_of_the_others_payments(bound):
    with connection.cursor() as cursor:
        cursor.execute(FILL)
        cursor.execute("ANALYZE payment_intents")
    plans = []

    def explained(execute, sql, params, many, context):
        if "payment_intents" in sql or "transactions" in sql:
            cursor = context["cursor"].cursor
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
            plans.append(cursor.fetchone()[0][0]["Plan"])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explained):
        page = transactions(since=LONG_AGO, agent="agent7", limit=3)

    assert [each.amount_atomic for each in page] == [10] * 3
    assert len(plans) == 2
    assert [rows_read(plan) for plan in plans] == [3, 3]


def rows_read(plan: dict[str, Any]) -> int:
    """Rows of the intents' table that a plan looked at, used or not."""
    own = 0
    if plan.get("Relation Name", "").startswith("payment_intents"):
        own = int((plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"])
    return own + sum(rows_read(part) for part in plan.get("Plans", []))
