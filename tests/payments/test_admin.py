"""Operators read the registry, the channels, the settlements and the books; nobody edits them."""

from datetime import timedelta

import pytest
from django.contrib import admin
from django.db import transaction
from django.db.models import Model
from django.urls import reverse

from apps.payments.models import Settlement
from apps.payments.selectors.due import DuePolicy
from apps.payments.services.chain_mirror import apply_chain_snapshot
from apps.payments.services.settlements import claim_due_channels, store_settlement
from tests.payments.conftest import deliver, registered
from tests.payments.factories import Payer, agent_account, chain_state

pytestmark = pytest.mark.django_db


@pytest.fixture
def populated(payer):
    """One row of everything that the admin shows."""
    apply_chain_snapshot(chain_state(1, [agent_account(payer.agent.public, deposited=5_000_000)]))
    payment = payer.pay(1_500_000)
    deliver(payment, payer.pay(10, charged=0))
    deliver(Payer(payer.agent, registered()).pay(20, nonce=payment.intent.nonce))
    with transaction.atomic():
        due = claim_due_channels(policy=DuePolicy(100, 100, timedelta(0)), limit=10)
        store_settlement(channels=due, raw_transaction=b"x", signature="S1gnature", last_valid_block_height=1)
    return payment


def models() -> list[type[Model]]:
    return [model for model in admin.site._registry if model._meta.app_label in ("payments", "ledger")]


@pytest.fixture
def operator(client, django_user_model):
    client.force_login(django_user_model.objects.create_superuser(username="op", password="pw"))
    return client


def test_the_expected_pages_exist():
    assert sorted(model.__name__ for model in models()) == [
        "Account",
        "AgentMirror",
        "Channel",
        "Entry",
        "Equivocation",
        "Gateway",
        "Settlement",
        "Transfer",
    ]


def test_every_list_and_row_can_be_read_and_none_changed(operator, populated):
    for model in models():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        listing = operator.get(reverse(f"{name}_changelist"))
        assert listing.status_code == 200, name
        row = model._default_manager.first()
        assert row is not None, name
        assert operator.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200, name
        assert operator.get(reverse(f"{name}_add")).status_code == 403, name
        assert operator.post(reverse(f"{name}_change", args=[row.pk]), {}).status_code == 403, name
        assert operator.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403, (
            name
        )


def test_a_channel_shows_its_money_and_its_intents(operator, populated):
    page = operator.get(reverse("admin:payments_channel_change", args=[str(populated.intent.channel)])).text

    assert populated.intent.digest.hex() in page
    assert "1.50" in page
    assert "VOID" in page


def test_a_settlement_shows_its_items_but_not_its_bytes(operator, populated):
    page = operator.get(reverse("admin:payments_settlement_change", args=[Settlement.objects.get().id])).text

    assert str(populated.intent.channel) in page
    assert "raw transaction" not in page.lower()


def test_the_pages_are_for_staff_only(client, populated):
    answer = client.get(reverse("admin:payments_settlement_changelist"))
    assert answer.status_code == 302
    assert "/admin/login/" in answer.url
