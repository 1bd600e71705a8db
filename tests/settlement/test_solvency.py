"""An agent that owes more than its bond: it is suspended, its bond is shared out, and what nothing covers is taken back
until a top-up pays it."""

from datetime import timedelta

import pytest
from django.utils import timezone

from apps.core.live import channel as live_channel
from apps.core.redis import sync_redis
from apps.ledger import chart
from apps.ledger.selectors import balance, statement
from apps.payments.models import AgentMirror, Case, EnforcementEvent, Reversal
from apps.payments.services import cases, reversals
from apps.settlement.services.solvency import watch_solvency
from devnet.offers import ATLAS, LEXICON
from machpay.chain import instructions as build
from tests.settlement.conftest import Recon
from tests.settlement.test_every_way_out import send
from tests.support.chain import Payer
from tests.support.live import heard

SMALL_BOND = 1_000_000


@pytest.fixture(autouse=True)
def at_once(settings) -> None:
    settings.REVERSAL_GRACE_S = 0.0
    settings.SETTLE_CREATE_MINIMUM_ATOMIC = 1


def uncollected(recon: Recon, payer: Payer) -> int:
    return balance(chart.uncollected(str(payer.vendor), payer.gateway.pubkey, recon.mint))


def status_of(payer: Payer) -> str:
    return AgentMirror.objects.values_list("status", flat=True).get(agent=payer.agent.pubkey)


def test_two_vendors_share_a_bond_and_the_rest_is_reversed_until_a_top_up_pays_it(recon: Recon) -> None:
    agent = recon.chain.new_agent(bond_atomic=SMALL_BOND)
    recon.catch_up()
    first, second = recon.chain.payer(agent, LEXICON), recon.chain.payer(agent, ATLAS)
    before = {offer.vendor: recon.chain.vendor_balance(offer) for offer in (LEXICON, ATLAS)}
    recon.deliver(first.pay(900_000))
    recon.deliver(second.pay(600_000), second.pay(300_000), second.pay(200_000))

    assert watch_solvency().suspended == [agent.pubkey]
    recon.settle()
    recon.rest()

    # 1,000,000 over 900,000 and 1,100,000 due.
    paid = {
        offer.vendor: recon.chain.vendor_balance(offer) - before[offer.vendor] for offer in (LEXICON, ATLAS)
    }
    assert paid == {LEXICON.vendor: 450_000, ATLAS.vendor: 550_000}
    assert (recon.statuses(first), recon.statuses(second)) == (["PENDING"], ["PENDING"] * 3)
    reversed_ = watch_solvency().reversed
    assert sorted((each.gateway, each.amount_atomic, each.intents) for each in reversed_) == sorted(
        [(first.gateway.pubkey, 450_000, 1), (second.gateway.pubkey, 550_000, 3)]
    )
    assert (recon.statuses(first), recon.statuses(second)) == (["REVERSED"], ["REVERSED"] * 3)
    assert (recon.unsettled(first), uncollected(recon, first)) == (0, 450_000)
    assert (recon.unsettled(second), uncollected(recon, second)) == (0, 550_000)
    assert recon.liability(agent) == 1_000_000
    assert status_of(first) == "SUSPENDED"
    assert watch_solvency().reversed == []
    assert Case.objects.filter(subject=agent.pubkey).count() == 1

    # A top-up that covers part pays the oldest charges of each, and the rest stays reversed.
    recon.chain.top_up(agent, 500_000)
    recon.catch_up()
    recon.settle()
    recon.rest()
    assert (uncollected(recon, first), uncollected(recon, second)) == (225_000, 275_000)
    assert recon.statuses(second) == ["SETTLED", "REVERSED", "REVERSED"]
    assert watch_solvency().reversed == []

    recon.chain.top_up(agent, 5_000_000)
    recon.catch_up()
    recon.settle()
    recon.rest()
    assert (recon.statuses(first), recon.statuses(second)) == (["SETTLED"], ["SETTLED"] * 3)
    assert (uncollected(recon, first), uncollected(recon, second)) == (0, 0)
    assert recon.liability(agent) == 0
    assert recon.bond(agent) == 4_500_000
    assert not Reversal.objects.filter(collected_at=None).exists()
    lines = statement(chart.uncollected(str(first.vendor), first.gateway.pubkey, recon.mint))
    assert [(line.kind, line.amount_atomic) for line in lines] == [
        ("reverse", 450_000),
        ("recollect", -225_000),
        ("recollect", -225_000),
    ]


