"""Asking for payouts: amounts, wallets, limits, references, and what the database refuses by itself."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from apps.core.money import InvalidAmount
from apps.ledger import chart
from apps.ledger.errors import InsufficientFunds
from apps.ledger.selectors import Funds, funds, trial_balance
from apps.ledger.services import post
from apps.ledger.types import Transfer
from apps.vendors.errors import (
    BadConfirmation,
    DestinationNotUsable,
    PayoutLimit,
    PayoutUnderWay,
    ReferenceUsed,
    UnknownDestination,
)
from apps.vendors.models import Payout, PayoutAttempt, PayoutDestination
from apps.vendors.services import destinations, execution, payouts
from apps.vendors.services.payouts import amount_of, cancel_payout, request_payout, withdraw
from machpay.protocol.keys import SigningKey

MINT = "mint"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def books_balance(db):
    yield
    assert [book.total_atomic for book in trial_balance() if book.total_atomic] == []


@pytest.fixture
def user() -> int:
    """A user with 100 USDC."""
    user_id = get_user_model().objects.create_user(username="vendor").pk
    post(
        [
            Transfer.move(
                "in",
                "custody_deposit",
                debit=chart.custody_deposits(MINT),
                credit=chart.custodial(user_id, MINT),
                amount_atomic=100_000_000,
            )
        ]
    )
    return user_id


@pytest.fixture
def wallet(user) -> SigningKey:
    """The user's confirmed wallet, its cooling-off over."""
    key = SigningKey.generate()
    confirm(user, key)
    PayoutDestination.objects.update(usable_from=timezone.now())
    return key


def confirm(user_id: int, key: SigningKey) -> PayoutDestination:
    row = destinations.add_destination(user_id, key.pubkey)
    signature = key.sign(destinations.challenge_text(row).encode())
    return destinations.confirm_destination(user_id, key.pubkey, signature)


def ask(user_id: int, key: SigningKey, amount: int, reference: str = "payout_001") -> Payout:
    return request_payout(
        user_id=user_id, wallet=key.pubkey, amount_atomic=amount, reference=reference, mint=MINT
    )


def has(user_id: int) -> Funds:
    return funds(chart.custodial(user_id, MINT))


def refused(error: type[Exception], user_id: int, work) -> None:
    """`work` raises `error`; no payout was stored and nothing is held by it."""
    before = has(user_id), Payout.objects.count()
    with pytest.raises(error), transaction.atomic():
        work()
    assert (has(user_id), Payout.objects.count()) == before


# ---- amounts


@pytest.mark.parametrize(
    ("said", "atomic"),
    [
        ({"amount": "500.00"}, 500_000_000),
        ({"amount": Decimal("0.000001")}, 1),
        ({"amount": 3}, 3_000_000),
        ({"amount_atomic": 7}, 7),
    ],
)
def test_an_amount_is_usdc_or_atomic_units(said, atomic):
    assert amount_of(**said) == atomic


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"amount": "1", "amount_atomic": 1},
        {"amount": "0"},
        {"amount": "-1"},
        {"amount": "0.0000001"},
        {"amount": "1e3"},
        {"amount": 0.1},
        {"amount_atomic": 0},
        {"amount_atomic": True},
    ],
)
def test_an_amount_that_is_none_is_refused(said):
    with pytest.raises(InvalidAmount):
        amount_of(**said)


# ---- wallets


def test_a_wallet_is_usable_once_it_has_signed_and_the_cooling_off_is_over(user, settings):
    settings.PAYOUT_COOLING_OFF_S = 3600
    key = SigningKey.generate()
    refused(UnknownDestination, user, lambda: ask(user, key, 1_000_000))
    destinations.add_destination(user, key.pubkey)
    refused(DestinationNotUsable, user, lambda: ask(user, key, 1_000_000))
    row = confirm(user, key)
    assert row.usable_from - row.confirmed_at == timedelta(hours=1)
    refused(DestinationNotUsable, user, lambda: ask(user, key, 1_000_000))

    PayoutDestination.objects.update(usable_from=timezone.now())
    assert ask(user, key, 1_000_000).status == "PENDING"


def test_only_the_wallets_own_signature_over_this_users_challenge_confirms(user, wallet):
    key, stranger = SigningKey.generate(), SigningKey.generate()
    row = destinations.add_destination(user, key.pubkey)
    text = destinations.challenge_text(row).encode()
    other = get_user_model().objects.create_user(username="other").pk
    for_other = destinations.add_destination(other, key.pubkey)
    signatures = [
        stranger.sign(text),
        key.sign(text + b" "),
        key.sign(destinations.challenge_text(for_other).encode()),
    ]
    for signature in signatures:
        with pytest.raises(BadConfirmation):
            destinations.confirm_destination(user, key.pubkey, signature)
    row.refresh_from_db()
    assert row.confirmed_at is None


