"""What is worth a transaction, and what cannot wait."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.payments.models import AgentMirror, Channel, Equivocation
from apps.payments.selectors.due import DuePolicy, due_channels
from apps.payments.services.chain_mirror import apply_chain_snapshot
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import deliver, registered
from tests.payments.factories import Payer, agent_account, chain_state, channel_account

pytestmark = pytest.mark.django_db

# Nothing is worth it by itself.
NEVER = DuePolicy(minimum_atomic=1, trigger_atomic=10**9, max_age=timedelta(days=1))


@pytest.fixture
def pair(bound) -> list[Payer]:
    """One agent with a bond of 1,000 that was charged 100 by each of two gateways."""
    agent = SigningKey.generate()
    payers = [Payer(agent, registered()) for _ in range(2)]
    apply_chain_snapshot(chain_state(1, [agent_account(agent.public, deposited=1000)]))
    for payer in payers:
        deliver(payer.pay(100))
    return payers


def due(policy: DuePolicy, *, now: datetime | None = None) -> list[str]:
    return sorted(due_channels(policy, now=now or timezone.now()).values_list("address", flat=True))


def both(pair: list[Payer]) -> list[str]:
    return sorted(str(payer.channel) for payer in pair)


def chain_says(pair: list[Payer], slot: int = 2, **account: Any) -> None:
    apply_chain_snapshot(chain_state(slot, [agent_account(pair[0].agent.public, deposited=1000, **account)]))


def test_nothing_is_due_before_its_amount_or_its_age(pair):
    assert due(NEVER) == []
    assert due(replace(NEVER, trigger_atomic=100)) == both(pair)
    assert due(replace(NEVER, trigger_atomic=101)) == []
    assert due(NEVER, now=timezone.now() + timedelta(days=1)) == both(pair)


def test_a_channel_that_costs_rent_waits_longer(pair):
    costly = replace(NEVER, trigger_atomic=1, create_minimum_atomic=101, create_max_age=timedelta(days=7))
    assert due(costly) == []
    assert due(costly, now=timezone.now() + timedelta(days=7)) == both(pair)
    assert due(replace(costly, create_minimum_atomic=100)) == both(pair)
    existing = channel_account(pair[0].agent.public, pair[0].gateway, settled=0)
    account = agent_account(pair[0].agent.public, deposited=1000)
    apply_chain_snapshot(chain_state(2, [account], [existing]))
    assert due(costly) == [str(pair[0].channel)]


def test_a_withdrawal_about_to_unlock_makes_every_channel_of_its_agent_due(pair):
    chain_says(pair, pending_withdrawal=10, withdrawal_unlock=5_000)
    # The alarm of its announcement is over.
    AgentMirror.objects.update(settle_urgently_since=None)
    assert due(replace(NEVER, unlocks_until=4_999)) == []
    assert due(replace(NEVER, unlocks_until=5_000)) == both(pair)


def test_an_open_claim_makes_every_channel_of_its_agent_due(pair):
    chain_says(pair, open_claims=1)
    assert due(NEVER) == both(pair)


def test_what_is_forfeited_pays_every_channel_at_once(pair):
    chain_says(pair, slashed=True, forfeited=900)
    assert due(NEVER) == both(pair)


@pytest.mark.parametrize(("status", "expected"), [("OPEN", 2), ("SUBMITTED", 2), ("SLASHED", 0)])
def test_a_double_signer_is_netted_at_once(pair, status, expected):
    first, second = both(pair)
    Equivocation.objects.create(
        agent_id=pair[0].agent.pubkey,
        nonce="01890a5d-ac96-774b-bcce-b302099a8057",
        channel_a=first,
        channel_b=second,
        evidence={},
        status=status,
    )
    assert len(due(NEVER)) == expected


def test_an_alarm_makes_due_what_was_charged_around_it(pair):
    now = timezone.now()
    alarm = AgentMirror.objects.filter(agent=pair[0].agent.pubkey)
    alarm.update(settle_urgently_since=now)
    Channel.objects.filter(address=both(pair)[0]).update(unsettled_since=now + timedelta(minutes=16))
    assert due(NEVER) == both(pair)[1:]


def test_an_empty_bond_and_a_backoff_are_never_due(pair):
    urgent = AgentMirror.objects.filter(agent=pair[0].agent.pubkey)
    urgent.update(settle_urgently_since=timezone.now())
    Channel.objects.filter(address=both(pair)[0]).update(settle_after=timezone.now() + timedelta(minutes=1))
    assert due(NEVER) == both(pair)[1:]
    urgent.update(bond_atomic=0)
    assert due(NEVER) == []
