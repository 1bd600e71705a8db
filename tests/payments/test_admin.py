"""Operators read the registry, the channels, the settlements and the books; nobody edits them."""

from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Model
from django.urls import reverse
from django.utils import timezone

from apps.ledger import chart
from apps.ledger.services import reserve
from apps.ledger.types import Hold
from apps.payments.models import (
    AgentMirror,
    Aggregation,
    Case,
    ChainConfig,
    ChainEvent,
    Channel,
    Complaint,
    Lease,
    Reconciliation,
    Reversal,
    Settlement,
)
from apps.payments.selectors.due import DuePolicy
from apps.payments.services import chain_index, enforcement
from apps.payments.services.batches import cut_batch
from apps.payments.services.chain_index import ReadTransaction
from apps.payments.services.chain_mirror import apply_chain_snapshot
from apps.payments.services.custody import SeenDeposit, deposit_reference, pay, record_deposits
from apps.payments.services.settlements import claim_due_channels, store_settlement
from machpay.chain.client import SignatureSeen
from tests.payments.conftest import deliver, registered
from tests.payments.factories import MINT, Payer, agent_account, chain_state

pytestmark = pytest.mark.django_db


@pytest.fixture
def populated(payer):
    """One row of everything that the admin shows."""
    apply_chain_snapshot(chain_state(1, [agent_account(payer.agent.public, deposited=5_000_000)]))
    payment = payer.pay(1_500_000)
    deliver(payment, payer.pay(10, charged=0))
    deliver(Payer(payer.agent, registered()).pay(20, nonce=payment.intent.nonce))
    with transaction.atomic():
        vendor = str(payer.gateway.vendor)
        due = claim_due_channels(policy=DuePolicy(100, 100, timedelta(0)), limit=10, vendors=[vendor])
        store_settlement(channels=due, raw_transaction=b"x", signature="S1gnature", last_valid_block_height=1)
    found = SignatureSeen("S1gnature", 1, None, failed=False)
    chain_index.store([ReadTransaction(found, ())])
    ChainEvent.objects.create(
        transaction_id="S1gnature", instruction=0, position=0, slot=1, kind="Deposited", keys=["k"], data={}
    )
    Reconciliation.objects.create(slot=1, equal=True, terms={}, differences=[])
    channel = Channel.objects.get(address=str(payment.intent.channel))
    complained = {"agent": channel.agent, "gateway": channel.gateway, "kind": "DENIED", "verdict": "NOTED"}
    Complaint.objects.create(**complained, digest=payment.intent.digest, evidence={})
    Reversal.objects.create(channel=channel, amount_atomic=1, settled_atomic=0, intents=0)
    cut_batch(sequence=0, previous_head=bytes(32), leaves_max=10)
    Aggregation.objects.create(agent_id=channel.agent_id, amount_atomic=1, expires_at=timezone.now())
    enforcement.set_limits(channel.agent_id, "less", "op", per_call_atomic=5, per_day_atomic=None)
    ChainConfig.objects.create(min_bond_atomic=0, timelock_s=60, claim_delay_s=30, slot=1)
    Lease.objects.create(
        channel=channel,
        agent_id=channel.agent_id,
        gateway_id=channel.gateway_id,
        from_atomic=0,
        up_to_atomic=2_000_000,
        expires_at=timezone.now(),
        frees_at=timezone.now(),
    )
    hold = Hold("a hold", chart.bond(payer.agent.pubkey, MINT), 1, timezone.now() + timedelta(minutes=1))
    reserve([hold])
    ann, bob = (get_user_model().objects.create_user(username=name).pk for name in ("ann", "bob"))
    came_in = SeenDeposit("sig", "0.0", 9, "", (deposit_reference(ann),), 1)
    record_deposits([came_in], mint=MINT, signature="sig", slot=1)
    pay(payer_id=ann, payee_id=bob, amount_atomic=9, reference="r", mint=MINT)
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
        "Aggregation",
        "Batch",
        "Case",
        "ChainEvent",
        "ChainTransaction",
        "Channel",
        "Complaint",
        "CustodialDeposit",
        "CustodialPayment",
        "DepositReference",
        "EnforcementEvent",
        "Entry",
        "Equivocation",
        "Gateway",
        "Hold",
        "Lease",
        "Reconciliation",
        "Reversal",
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
        assert operator.get(reverse(f"{name}_change", args=["\0"])).status_code == 302, name
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


def test_a_case_is_decided_with_a_reason_that_stays(operator, populated, client, django_user_model):
    case = Case.objects.get(kind="EQUIVOCATION")
    page = reverse("admin:payments_case_decide", args=[case.id])
    assert "Dismiss" in operator.get(page).text

    assert operator.post(page, {"decision": "dismiss"}).status_code == 200
    case.refresh_from_db()
    assert case.status == "OPEN"
    answer = operator.post(page, {"decision": "dismiss", "note": "a test key of ours"})

    assert answer.status_code == 302
    case.refresh_from_db()
    assert case.status == "DISMISSED"
    last = case.entries.order_by("id").last()
    assert (last.action, last.by, last.note) == ("DISMISSED", "op", "a test key of ours")
    assert "a test key of ours" in operator.get(answer.url).text
    # Decided is decided; only what followed can still be lifted.
    operator.post(page, {"decision": "uphold", "note": "no"})
    case.refresh_from_db()
    assert case.status == "DISMISSED"
    operator.post(page, {"decision": "reinstate", "note": "it was ours"})
    assert case.entries.order_by("id").last().action == "REINSTATED"
    assert AgentMirror.objects.get(agent=case.subject).status == "ACTIVE"


def test_only_staff_who_may_change_cases_decide(client, populated, django_user_model):
    case = Case.objects.get(kind="EQUIVOCATION")
    client.force_login(django_user_model.objects.create_user(username="reader", password="pw", is_staff=True))
    page = reverse("admin:payments_case_decide", args=[case.id])

    assert client.get(page).status_code == 403
    assert client.post(page, {"decision": "dismiss", "note": "x"}).status_code == 403
    case.refresh_from_db()
    assert case.status == "OPEN"
