"""The change stream: everything that committed since the cursor, once the reader can see it, whatever the order
of commits."""

import threading

import pytest
from django.db import connection, transaction

from apps.payments.models import AgentChange, AgentMirror, Channel
from apps.payments.selectors import changes as stream
from apps.payments.services import changes, enforcement, gateways
from machpay.protocol.keys import SigningKey
from tests.payments.factories import NETWORK, Party

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def gateway(bound) -> Party:
    party = Party()
    gateways.remember([party.account()])
    return party


def agent_of(gateway: Party) -> str:
    """An agent with a channel at `gateway`."""
    key = SigningKey.generate()
    AgentMirror.objects.create(agent=key.pubkey)
    Channel.objects.create(
        address=str(NETWORK.channel(key.public, gateway.key.public)),
        agent_id=key.pubkey,
        gateway_id=gateway.pubkey,
        vendor=str(gateway.vendor),
    )
    return key.pubkey


def told(cursor: str, gateway: Party) -> list[str]:
    return sorted(change.agent for change in stream.changes_since(cursor, gateway=gateway.pubkey).changes)


def test_a_reader_without_a_cursor_learns_where_to_begin(gateway):
    agent = agent_of(gateway)
    enforcement.set_status(agent, "SUSPENDED", "test", "tester")

    first = stream.changes_since(None, gateway=gateway.pubkey)

    assert (first.changes, first.reset) == ([], False)
    assert told(first.cursor, gateway) == []
    assert not stream.anything_since(first.cursor)


def test_a_change_is_told_as_things_are_now(gateway):
    agent, cursor = agent_of(gateway), stream.now_cursor()
    enforcement.set_status(agent, "SUSPENDED", "test", "tester")
    enforcement.set_limits(agent, "test", "tester", per_call_atomic=5, per_day_atomic=None)

    assert stream.anything_since(cursor)
    (change,) = stream.changes_since(cursor, gateway=gateway.pubkey).changes

    assert (change.agent, change.status, change.limits.per_call) == (agent, "SUSPENDED", "5")
    assert (change.limits.per_day, change.bond, change.revoked) == (None, "0", [])


def test_a_gateway_hears_of_its_own_agents_only(gateway):
    other = Party()
    gateways.remember([other.account()])
    agent, cursor = agent_of(gateway), stream.now_cursor()
    enforcement.set_kill_switch(agent, True, "test", "tester")

    assert told(cursor, other) == []
    (change,) = stream.changes_since(cursor, gateway=gateway.pubkey).changes
    assert change.status == "STOPPED"


def test_the_networks_rules_reach_every_gateway(gateway):
    cursor = stream.now_cursor()
    enforcement.set_rules("test", "tester", mode="optimistic", cap_atomic=7, halted=True)

    assert stream.anything_since(cursor)
    rules = stream.changes_since(cursor, gateway=gateway.pubkey).rules
    assert (rules.mode, rules.cap, rules.halted) == ("optimistic", "7", True)


def test_a_transaction_that_commits_late_is_not_missed(gateway):
    early, late = agent_of(gateway), agent_of(gateway)
    noted, finish = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            changes.note([late])
            noted.set()
            assert finish.wait(30)
        connection.close()

    start = stream.now_cursor()
    writer = threading.Thread(target=slow)
    writer.start()
    assert noted.wait(30)
    with transaction.atomic():
        changes.note([early])
    first = stream.changes_since(start, gateway=gateway.pubkey)
    finish.set()
    writer.join()
    second = stream.changes_since(first.cursor, gateway=gateway.pubkey)

    assert [change.agent for change in first.changes] == [early]
    assert [change.agent for change in second.changes] == [late]
    assert AgentChange.objects.get(agent=late).id < AgentChange.objects.get(agent=early).id


def test_a_change_outside_a_transaction_is_refused(gateway):
    with pytest.raises(transaction.TransactionManagementError):
        changes.note(["nobody"])
    assert not AgentChange.objects.exists()


def test_a_cursor_that_means_nothing_here_asks_for_a_fresh_start(gateway):
    another_cluster = "9999999999.9999999999999:9999999999999:"
    unreadable = ("9" * 5_000 + ".5:5:", "9999999999.5:5:\x00")
    for cursor in ("nonsense", "1.5:5:", "9999999999.x", another_cluster, "", *unreadable):
        answer = stream.changes_since(cursor, gateway=gateway.pubkey)
        assert (answer.reset, answer.changes) == (True, []), cursor
        assert not stream.anything_since(answer.cursor)
