"""Mirrors, ledger and intents follow finalised chain state, whoever's transaction changed it."""

import pytest

from apps.ledger import chart
from apps.ledger.models import Transfer
from apps.ledger.selectors import balance
from apps.payments.errors import ChainRegression, NetworkMismatch
from apps.payments.models import AgentChange, AgentMirror, ChainCursor, Channel, Gateway
from apps.payments.services.chain_mirror import (
    BondMoved,
    SettlementSeen,
    apply_chain_snapshot,
    refresh_agent,
)
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import deliver, row_of, spent, stored, unsettled
from tests.payments.factories import MINT, Party, agent_account, chain_state, channel_account

pytestmark = pytest.mark.django_db


def bond(agent: SigningKey) -> int:
    return balance(chart.bond(agent.pubkey, MINT))


def settled(party: Party) -> int:
    return balance(chart.settled(str(party.vendor), party.pubkey, MINT))


def owed(party: Party) -> int:
    return balance(chart.owed(str(party.vendor), party.pubkey, MINT))


def test_a_deposit_is_posted_by_how_far_the_total_rose(bound):
    agent = SigningKey.generate()

    first = apply_chain_snapshot(chain_state(5, [agent_account(agent.public, deposited=100)]))
    second = apply_chain_snapshot(chain_state(6, [agent_account(agent.public, deposited=130)]))

    assert first.deposits == [BondMoved(agent.pubkey, 100)]
    assert second.deposits == [BondMoved(agent.pubkey, 30)]
    assert (bond(agent), balance(chart.deposits(MINT))) == (130, -130)
    mirror = AgentMirror.objects.get()
    assert (mirror.bond_atomic, mirror.deposited_total_atomic, mirror.slot) == (130, 130, 6)


def test_a_slot_is_applied_once_and_never_backwards(bound):
    agent = SigningKey.generate()
    apply_chain_snapshot(chain_state(6, [agent_account(agent.public, deposited=130)]))

    same = apply_chain_snapshot(chain_state(6, [agent_account(agent.public, deposited=999)]))
    older = apply_chain_snapshot(chain_state(5, [agent_account(agent.public, deposited=100)]))

    assert (same.applied, older.applied, older.slot) == (False, False, 6)
    assert bond(agent) == 130
    assert ChainCursor.objects.get().slot == 6


def test_a_later_slot_without_changes_posts_nothing(bound):
    agent = SigningKey.generate()
    apply_chain_snapshot(chain_state(6, [agent_account(agent.public, deposited=130)]))

    again = apply_chain_snapshot(chain_state(7, [agent_account(agent.public, deposited=130)]))

    assert again.applied
    assert (again.deposits, again.settled) == ([], [])
    assert Transfer.objects.count() == 1


def test_a_settlement_moves_bond_credit_and_intents(payer, gateway):
    deliver(payer.pay(100), payer.pay(50), payer.pay(25))
    agent = payer.agent
    apply_chain_snapshot(chain_state(5, [agent_account(agent.public, deposited=1000)]))

    result = apply_chain_snapshot(
        chain_state(
            6,
            [agent_account(agent.public, deposited=1000, paid=150)],
            [channel_account(agent.public, gateway, settled=150)],
        )
    )

    assert result.settled == [
        SettlementSeen(str(payer.channel), agent.pubkey, gateway.pubkey, str(gateway.vendor), 150, 0, 150)
    ]
    assert result.intents_settled == 2
    assert stored(payer.channel) == [("SETTLED", 100, 100), ("SETTLED", 50, 150), ("PENDING", 25, 175)]
    assert (bond(agent), spent(agent), unsettled(gateway), settled(gateway)) == (850, -25, 25, 150)
    assert row_of(payer).unsettled_since is not None


def test_a_partly_covered_intent_stays_pending(payer, gateway):
    deliver(payer.pay(100), payer.pay(50))
    agent = payer.agent.public

    apply_chain_snapshot(
        chain_state(
            6, [agent_account(agent, deposited=120, paid=120)], [channel_account(agent, gateway, settled=120)]
        )
    )

    assert stored(payer.channel) == [("SETTLED", 100, 100), ("PENDING", 50, 150)]
    assert (unsettled(gateway), settled(gateway)) == (30, 120)


def test_a_channel_settled_in_full_waits_for_nothing(payer, gateway):
    deliver(payer.pay(100))
    agent = payer.agent.public

    apply_chain_snapshot(
        chain_state(
            6, [agent_account(agent, deposited=100, paid=100)], [channel_account(agent, gateway, settled=100)]
        )
    )

    assert row_of(payer).unsettled_since is None
    assert unsettled(gateway) == 0