def test_an_agent_of_many_channels_is_reversed_part_by_part(recon: Recon, monkeypatch) -> None:
    monkeypatch.setattr(reversals, "CHANNELS_AT_ONCE", 1)
    agent = recon.chain.new_agent(bond_atomic=SMALL_BOND)
    recon.catch_up()
    payers = [recon.chain.payer(agent, offer) for offer in (LEXICON, ATLAS)]
    for payer in payers:
        recon.deliver(payer.pay(SMALL_BOND))
    recon.settle()
    recon.rest()

    looks = [[each.amount_atomic for each in watch_solvency().reversed] for _ in range(3)]

    assert looks == [[SMALL_BOND // 2], [SMALL_BOND // 2], []]
    assert [uncollected(recon, payer) for payer in payers] == [SMALL_BOND // 2] * 2


def test_the_vendor_is_told_and_a_person_reinstates_with_a_reason(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON, bond_atomic=SMALL_BOND)
    recon.deliver(payer.pay(1_500_000))
    recon.settle()
    recon.rest()
    with sync_redis().pubsub() as pubsub:
        pubsub.subscribe(live_channel(f"vendor:{payer.gateway.pubkey}"))
        assert pubsub.get_message(timeout=30) is not None
        watch_solvency()
        told = [message for _, message in heard(pubsub)]

    assert [(each["event"], each["data"]["type"]) for each in told] == [
        ("alert", "agent_suspended"),
        ("alert", "settlement_failed"),
    ]
    assert told[1]["data"]["amount_atomic"] == "500000"
    case = Case.objects.get(subject=payer.agent.pubkey)
    assert (case.kind, case.status, case.amount_atomic) == ("INSOLVENCY", "OPEN", 500_000)

    cases.reinstate(case.id, by="ada", note="paid us by invoice")

    assert status_of(payer) == "ACTIVE"
    entries = list(case.entries.order_by("id").values_list("action", "by", "note"))
    assert [entry[:2] for entry in entries] == [
        ("OPENED", "recon"),
        ("SUSPENDED", "recon"),
        ("REINSTATED", "ada"),
        ("DISMISSED", "ada"),
    ]
    assert entries[2][2] == "paid us by invoice"
    changes = EnforcementEvent.objects.filter(agent=payer.agent.pubkey, action="STATUS").order_by("id")
    assert [(change.after["status"], change.by) for change in changes] == [
        ("SUSPENDED", "recon"),
        ("ACTIVE", "ada"),
    ]
    # The same shortfall suspends nobody twice; the money is still missing.
    assert watch_solvency().suspended == []
    assert uncollected(recon, payer) == 500_000


def test_charges_without_a_voucher_are_reversed_and_cost_the_agent_nothing(recon: Recon) -> None:
    """A gateway that reports more than was ever signed makes nobody insolvent but itself."""
    (payer,) = recon.payers(1, LEXICON, bond_atomic=SMALL_BOND)
    honest = payer.pay(1_000)
    payer.cumulative = 0
    doubled = payer.pay(1_000)
    recon.deliver(honest, doubled)

    recon.settle()
    recon.rest()
    watched = watch_solvency()

    assert watched.suspended == []
    assert [(each.amount_atomic, each.intents) for each in watched.reversed] == [(1_000, 1)]
    assert sorted(recon.statuses(payer)) == ["REVERSED", "SETTLED"]
    assert status_of(payer) == "ACTIVE"
    assert recon.bond(payer.agent) == SMALL_BOND - 1_000


def test_nothing_is_reversed_while_a_bond_or_a_transaction_can_still_pay(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON, bond_atomic=SMALL_BOND)
    recon.deliver(payer.pay(1_500_000))
    assert watch_solvency().reversed == []
    recon.settle()
    AgentMirror.objects.filter(agent=payer.agent.pubkey).update(bond_atomic=0)

    assert watch_solvency().reversed == []

    assert recon.statuses(payer) == ["PENDING"]
    assert uncollected(recon, payer) == 0


def test_an_agent_that_owes_what_it_has_spoken_for_is_settled_at_once(recon: Recon, settings) -> None:
    """Optimistic gateways may get ahead of a bond that is about to leave."""
    settings.SETTLE_MINIMUM_ATOMIC = 10**9
    (payer,) = recon.payers(1, LEXICON, bond_atomic=1_800_000)
    recon.deliver(payer.pay(1_200_000))
    assert recon.settle() == []
    step = build.request_withdrawal(recon.chain.network, agent=payer.agent.public, amount=800_000)
    send(recon, step, signers=(payer.agent,))
    recon.sync()

    # The withdrawal's own alarm was long ago.
    AgentMirror.objects.update(settle_urgently_since=timezone.now() - timedelta(hours=1))
    assert recon.settle() == []

    assert watch_solvency().hurried == [payer.agent.pubkey]
    assert watch_solvency().hurried == []

    recon.settle()
    recon.rest()
    assert (recon.statuses(payer), status_of(payer)) == (["SETTLED"], "ACTIVE")
    assert not Case.objects.filter(subject=payer.agent.pubkey).exists()
