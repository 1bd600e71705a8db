"""`manage.py network_rules`: the network's own switches, and the pages that show what was done."""

from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.urls import reverse

from apps.payments.models import EnforcementEvent, NetworkRules
from apps.payments.services import enforcement
from machpay.protocol.keys import SigningKey

pytestmark = pytest.mark.django_db


def rules(*options: str) -> list[str]:
    out = StringIO()
    call_command("network_rules", *options, stdout=out)
    return out.getvalue().splitlines()


def test_it_shows_what_holds(bound):
    assert rules() == ["mode     lease", "cap      none", "halted   no", "leases   0 live, 0 revoked"]


def test_each_rule_is_changed_by_itself_and_recorded(bound):
    assert rules("--mode", "optimistic", "--cap", "2.5", "--reason", "trial", "--by", "ops")[0] == "changed"
    assert rules("--halt", "--reason", "incident 7", "--by", "ops")[3] == "halted   yes"
    row = NetworkRules.objects.get()
    assert (row.mode, row.cap_atomic, row.halted) == ("optimistic", 2_500_000, True)
    assert rules("--halt", "--reason", "again", "--by", "ops")[0] == "it was like that already"
    rules("--resume", "--cap", "none", "--reason", "over", "--by", "ops")
    row.refresh_from_db()
    assert (row.mode, row.cap_atomic, row.halted) == ("optimistic", None, False)
    events = EnforcementEvent.objects.order_by("id")
    assert [(event.reason, event.by, event.agent) for event in events] == [
        ("trial", "ops", ""),
        ("incident 7", "ops", ""),
        ("over", "ops", ""),
    ]


@pytest.mark.parametrize(
    "options", [["--halt"], ["--halt", "--reason", " "], ["--cap", "much", "--reason", "x"]]
)
def test_a_change_without_a_reason_or_with_a_wrong_amount_changes_nothing(bound, options):
    with pytest.raises(CommandError):
        rules(*options)
    assert (NetworkRules.objects.count(), EnforcementEvent.objects.count()) == (0, 0)


def test_the_record_is_shown_and_cannot_be_edited(bound, client):
    agent = SigningKey.generate().pubkey
    enforcement.set_status(agent, "SUSPENDED", "owes too much", "recon")
    client.force_login(get_user_model().objects.create_superuser(username="root", password="x" * 20))
    page = client.get(reverse("admin:payments_enforcementevent_changelist"))
    assert (page.status_code, "owes too much" in page.content.decode()) == (200, True)
    assert client.get(reverse("admin:payments_lease_changelist")).status_code == 200
    assert client.get(reverse("admin:payments_enforcementevent_add")).status_code == 403