def test_what_was_claimed_above_recorded_charges_is_posted_as_claimed(payer, gateway):
    deliver(payer.pay(100))
    agent = payer.agent.public

    result = apply_chain_snapshot(
        chain_state(
            6, [agent_account(agent, deposited=500, paid=130)], [channel_account(agent, gateway, settled=130)]
        )
    )

    assert (result.settled[0].amount_atomic, result.settled[0].claimed_atomic) == (130, 30)
    assert list(Transfer.objects.order_by("id").values_list("kind", flat=True)) == [
        "charge",
        "deposit",
        "claimed",
        "settle",
    ]
    assert (unsettled(gateway), settled(gateway), spent(payer.agent)) == (0, 130, 0)


def test_channels_of_strangers_are_followed_too(bound):
    agent, party = SigningKey.generate(), Party()

    apply_chain_snapshot(
        chain_state(
            6,
            [agent_account(agent.public, deposited=500, paid=70)],
            [channel_account(agent.public, party, settled=70, owed=20)],
            [party],
        )
    )

    channel = Channel.objects.get()
    assert (channel.agent_id, channel.gateway_id, channel.vendor) == (
        agent.pubkey,
        party.pubkey,
        str(party.vendor),
    )
    assert (channel.settled_atomic, channel.owed_atomic, channel.credited_atomic) == (70, 20, 70)
    assert (bond(agent), settled(party), owed(party)) == (430, 50, 20)


def test_a_claim_is_mirrored_before_it_pays(payer, gateway):
    agent = payer.agent.public
    apply_chain_snapshot(
        chain_state(
            6,
            [agent_account(agent, deposited=500, open_claims=90)],
            [channel_account(agent, gateway, settled=0, claim=90)],
        )
    )

    assert Channel.objects.get().claim_cumulative_atomic == 90
    assert AgentMirror.objects.get().open_claims_atomic == 90
    assert settled(gateway) == 0


def test_a_slashed_agent_is_blacklisted(bound):
    agent = SigningKey.generate()
    apply_chain_snapshot(chain_state(5, [agent_account(agent.public, deposited=500)]))
    AgentMirror.objects.update(status="SUSPENDED")
    apply_chain_snapshot(chain_state(6, [agent_account(agent.public, deposited=500, pending_withdrawal=1)]))
    assert AgentMirror.objects.get().status == "SUSPENDED"

    apply_chain_snapshot(chain_state(7, [agent_account(agent.public, deposited=500, paid=0, slashed=True)]))

    assert AgentMirror.objects.get().status == "SLASHED"


def test_a_revoked_gateway_is_marked_and_keeps_its_vendor(bound):
    party = Party()
    apply_chain_snapshot(chain_state(5, gateways=[party]))
    revoked = chain_state(6)
    revoked.gateways[party.key.public] = type(party.account())(
        255, True, party.key.public, party.vendor, 0, 1
    )

    apply_chain_snapshot(revoked)

    row = Gateway.objects.get()
    assert (row.revoked, row.vendor) == (True, str(party.vendor))


def test_a_watermark_that_fell_stops_everything(payer, gateway):
    agent = payer.agent.public
    apply_chain_snapshot(
        chain_state(
            6, [agent_account(agent, deposited=500, paid=130)], [channel_account(agent, gateway, settled=130)]
        )
    )

    with pytest.raises(ChainRegression):
        apply_chain_snapshot(
            chain_state(
                7,
                [agent_account(agent, deposited=600, paid=10)],
                [channel_account(agent, gateway, settled=10)],
            )
        )

    assert (bond(payer.agent), settled(gateway)) == (370, 130)
    assert ChainCursor.objects.get().slot == 6


def test_refreshing_one_agent_leaves_the_ledger_to_the_snapshot(bound):
    agent = SigningKey.generate()

    refresh_agent(20, agent_account(agent.public, deposited=100))
    assert (AgentMirror.objects.get().bond_atomic, bond(agent)) == (100, 0)
    older = apply_chain_snapshot(chain_state(19, [agent_account(agent.public, deposited=40)]))

    assert older.deposits == [BondMoved(agent.pubkey, 40)]
    assert (AgentMirror.objects.get().bond_atomic, AgentMirror.objects.get().slot, bond(agent)) == (
        100,
        20,
        40,
    )
    apply_chain_snapshot(chain_state(21, [agent_account(agent.public, deposited=100)]))
    assert bond(agent) == 100


def test_refreshing_an_agent_that_did_not_change_tells_nobody(bound):
    agent = SigningKey.generate()
    account = agent_account(agent.public, deposited=100, withdrawn_total=100, paid=100)
    apply_chain_snapshot(chain_state(20, [account]))
    told = AgentChange.objects.count()

    refresh_agent(21, account)
    assert AgentChange.objects.count() == told
    refresh_agent(22, agent_account(agent.public, deposited=130, withdrawn_total=100, paid=100))
    assert AgentChange.objects.count() == told + 1


def test_a_database_of_no_network_follows_nothing(db):
    with pytest.raises(NetworkMismatch):
        apply_chain_snapshot(chain_state(5, [agent_account(SigningKey.generate().public, deposited=1)]))
    assert ChainCursor.objects.count() == 0
