"""The admin's index: what needs an operator's attention."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from apps.payments.models import Case, ChainCursor
from tests.console import rows

pytestmark = pytest.mark.django_db


def cards(client: Client) -> dict[str, tuple[str, str, bool]]:
    """Title -> value, note, whether it asks for attention."""
    response = client.get("/admin/")
    assert response.status_code == 200
    return {card.title: (card.value, card.note, card.needs_attention) for card in response.context["cards"]}


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(
        get_user_model().objects.create_superuser(username="operator", password="a-long-password")
    )
    return client


def test_a_quiet_network_asks_for_nothing(operator: Client) -> None:
    rows.channel(rows.gateway(), charged=1_500_000, settled=1_500_000, calls=3)
    # Not set up yet, or hosted by the facilitator, which has no process that could report.
    rows.gateway("UNKNOWN")
    rows.settlement("FINALIZED", paid=1)
    ChainCursor.objects.create(slot=1_234)
    found = cards(operator)
    assert found["Unsettled"] == ("0.000000 USDC", "3 calls paid so far", False)
    assert found["Settlements under way"] == ("0", "0 with unknown outcome", False)
    assert found["Settlements failed"] == ("0", "in the last 24 hours", False)
    assert found["Gateways up"] == ("1 of 1", "all reporting", False)
    assert found["Chain followed to"][0::2] == ("slot 1,234", False)
    assert found["Cases"] == ("0", "wait for a decision", False)


def test_trouble_is_marked(operator: Client) -> None:
    rows.gateway("DOWN")
    rows.settlement("UNKNOWN")
    rows.settlement("SENT")
    rows.settlement("FAILED")
    ChainCursor.objects.create(slot=9, applied_at=timezone.now() - timedelta(minutes=5))
    Case.objects.create(kind="INSOLVENCY", role="agent", subject=rows.pubkey(), key="1", evidence={})
    found = cards(operator)
    assert found["Settlements under way"] == ("2", "1 with unknown outcome", True)
    assert found["Settlements failed"] == ("1", "in the last 24 hours", True)
    assert found["Gateways up"] == ("0 of 1", "1 silent", True)
    assert found["Chain followed to"][2] is True
    assert found["Cases"] == ("1", "wait for a decision", True)
    page = operator.get("/admin/").content.decode()
    assert len(re.findall("Needs attention", page)) == 5


def test_the_index_is_for_staff(client: Client) -> None:
    assert client.get("/admin/").status_code == 302


def test_operators_sign_in_by_username_or_email(client: Client) -> None:
    get_user_model().objects.create_superuser("operator", "Operator@Example.com", "a-long-password")
    for login in ("operator", "operator@example.com", "OPERATOR@example.com"):
        assert client.login(username=login, password="a-long-password")
        assert client.get("/admin/").status_code == 200
        client.logout()
    assert not client.login(username="operator", password="another-password")
