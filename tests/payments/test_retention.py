"""What is deleted after its time, and what stays because a payment still rests on it."""

from datetime import UTC, timedelta

import pytest
from django.utils import timezone

from apps.payments.models import AgentDay, ChainConfig, Channel, Lease
from apps.payments.services.chain_mirror import apply_chain_snapshot
from apps.payments.services.retention import forget_days, forget_leases
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import deliver, registered
from tests.payments.factories import Payer, agent_account, chain_state

pytestmark = pytest.mark.django_db
UP_TO = 1_000


@pytest.fixture
def payer(bound) -> Payer:
    """An agent with a bond, at a gateway."""
    agent = SigningKey.generate()
    ChainConfig.objects.create(min_bond_atomic=1, timelock_s=86_400, claim_delay_s=43_200, slot=1)
    apply_chain_snapshot(chain_state(7, [agent_account(agent.public, deposited=10_000)]))
    return Payer(agent, registered())


def lease(payer: Payer, *, ended_days_ago: float | None, ended_total: int = 600) -> Lease:
    """A lease of the payer's channel over its first `UP_TO` units."""
    ended = None if ended_days_ago is None else timezone.now() - timedelta(days=ended_days_ago)
    end = ended or timezone.now()
    row = Lease(
        channel_id=str(payer.channel),
        agent_id=payer.agent.pubkey,
        gateway_id=payer.gateway.pubkey,
        state=Lease.State.LIVE if ended is None else Lease.State.RELEASED,
        from_atomic=0,
        up_to_atomic=UP_TO,
        expires_at=end,
        frees_at=end,
        ended_at=ended,
        ended_total_atomic=None if ended is None else ended_total,
    )
    row.save(force_insert=True)
    return row


@pytest.mark.parametrize(
    ("settled", "ended_days_ago", "kept"),
    [
        (600, 31, False),
        (599, 31, True),  # its last unit is not paid yet
        (600, 29, True),
        (600, None, True),
    ],
    ids=["over and paid", "one unit unpaid", "not old enough", "live"],
)
def test_a_lease_goes_when_it_is_old_and_all_it_covered_is_paid(
    payer: Payer, settled: int, ended_days_ago: float | None, kept: bool
) -> None:
    deliver(payer.pay(600))
    Channel.objects.update(settled_atomic=settled)
    row = lease(payer, ended_days_ago=ended_days_ago)

    assert forget_leases() == (not kept)
    assert Lease.objects.filter(id=row.id).exists() == kept


def test_what_a_reversed_charge_was_leased_under_stays(payer: Payer) -> None:
    """A later top-up pays it, leased charges first."""
    deliver(payer.pay(600))
    Channel.objects.update(settled_atomic=100, uncollected_atomic=500)
    lease(payer, ended_days_ago=400)

    assert forget_leases() == 0


def test_day_totals_go_after_a_year(payer: Payer) -> None:
    today = timezone.now().astimezone(UTC).date()
    for days in (0, 366, 367):
        AgentDay.objects.create(
            agent=payer.agent.pubkey, day=today - timedelta(days=days), charged_atomic=days
        )

    assert forget_days() == 1
    assert sorted(AgentDay.objects.values_list("charged_atomic", flat=True)) == [0, 366]