def test_confirming_again_does_not_move_the_cooling_off(user, settings):
    settings.PAYOUT_COOLING_OFF_S = 3600
    key = SigningKey.generate()
    assert confirm(user, key).usable_from == confirm(user, key).usable_from


def test_a_wallet_removed_and_named_again_begins_anew(user, wallet):
    destinations.remove_destination(user, wallet.pubkey)
    refused(UnknownDestination, user, lambda: ask(user, wallet, 1_000_000))
    destinations.add_destination(user, wallet.pubkey)
    refused(DestinationNotUsable, user, lambda: ask(user, wallet, 1_000_000))


def test_somebody_elses_wallet_is_unknown(user, wallet):
    other = get_user_model().objects.create_user(username="other").pk
    refused(UnknownDestination, other, lambda: ask(other, wallet, 1_000_000))


# ---- requests


def test_a_request_holds_its_amount(user, wallet):
    payout = ask(user, wallet, 60_000_000)

    assert (payout.status, payout.amount_atomic, payout.wallet) == ("PENDING", 60_000_000, wallet.pubkey)
    assert has(user) == (100_000_000, 60_000_000)
    refused(InsufficientFunds, user, lambda: ask(user, wallet, 40_000_001, "payout_002"))
    ask(user, wallet, 40_000_000, "payout_002")
    assert has(user).spendable_atomic == 0


def test_a_reference_stands_for_one_payout(user, wallet):
    first = ask(user, wallet, 60_000_000)
    assert ask(user, wallet, 60_000_000).pk == first.pk
    assert has(user) == (100_000_000, 60_000_000)
    refused(ReferenceUsed, user, lambda: ask(user, wallet, 60_000_001))


def test_limits(user, wallet, settings, monkeypatch):
    settings.PAYOUT_MINIMUM_ATOMIC = 1_000_000
    settings.PAYOUT_DAILY_LIMIT_ATOMIC = 50_000_000
    refused(PayoutLimit, user, lambda: ask(user, wallet, 999_999))
    refused(PayoutLimit, user, lambda: ask(user, wallet, 50_000_001))
    first = ask(user, wallet, 30_000_000)
    refused(PayoutLimit, user, lambda: ask(user, wallet, 20_000_001, "payout_002"))
    # What failed paid nothing, and what is older than a day counts no more.
    cancel_payout(first.pk, by_id=user)
    ask(user, wallet, 50_000_000, "payout_003")
    refused(PayoutLimit, user, lambda: ask(user, wallet, 1_000_000, "payout_004"))
    monkeypatch.setattr(payouts, "_DAY", timedelta(0))
    assert ask(user, wallet, 50_000_000, "payout_004").status == "PENDING"


def test_withdrawing_queues_the_vendors_settlement_after_the_commit(
    user, wallet, django_capture_on_commit_callbacks
):
    with django_capture_on_commit_callbacks() as queued:
        payout = withdraw(
            user_id=user,
            vendors=["vendor-b", "vendor-a", "vendor-b"],
            wallet=wallet.pubkey,
            amount_atomic=10_000_000,
            reference="w",
            mint=MINT,
        )
    assert payout.status == "PENDING"
    sent = [(work.args, work.keywords) for work in queued]
    assert sent == [
        (("settlement.settle_vendor",), {"args": ("vendor-a",)}),
        (("settlement.settle_vendor",), {"args": ("vendor-b",)}),
    ]


