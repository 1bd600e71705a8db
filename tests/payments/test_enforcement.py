"""Status, limits, kill switches and network rules: one transaction with its record and its entry of the change
stream."""

import pytest
from django.db import DatabaseError, connection, transaction

from apps.payments.errors import SlashedForGood
from apps.payments.models import AgentChange, AgentMirror, EnforcementEvent
from apps.payments.services import enforcement
from machpay.protocol.keys import SigningKey

pytestmark = pytest.mark.django_db


@pytest.fixture
def agent(bound) -> str:
    return AgentMirror.objects.create(agent=SigningKey.generate().pubkey).agent


def noted() -> list[str]:
    return list(AgentChange.objects.order_by("id").values_list("agent", flat=True))


def test_a_status_is_recorded_with_who_and_why(agent):
    assert enforcement.set_status(agent, "SUSPENDED", "shortfall at slot 9", "chain")

    event = EnforcementEvent.objects.get()
    assert (event.agent, event.action, event.reason, event.by) == (
        agent,
        "STATUS",
        "shortfall at slot 9",
        "chain",
    )
    assert (event.before, event.after) == ({"status": "ACTIVE"}, {"status": "SUSPENDED"})
    assert AgentMirror.objects.get().status == "SUSPENDED"
    assert noted() == [agent]


def test_what_changes_nothing_writes_nothing(agent):
    assert not enforcement.set_status(agent, "ACTIVE", "again", "tester")
    assert not enforcement.set_limits(agent, "again", "tester", per_call_atomic=None, per_day_atomic=None)
    assert not enforcement.set_kill_switch(agent, False, "again", "tester")
    assert not enforcement.set_rules("again", "tester", mode="lease", cap_atomic=None, halted=False)
    assert (noted(), EnforcementEvent.objects.count()) == ([], 0)


def test_reinstatement_is_a_record_of_its_own(agent):
    enforcement.set_status(agent, "SUSPENDED", "a", "chain")
    assert enforcement.set_status(agent, "ACTIVE", "paid up", "operator")
    assert [event.after["status"] for event in EnforcementEvent.objects.order_by("id")] == [
        "SUSPENDED",
        "ACTIVE",
    ]


def test_an_agent_slashed_on_chain_stays_slashed(agent):
    AgentMirror.objects.update(status="SLASHED", window_end=1)
    with pytest.raises(SlashedForGood):
        enforcement.set_status(agent, "ACTIVE", "please", "operator")
    assert (AgentMirror.objects.get().status, noted(), EnforcementEvent.objects.count()) == ("SLASHED", [], 0)


def test_limits_and_kill_switch_are_stored(agent):
    enforcement.set_limits(agent, "less", "owner", per_call_atomic=10, per_day_atomic=2**64)
    enforcement.set_kill_switch(agent, True, "lost key", "owner")
    row = AgentMirror.objects.get()
    assert (row.limit_per_call_atomic, row.limit_per_day_atomic, row.stopped) == (10, 2**64, True)
    limits, kill = EnforcementEvent.objects.order_by("id")
    assert limits.after == {"limit_per_call_atomic": "10", "limit_per_day_atomic": str(2**64)}
    assert kill.after == {"stopped": True}


@pytest.mark.parametrize(
    "statement", ["UPDATE payments_enforcement SET reason = 'x'", "DELETE FROM payments_enforcement"]
)
def test_the_record_cannot_be_changed(agent, statement):
    enforcement.set_kill_switch(agent, True, "lost key", "owner")
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
