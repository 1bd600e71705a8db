"""What gateways and agents are told about an agent's credit."""

import pytest

from apps.payments.models import AgentMirror
from apps.payments.selectors.liability import liability_answer, no_bond
from apps.payments.services.chain_mirror import apply_chain_snapshot
from machpay.protocol.keys import SigningKey
from machpay.protocol.snapshots import GatewayLiability, LiabilityAnswer
from machpay.protocol.x402 import parse_voucher
from tests.payments.conftest import deliver, registered
from tests.payments.factories import Payer, agent_account, chain_state, channel_account

USDC = 1_000_000
pytestmark = pytest.mark.django_db


def answer_for(**question: str) -> LiabilityAnswer:
    """The answer for an agent that is known."""
    answer = liability_answer(**question)
    assert answer is not None
    return answer


def test_the_briefs_two_gateways(bound):
    """50 USDC at A, then 30 at B: 80 together; A sees 30 elsewhere, B sees 50."""
    agent = SigningKey.generate()
    a, b = Payer(agent, registered()), Payer(agent, registered())
    apply_chain_snapshot(chain_state(7, [agent_account(agent.public, deposited=100 * USDC)]))

    deliver(a.pay(50 * USDC))
    assert answer_for(agent=agent.pubkey).snapshot.liability == str(50 * USDC)
    deliver(b.pay(30 * USDC))

    whole = answer_for(agent=agent.pubkey)
    assert whole.snapshot.liability == str(80 * USDC)
    assert whole.external_liability == 80 * USDC
    for_a = answer_for(agent=agent.pubkey, exclude_gateway=a.gateway.pubkey, asking_gateway=a.gateway.pubkey)
    assert for_a.external_liability == 30 * USDC
    assert for_a.gateways == [GatewayLiability(b.gateway.pubkey, 30 * USDC)]
    assert for_a.snapshot.liability == str(80 * USDC)
    assert for_a.snapshot.available() == 20 * USDC
    for_b = answer_for(agent=agent.pubkey, exclude_gateway=b.gateway.pubkey, asking_gateway=b.gateway.pubkey)
    assert for_b.external_liability == 50 * USDC


def test_settling_lowers_the_liability_and_the_bond_alike(payer, gateway):
    agent = payer.agent.public
    apply_chain_snapshot(chain_state(7, [agent_account(agent, deposited=1000)]))
    deliver(payer.pay(300))
    before = answer_for(agent=str(agent)).snapshot

    apply_chain_snapshot(
        chain_state(
            8,
            [agent_account(agent, deposited=1000, paid=200)],
            [channel_account(agent, gateway, settled=200)],
        )
    )

    after = answer_for(agent=str(agent)).snapshot
    assert (before.bond, before.liability, before.slot) == ("1000", "300", 7)
    assert (after.bond, after.liability, after.slot) == ("800", "100", 8)
    assert before.available() == after.available() == 700


def test_claims_withdrawals_limits_and_status_are_told(payer):
    agent = payer.agent.public
    apply_chain_snapshot(
        chain_state(7, [agent_account(agent, deposited=1000, open_claims=50, pending_withdrawal=200)])
    )
    AgentMirror.objects.update(status="SUSPENDED", limit_per_call_atomic=10, limit_per_day_atomic=500)
    deliver(payer.pay(120))

    snapshot = answer_for(agent=str(agent)).snapshot

    assert (snapshot.claims, snapshot.pending_withdrawal, snapshot.status) == ("50", "200", "SUSPENDED")
    assert (snapshot.limits.per_call, snapshot.limits.per_day, snapshot.remaining_today) == (
        "10",
        "500",
        "380",
    )
    assert (snapshot.leases, snapshot.lease) == ("0", None)
    assert snapshot.available() == 630


def test_the_asking_gateway_gets_its_channel_back(payer, gateway):
    payment = payer.pay(100)
    deliver(payment, payer.pay(60, charged=0))

    channel = answer_for(agent=payer.agent.pubkey, asking_gateway=gateway.pubkey).channel

    assert channel is not None
    assert (channel.address, channel.charged_total, channel.settled) == (str(payer.channel), "100", "0")
    voucher = parse_voucher(channel.highest)
    assert voucher.cumulative == 160
    assert voucher.is_signed_by(payer.agent.public)
    assert answer_for(agent=payer.agent.pubkey, asking_gateway="another").channel is None
    assert answer_for(agent=payer.agent.pubkey).channel is None


def test_a_claim_ahead_of_the_charges_is_no_negative_liability(payer, gateway):
    agent = payer.agent.public
    deliver(payer.pay(100))
    apply_chain_snapshot(
        chain_state(
            8,
            [agent_account(agent, deposited=1000, paid=160)],
            [channel_account(agent, gateway, settled=160)],
        )
    )

    answer = answer_for(agent=str(agent))
    assert (answer.snapshot.liability, answer.external_liability, answer.gateways) == ("0", 0, [])


def test_an_agent_nobody_heard_of_has_no_answer(bound):
    agent = SigningKey.generate().pubkey
    assert liability_answer(agent=agent) is None
    apply_chain_snapshot(chain_state(8))
    empty = no_bond(agent)
    assert (empty.snapshot.bond, empty.snapshot.slot, empty.snapshot.available()) == ("0", 8, 0)