def test_a_refused_withdrawal_queues_nothing(user, wallet, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks() as queued, pytest.raises(InsufficientFunds):
        withdraw(
            user_id=user,
            vendors=["vendor-a"],
            wallet=wallet.pubkey,
            amount_atomic=100_000_001,
            reference="w",
            mint=MINT,
        )
    assert queued == []
    assert Payout.objects.count() == 0


def test_a_pending_payout_is_cancelled_and_one_on_its_way_is_not(user, wallet):
    payout = ask(user, wallet, 10_000_000)
    assert cancel_payout(payout.pk, by_id=user).status == "FAILED"
    assert has(user) == (100_000_000, 0)
    sent = claim(ask(user, wallet, 10_000_000, "payout_002"))
    with pytest.raises(PayoutUnderWay):
        cancel_payout(sent.payout_id, by_id=user)
    assert has(user) == (100_000_000, 10_000_000)


# ---- what the database refuses by itself


def claim(payout: Payout) -> execution.OpenAttempt:
    """The payout's next attempt, with bytes that no chain will ever see."""
    (attempt,) = execution.claim_payouts(
        lambda row: execution.SignedPayout(b"bytes", f"signature-{row.pk}-{row.attempt_count}", 100), limit=1
    )
    assert attempt.payout_id == payout.pk
    return attempt


def sql_refused(sql: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE payouts SET amount_atomic = 1", "keeps what it was requested as"),
        ("UPDATE payouts SET wallet = 'thief'", "keeps what it was requested as"),
        ("UPDATE payouts SET status = 'PENDING'", "attempts say otherwise"),
        ("UPDATE payouts SET status = 'FAILED', ended_at = now()", "attempts say otherwise"),
        (
            "UPDATE payouts SET status = 'CONFIRMED', tx_hash = 'x', ended_at = now()",
            "attempts say otherwise",
        ),
        ("UPDATE payouts SET status = 'CONFIRMED', ended_at = now()", "attempts say otherwise|payouts_end"),
        ("DELETE FROM payout_attempts", "kept for ever"),
        ("DELETE FROM payouts", "kept for ever"),
        ("UPDATE payout_attempts SET raw_transaction = 'other'", "bytes that were signed"),
        ("UPDATE payout_attempts SET signature = 'other'", "bytes that were signed"),
        ("UPDATE payout_attempts SET outcome = 'LANDED'", "payout_attempts_end"),
        (
            "INSERT INTO payout_attempts (payout_id, number, signature, raw_transaction, last_valid_block_height,"
            " outcome, send_count, error) SELECT payout_id, 2, 'second', 'x', 1, 'OPEN', 0, '' FROM payout_attempts",
            "payout_attempts_one_alive",
        ),
    ],
    ids=lambda value: value[:40],
)
def test_a_payout_on_its_way_cannot_be_changed_around_the_services(user, wallet, sql, message):
    claim(ask(user, wallet, 10_000_000))
    sql_refused(sql, message)
    assert Payout.objects.get().status == "SENT"


def test_an_ended_payout_stays_ended(user, wallet):
    attempt = claim(ask(user, wallet, 10_000_000))
    assert execution.mark_paid(attempt.id, slot=5, mint=MINT)
    assert not execution.mark_paid(attempt.id, slot=5, mint=MINT)
    assert execution.mark_not_paid(attempt.id, outcome="EXPIRED", error="late") is None
    assert has(user) == (90_000_000, 0)
    sql_refused("UPDATE payouts SET status = 'PENDING', ended_at = NULL, tx_hash = ''", "has ended")
    sql_refused("UPDATE payout_attempts SET outcome = 'EXPIRED'", "is decided")


def test_after_the_last_attempt_the_balance_comes_back(user, wallet, monkeypatch):
    monkeypatch.setattr(execution, "ATTEMPTS_MAX", 2)
    payout = ask(user, wallet, 10_000_000)
    first = claim(payout)
    again = execution.mark_not_paid(first.id, outcome="EXPIRED", error="not found")
    assert (again.status, again.attempt_count) == ("PENDING", 1)
    assert execution.claim_payouts(lambda row: pytest.fail("too early"), limit=1) == []
    assert has(user) == (100_000_000, 10_000_000)

    Payout.objects.update(not_before=None)
    second = claim(payout)
    failed = execution.mark_not_paid(second.id, outcome="FAILED", error="no account", slot=7)
    assert (failed.status, failed.error) == ("FAILED", "no account")
    assert has(user) == (100_000_000, 0)
    assert list(PayoutAttempt.objects.order_by("id").values_list("outcome", flat=True)) == [
        "EXPIRED",
        "FAILED",
    ]


def test_the_admin_cancels_with_a_trail(user, wallet, admin_client, admin_user):
    payout = ask(user, wallet, 10_000_000)
    assert admin_client.get("/admin/vendors/payout/").status_code == 200
    assert admin_client.get(f"/admin/vendors/payout/{payout.pk}/change/").status_code == 200
    answer = admin_client.post(
        "/admin/vendors/payout/", {"action": "cancel", "_selected_action": [payout.pk]}, follow=True
    )
    assert answer.status_code == 200
    payout.refresh_from_db()
    assert (payout.status, payout.cancelled_by_id) == ("FAILED", admin_user.pk)
    assert has(user) == (100_000_000, 0)
    assert LogEntry.objects.get().object_id == str(payout.pk)
