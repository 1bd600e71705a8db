"""Granting leases: what one gateway gets, what the bond allows, and when a lease stops counting."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from apps.payments.errors import ChainUnavailable, LeasesTooLong, NotDelivered, UnknownLease
from apps.payments.models import AgentMirror, ChainConfig, Channel, EnforcementEvent, Lease, RelayerPulse
from apps.payments.selectors.liability import liability_answer
from apps.payments.services import enforcement, leases, pulse
from apps.payments.services.chain_mirror import apply_chain_snapshot
from apps.payments.services.gateways import LogPosition, note_delivered
from apps.payments.services.leases import Granted, Refused, Wish
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import deliver, registered, row_of
from tests.payments.factories import Payer, agent_account, chain_state, channel_account

BOND, MIN_BOND = 10_000, 1_000
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def config(bound, settings) -> ChainConfig:
    settings.LEASE_SHARE_PERCENT = 100
    return ChainConfig.objects.create(
        min_bond_atomic=MIN_BOND, timelock_s=86_400, claim_delay_s=43_200, slot=1
    )


@pytest.fixture
def agent(config) -> SigningKey:
    key = SigningKey.generate()
    bonded(key)
    return key


def bonded(agent: SigningKey, slot: int = 7, **fields: int) -> None:
    deposited = fields.pop("deposited", BOND)
    apply_chain_snapshot(chain_state(slot, [agent_account(agent.public, deposited=deposited, **fields)]))


def payer_of(agent: SigningKey) -> Payer:
    """The agent at a gateway of its own."""
    return Payer(agent, registered())


def ask(payer: Payer, amount: int = BOND, *, intent: int = 100, last_seq: int = 0) -> Granted | Refused:
    return leases.grant(
        Wish(
            agent=payer.agent.pubkey,
            channel=str(payer.channel),
            gateway=payer.gateway.pubkey,
            vendor=str(payer.gateway.vendor),
            amount=amount,
            intent_amount=intent,
            last_seq=last_seq,
        )
    )


def granted(payer: Payer, amount: int = BOND, **wish: int) -> Granted:
    answer = ask(payer, amount, **wish)
    assert isinstance(answer, Granted), answer
    return answer


def lapse(**changes: int) -> None:
    """Move every live lease so that it ended `ended_s` ago and frees `frees_s` from now."""
    now = timezone.now()
    Lease.objects.filter(state="LIVE").update(
        expires_at=now - timedelta(seconds=changes["ended_s"]),
        frees_at=now + timedelta(seconds=changes["frees_s"]),
    )


def leasable(agent: SigningKey) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT payments_leasable(%s)", [agent.pubkey])
        return int(cursor.fetchone()[0])


# ---- size


def test_nothing_is_said_about_a_bond_before_the_chains_configuration_is_known(agent, config):
    payer = payer_of(agent)
    config.delete()
    row = AgentMirror.objects.get()
    channel = Channel(address=str(payer.channel), agent=row, gateway_id=payer.gateway.pubkey)

    with pytest.raises(ChainUnavailable):
        ask(payer)
    with pytest.raises(ChainUnavailable):
        leases.bar_to_charge(row, channel, price=1)


def test_a_lease_is_what_was_asked_for(agent):
    payer = payer_of(agent)
    lease = granted(payer, 400)
    assert (lease.up_to, lease.amount) == (400, 400)
    assert timedelta(seconds=59) < lease.valid <= timedelta(seconds=60)
    assert leasable(agent) == BOND - MIN_BOND - 400


def test_one_intent_buys_a_bounded_number_of_payments(agent, settings):
    settings.LEASE_INTENTS = 8
    assert granted(payer_of(agent), intent=10).amount == 80


def test_a_gateways_share_is_bounded_but_never_below_one_payment(agent, settings):
    settings.LEASE_SHARE_PERCENT = 5
    assert granted(payer_of(agent)).amount == BOND * 5 // 100
    assert granted(payer_of(agent), intent=2_000).amount == 2_000


def test_each_gateway_leaves_half_of_what_is_free(agent):
    sizes = [granted(payer_of(agent), intent=100).amount for _ in range(7)]
    assert sizes == [4_500, 2_250, 1_125, 562, 281, 141, 100]
    assert ask(payer_of(agent), intent=100) == Refused("insufficient_bond")
    assert leasable(agent) == BOND - MIN_BOND - sum(sizes) == 41


def test_min_bond_withdrawal_and_claims_are_not_leased(agent):
    claimed, other = payer_of(agent), payer_of(agent)
    deliver(claimed.pay(10))
    apply_chain_snapshot(
        chain_state(
            8,
            [agent_account(agent.public, deposited=BOND, open_claims=3_000, pending_withdrawal=2_000)],
            [channel_account(agent.public, claimed.gateway, settled=0, claim=3_000)],
        )
    )
    assert leasable(agent) == BOND - MIN_BOND - 2_000 - 3_000
    lease = granted(other, intent=4_000)
    assert (lease.amount, leasable(agent)) == (4_000, 0)
    # What a lease of the claiming channel covers is inside the claim: the larger of the two counts, not both.
    assert granted(claimed, 2_000, intent=2_000).amount == 2_000
    assert leasable(agent) == 0
    assert ask(payer_of(agent)) == Refused("insufficient_bond")


def test_the_payment_at_hand_is_leased_to_the_last_unit_or_not_at_all(agent):
    assert granted(payer_of(agent), intent=BOND - MIN_BOND).amount == BOND - MIN_BOND
    assert (leasable(agent), ask(payer_of(agent), intent=1)) == (0, Refused("insufficient_bond"))
    assert Lease.objects.count() == 1


def test_an_intent_above_the_bond_gets_nothing(agent):
    assert ask(payer_of(agent), intent=BOND - MIN_BOND + 1) == Refused("insufficient_bond")
    assert (Lease.objects.count(), leasable(agent)) == (0, BOND - MIN_BOND)


# ---- charges and leases together


def test_a_charge_uses_the_lease_up_and_is_counted_once(agent):
    payer = payer_of(agent)
    granted(payer, 500)
    before = leasable(agent)
    deliver(payer.pay(200))
    deliver(payer.pay(100))
    snapshot = told(payer)
    assert (snapshot.liability, snapshot.leases, leasable(agent)) == ("300", "200", before)


def test_a_charge_beyond_the_lease_counts_as_liability(agent):
    payer = payer_of(agent)
    granted(payer, 500)
    deliver(payer.pay(700))
    snapshot = told(payer)
    assert (snapshot.liability, snapshot.leases) == ("700", "0")
    assert leasable(agent) == BOND - MIN_BOND - 700


def test_settling_under_a_lease_changes_nothing_about_what_is_left(agent):
    payer = payer_of(agent)
    granted(payer, 500)
    deliver(payer.pay(300))
    before = leasable(agent)
    apply_chain_snapshot(
        chain_state(
            8,
            [agent_account(agent.public, deposited=BOND, paid=300)],
            [channel_account(agent.public, payer.gateway, settled=300)],
        )
    )
    snapshot = told(payer)
    assert (snapshot.bond, snapshot.liability, snapshot.leases) == (str(BOND - 300), "0", "200")
    assert leasable(agent) == before


def test_a_claim_paid_ahead_of_the_charges_is_not_leased_twice(agent):
    payer = payer_of(agent)
    deliver(payer.pay(100))
    apply_chain_snapshot(
        chain_state(
            8,
            [agent_account(agent.public, deposited=BOND, paid=600)],
            [channel_account(agent.public, payer.gateway, settled=600)],
        )
    )
    lease = granted(payer, 900)
    # 500 of the 900 are charges that the claim has paid for already.
    assert (lease.up_to, leasable(agent)) == (1_000, BOND - 600 - MIN_BOND - 400)


def told(payer: Payer):
    answer = liability_answer(agent=payer.agent.pubkey, asking_gateway=payer.gateway.pubkey)
    assert answer is not None
    return answer.snapshot


def test_the_snapshot_names_the_asking_gateways_lease(agent):
    payer, other = payer_of(agent), payer_of(agent)
    lease = granted(payer, 500)
    granted(other, 300)
    deliver(payer.pay(100))
    own = told(payer)
    assert own.lease is not None
    assert (own.lease.lease_id, own.lease.amount, own.lease.up_to) == (str(lease.id), "400", "500")
    assert (own.leases, own.lease.channel) == ("700", str(payer.channel))


# ---- renewal


def test_a_renewal_reaches_as_far_beyond_what_was_delivered(agent):
    payer = payer_of(agent)
    first = granted(payer, 500)
    deliver(payer.pay(300))
    note_delivered(payer.gateway.pubkey, LogPosition(1, 1), news=True)
    second = granted(payer, 500, last_seq=1)
    assert (second.id, second.up_to, second.amount) == (first.id, 800, 500)
    assert Lease.objects.get().renewals == 1


def test_a_renewal_waits_for_delivery(agent):
    payer = payer_of(agent)
    first = granted(payer, 500)
    assert ask(payer, 800, last_seq=1) == Refused("not_delivered")
    lease = Lease.objects.get()
    assert (lease.up_to_atomic, lease.expires_at, lease.renewals) == (500, first.expires_at, 0)
    deliver(payer.pay(300))
    note_delivered(payer.gateway.pubkey, LogPosition(1, 1), news=True)
    assert granted(payer, 800, last_seq=1).up_to == 1_100


def test_a_renewal_never_takes_back_what_was_promised(agent, settings):
    payer = payer_of(agent)
    first = granted(payer, 4_000)
    settings.LEASE_LIFE_S = 1
    second = granted(payer, 10)
    assert (second.up_to, second.expires_at) == (4_000, first.expires_at)


def test_a_renewal_gets_what_the_bond_still_has(agent):
    payer, other = payer_of(agent), payer_of(agent)
    granted(payer, 4_000)
    granted(other, intent=4_500)
    assert granted(payer, intent=4_500).amount == 4_500
    assert leasable(agent) == 0


# ---- the end


def test_a_lease_past_its_end_counts_until_its_grace_is_over(agent):
    payer = payer_of(agent)
    granted(payer, intent=BOND - MIN_BOND)
    lapse(ended_s=29, frees_s=1)
    assert (leases.free_lapsed(), ask(payer_of(agent))) == (0, Refused("insufficient_bond"))
    deliver(payer.pay(400))
    lapse(ended_s=30, frees_s=0)
    assert leases.free_lapsed() == 1
    lease = Lease.objects.get()
    assert (lease.state, lease.ended_total_atomic) == ("EXPIRED", 400)
    assert leasable(agent) == BOND - MIN_BOND - 400


def test_a_lapsed_lease_makes_room_without_waiting_for_anybody(agent):
    granted(payer_of(agent), intent=BOND - MIN_BOND)
    lapse(ended_s=30, frees_s=0)
    assert granted(payer_of(agent), intent=BOND - MIN_BOND).amount == BOND - MIN_BOND
    assert sorted(Lease.objects.values_list("state", flat=True)) == ["EXPIRED", "LIVE"]


def test_no_grace_ends_while_gateways_cannot_deliver(agent):
    payer = payer_of(agent)
    granted(payer, intent=BOND - MIN_BOND)
    lapse(ended_s=600, frees_s=-570)
    now = timezone.now()
    away = RelayerPulse.objects.create(up_since=now - timedelta(hours=1), last_at=now - timedelta(minutes=2))
    assert (leases.free_lapsed(), ask(payer_of(agent))) == (0, Refused("insufficient_bond"))
    # It is back: gateways get a whole grace to deliver what they charged meanwhile.
    pulse.beat()
    away.refresh_from_db()
    assert away.up_since > now - timedelta(minutes=1)
    assert (leases.free_lapsed(), ask(payer_of(agent))) == (0, Refused("insufficient_bond"))
    RelayerPulse.objects.update(up_since=now - timedelta(seconds=31))
    pulse.beat()
    assert granted(payer_of(agent), intent=BOND - MIN_BOND).amount == BOND - MIN_BOND
    assert Lease.objects.filter(state="EXPIRED").count() == 1


def test_a_gateway_in_its_grace_gets_its_lease_back(agent):
    payer = payer_of(agent)
    first = granted(payer, intent=BOND - MIN_BOND)
    lapse(ended_s=10, frees_s=20)
    again = granted(payer, intent=BOND - MIN_BOND)
    assert (again.id, again.amount) == (first.id, BOND - MIN_BOND)
    assert again.valid > timedelta(seconds=59)


def test_a_release_frees_what_was_not_used(agent):
    payer = payer_of(agent)
    lease = granted(payer, 500)
    deliver(payer.pay(200))
    note_delivered(payer.gateway.pubkey, LogPosition(1, 1), news=True)
    assert leases.release(lease_id=lease.id, gateway=payer.gateway.pubkey, last_seq=1) == 300
    assert leases.release(lease_id=lease.id, gateway=payer.gateway.pubkey, last_seq=1) == 0
    row = Lease.objects.get()
    assert (row.state, row.ended_total_atomic, leasable(agent)) == ("RELEASED", 200, BOND - MIN_BOND - 200)


def test_a_release_with_something_undelivered_is_refused(agent):
    payer = payer_of(agent)
    lease = granted(payer, 500)
    before = leasable(agent)
    with pytest.raises(NotDelivered):
        leases.release(lease_id=lease.id, gateway=payer.gateway.pubkey, last_seq=3)
    assert (Lease.objects.get().state, leasable(agent)) == ("LIVE", before)


def test_only_its_gateway_releases_a_lease(agent):
    lease = granted(payer_of(agent), 500)
    with pytest.raises(UnknownLease):
        leases.release(lease_id=lease.id, gateway=registered().pubkey, last_seq=0)
    assert Lease.objects.get().state == "LIVE"


# ---- who gets none


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (lambda agent: enforcement.set_status(agent, "SUSPENDED", "test", "t"), "agent_suspended"),
        (lambda agent: enforcement.set_status(agent, "SLASHED", "test", "t"), "agent_slashed"),
        (lambda agent: enforcement.set_kill_switch(agent, True, "test", "t"), "agent_suspended"),
        (lambda agent: enforcement.raise_alarm(agent, "claim", slot=99, seen={}), "held"),
        (
            lambda agent: enforcement.set_rules("test", "t", mode="lease", cap_atomic=None, halted=True),
            "halted",
        ),
    ],
)
def test_what_stops_an_agent_revokes_its_leases_and_grants_no_more(agent, stop, code):
    payer = payer_of(agent)
    granted(payer, 500)
    assert stop(agent.pubkey)
    lease = Lease.objects.get()
    assert (lease.state, lease.revoked_at is not None) == ("LIVE", True)
    assert EnforcementEvent.objects.get().leases_revoked == 1
    # Revoking frees nothing: the gateway may have charges to deliver.
    assert leasable(agent) == BOND - MIN_BOND - 500
    assert (ask(payer), ask(payer_of(agent))) == (Refused(code), Refused(code))
    assert Lease.objects.count() == 1


def test_a_revoked_lease_is_released_before_there_is_another(agent):
    payer = payer_of(agent)
    lease = granted(payer, 500)
    enforcement.set_kill_switch(agent.pubkey, True, "test", "t")
    enforcement.set_kill_switch(agent.pubkey, False, "test", "t")
    assert ask(payer) == Refused("revoked")
    leases.release(lease_id=lease.id, gateway=payer.gateway.pubkey, last_seq=0)
    assert granted(payer, 500).id != lease.id


def test_grants_wait_until_the_mirror_has_reached_an_alarms_slot(agent):
    enforcement.raise_alarm(agent.pubkey, "withdrawal", slot=20, seen={})
    bonded(agent, slot=19, pending_withdrawal=4_000)
    assert ask(payer_of(agent)) == Refused("held")
    bonded(agent, slot=20, pending_withdrawal=4_000)
    assert granted(payer_of(agent), intent=5_000).amount == 5_000
    assert leasable(agent) == 0


def test_an_alarm_that_stands_already_is_no_news(agent):
    assert enforcement.raise_alarm(agent.pubkey, "claim", slot=20, seen={"claims": "5"})
    assert not enforcement.raise_alarm(agent.pubkey, "claim", slot=21, seen={"claims": "5"})
    row = AgentMirror.objects.get()
    assert (row.held_until_slot, EnforcementEvent.objects.count()) == (21, 1)
    assert row.settle_urgently_since is not None


def test_the_days_limit_counts_charges_and_everybodys_leases(agent):
    enforcement.set_limits(agent.pubkey, "test", "t", per_call_atomic=None, per_day_atomic=1_000)
    payer, other = payer_of(agent), payer_of(agent)
    deliver(payer.pay(300))
    assert granted(other, 400).amount == 400
    assert granted(payer, 5_000).amount == 300
    assert ask(payer_of(agent)) == Refused("budget_exceeded")


def test_the_limit_per_call_bounds_what_one_intent_is_worth(agent, settings):
    settings.LEASE_INTENTS = 10
    enforcement.set_limits(agent.pubkey, "test", "t", per_call_atomic=20, per_day_atomic=None)
    assert granted(payer_of(agent), intent=100).amount == 200


def test_a_lower_limit_per_day_revokes_what_the_old_one_granted(agent):
    granted(payer_of(agent), 500)
    enforcement.set_limits(agent.pubkey, "test", "t", per_call_atomic=None, per_day_atomic=10**9)
    assert Lease.objects.get().revoked_at is not None
    Lease.objects.all().delete()
    granted(payer_of(agent), 500)
    enforcement.set_limits(agent.pubkey, "test", "t", per_call_atomic=5, per_day_atomic=10**10)
    assert Lease.objects.get().revoked_at is None


# ---- the chain's delay


def test_leases_fit_into_a_quarter_of_the_claim_delay(config, settings):
    settings.LEASE_LIFE_S, settings.LEASE_GRACE_S, settings.SETTLE_TARGET_S = 60, 30, 300
    config.claim_delay_s = 4 * 390
    leases.require_times(config)
    config.claim_delay_s = 4 * 390 - 4
    with pytest.raises(LeasesTooLong):
        leases.require_times(config)


def test_a_claim_delay_that_became_short_shortens_leases(agent, config):
    ChainConfig.objects.update(claim_delay_s=4 * 340)
    lease = granted(payer_of(agent), 500)
    assert timedelta(seconds=9) < lease.valid <= timedelta(seconds=10)
    ChainConfig.objects.update(claim_delay_s=4 * 330)
    with pytest.raises(LeasesTooLong):
        ask(payer_of(agent))


# ---- the database's own rule


def test_the_database_refuses_leases_above_the_bond(agent):
    payer = payer_of(agent)
    lease = granted(payer, 500)
    for statement in (
        "UPDATE payments_lease SET up_to_atomic = %s",
        "UPDATE payments_lease SET state = 'LIVE', up_to_atomic = %s",
    ):
        with pytest.raises(IntegrityError, match="above its bond by 1"):
            sql(statement, BOND - MIN_BOND + 1)
    sql("UPDATE payments_lease SET up_to_atomic = %s", BOND - MIN_BOND)
    another = payer_of(agent)
    deliver(another.pay(10, charged=0))
    now = timezone.now()
    row = Lease(
        channel_id=str(another.channel),
        agent_id=agent.pubkey,
        gateway_id=another.gateway.pubkey,
        from_atomic=0,
        up_to_atomic=1,
        expires_at=now,
        frees_at=now,
    )
    with pytest.raises(IntegrityError, match="above its bond by 1"), transaction.atomic():
        row.save()
    row.agent_id, row.up_to_atomic = SigningKey.generate().pubkey, 0
    with pytest.raises(IntegrityError, match="other parties"), transaction.atomic():
        row.save()
    assert list(Lease.objects.values_list("id", flat=True)) == [lease.id]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE payments_lease SET revoked_at = NULL",
        "UPDATE payments_lease SET up_to_atomic = up_to_atomic + 1",
        "UPDATE payments_lease SET expires_at = expires_at + interval '1 s', frees_at = frees_at + interval '1 s'",
    ],
)
def test_the_database_refuses_to_extend_a_revoked_lease(agent, statement):
    granted(payer_of(agent), 500)
    enforcement.set_kill_switch(agent.pubkey, True, "test", "t")
    with pytest.raises(IntegrityError, match="is revoked"):
        sql(statement)


def test_the_database_keeps_an_ended_lease_as_it_is(agent):
    payer = payer_of(agent)
    lease = granted(payer, 500)
    leases.release(lease_id=lease.id, gateway=payer.gateway.pubkey, last_seq=0)
    with pytest.raises(IntegrityError, match="has ended"):
        sql("UPDATE payments_lease SET state = 'LIVE', ended_at = NULL, ended_total_atomic = NULL")


def test_a_channel_has_one_live_lease(agent):
    payer = payer_of(agent)
    granted(payer, 500)
    row = Lease.objects.get()
    row.pk = None
    with pytest.raises(IntegrityError, match="one_per_channel"), transaction.atomic():
        Lease(
            channel_id=row.channel_id,
            agent_id=row.agent_id,
            gateway_id=row.gateway_id,
            from_atomic=0,
            up_to_atomic=0,
            expires_at=row.expires_at,
            frees_at=row.frees_at,
        ).save()


def sql(statement: str, *values: int) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, values)


def test_delivering_says_how_far_the_log_is_stored(agent):
    payer = payer_of(agent)
    first = payer.pay(10)
    deliver(first)
    assert row_of(payer).charged_total_atomic == 10
    gateway = payer.gateway.pubkey
    for seq_from, seq_to, delivered in ((1, 5, 5), (6, 9, 9), (3, 5, 9), (1, 2, 2)):
        note_delivered(gateway, LogPosition(seq_from, seq_to), news=True)
        assert leases._delivered(gateway) == delivered


def test_a_delivery_that_was_overtaken_takes_nothing_back(agent):
    payer = payer_of(agent)
    first, second = payer.pay(10), payer.pay(10)
    deliver(first, position=LogPosition(1, 1))
    deliver(second, position=LogPosition(2, 2))

    # Its answer came too late for its gateway, which sent it again.
    assert [result.status for result in deliver(first, position=LogPosition(1, 1))] == ["duplicate"]
    assert leases._delivered(payer.gateway.pubkey) == 2

    # A gateway that lost its log has payments that nobody has seen.
    deliver(payer.pay(10), position=LogPosition(1, 1))
    assert leases._delivered(payer.gateway.pubkey) == 1
