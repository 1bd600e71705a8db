"""Fraud, from the evidence to the chain: double signing is slashed, and gateways that misbehave get a case."""

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from apps.ledger import chart
from apps.ledger.selectors import balance
from apps.payments.models import (
    AgentChange,
    AgentMirror,
    Case,
    Channel,
    Equivocation,
    FraudScan,
    Gateway,
    Settlement,
)
from apps.payments.services import cases
from apps.settlement.services import fraud
from apps.settlement.services.fraud import look_for_fraud
from apps.settlement.services.solvency import watch_solvency
from devnet.offers import ATLAS, LEXICON
from machpay.chain import instructions as build
from machpay.protocol.nonces import new_nonce
from machpay.protocol.settlements import ResolvedPayment
from tests.settlement.conftest import BOND, Recon
from tests.support.chain import Payer


@pytest.fixture(autouse=True)
def at_once(settings) -> None:
    settings.REVERSAL_GRACE_S = 0.0
    settings.SETTLE_CREATE_MINIMUM_ATOMIC = 1


def sign_twice(recon: Recon, first: Payer, second: Payer) -> list[ResolvedPayment]:
    """One nonce, paid at two gateways, which both deliver."""
    nonce = new_nonce()
    payments = [payer.pay(1_000, nonce=nonce) for payer in (first, second)]
    for payment in payments:
        recon.deliver(payment)
    return payments


def cheat(recon: Recon) -> tuple[Payer, Payer]:
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()
    return recon.chain.payer(agent, LEXICON), recon.chain.payer(agent, ATLAS)


def follow_proof(recon: Recon) -> None:
    recon.chain.wait_until_final()
    recon.follow()
    recon.sync()
    recon.run(look_for_fraud)


def test_double_signing_is_stopped_at_once_and_slashed_on_chain(recon: Recon) -> None:
    first, second = cheat(recon)
    agent = first.agent.pubkey
    nonce = sign_twice(recon, first, second)[0].intent.nonce

    # Nobody waits for the chain: the agent is suspended with the evidence, and gateways are told.
    assert AgentMirror.objects.get(agent=agent).status == "SUSPENDED"
    assert AgentChange.objects.filter(agent=agent).exists()
    case = Case.objects.get(kind="EQUIVOCATION")
    assert (case.subject, case.evidence["nonce"], case.status) == (agent, str(nonce), "OPEN")

    assert recon.run(look_for_fraud) == [agent]
    assert recon.run(look_for_fraud) == []
    follow_proof(recon)

    account = recon.chain.agent_account(first.agent)
    assert account is not None
    assert (account.slashed, account.bond, account.forfeited) == (True, 0, BOND)
    assert account.reporter == recon.chain.keys.get("relayer").public
    assert AgentMirror.objects.get(agent=agent).status == "SLASHED"
    assert balance(chart.forfeited(agent, recon.mint)) == BOND
    proof = Settlement.objects.get(kind="SLASH")
    assert (proof.state, proof.paid_atomic) == ("FINALIZED", 0)
    assert Equivocation.objects.get().status == "SLASHED"
    case.refresh_from_db()
    assert case.status == "UPHELD"
    actions = list(case.entries.order_by("id").values_list("action", flat=True))
    assert actions == ["OPENED", "SUSPENDED", "SLASH_SENT", "SLASHED", "UPHELD"]

    # The forfeited bond pays what was served, and that is how the payments end.
    recon.settle()
    recon.rest()
    assert (recon.statuses(first), recon.statuses(second)) == (["SLASHED"], ["SLASHED"])
    assert recon.liability(first.agent) == 0
    assert watch_solvency().reversed == []


def test_a_proof_that_never_lands_is_signed_anew_and_the_agent_is_slashed_once(recon: Recon) -> None:
    first, second = cheat(recon)
    sign_twice(recon, first, second)
    with recon.chain.control() as control:
        control.drop_sends(1)
        recon.run(look_for_fraud)
        control.expire_blockhashes()
    deadline = time.monotonic() + 120
    while Settlement.objects.get(kind="SLASH").state != "FAILED":
        assert time.monotonic() < deadline
        recon.chain.wait_until_final()
        recon.follow()
    assert recon.run(look_for_fraud) == []
    assert Equivocation.objects.get().status == "OPEN"

    Equivocation.objects.update(retry_after=None)
    assert recon.run(look_for_fraud) == [first.agent.pubkey]
    follow_proof(recon)

    assert Equivocation.objects.get().status == "SLASHED"
    assert list(Settlement.objects.order_by("id").values_list("state", flat=True)) == ["FAILED", "FINALIZED"]


def test_somebody_elses_proof_ends_ours(recon: Recon) -> None:
    first, second = cheat(recon)
    payments = sign_twice(recon, first, second)
    reporter = recon.chain.keys.get("admin")
    halves = [build.SignedIntent(payment.gateway, payment.intent, payment.signature) for payment in payments]
    steps = build.slash_equivocation(
        recon.chain.network,
        reporter=reporter.public,
        agent=first.agent.public,
        first=halves[0],
        second=halves[1],
    )
    recon.chain.call(lambda client: client.send_and_confirm(steps, reporter.keypair()))
    recon.catch_up()

    assert recon.run(look_for_fraud) == []

    evidence = Equivocation.objects.get()
    assert (evidence.status, evidence.attempts) == ("SLASHED", 0)
    assert not Settlement.objects.filter(kind="SLASH").exists()


def test_what_intake_missed_is_found_by_the_scan(recon: Recon, monkeypatch) -> None:
    first, second = cheat(recon)
    nonce = sign_twice(recon, first, second)[0].intent.nonce
    Equivocation.objects.all().delete()
    agents = AgentMirror.objects.filter(agent=first.agent.pubkey)
    agents.update(status="ACTIVE")
    monkeypatch.setattr(fraud, "_SCAN_LAG", timedelta(0))
    FraudScan.objects.update_or_create(id=1, defaults={"until": timezone.now() - timedelta(minutes=5)})

    recon.run(look_for_fraud)

    assert Equivocation.objects.get().nonce == nonce
    # Another look compares what is new only.
    assert recon.run(look_for_fraud) == []
    assert Equivocation.objects.count() == 1


def test_a_claim_beyond_the_charges_is_a_case_until_the_charges_come(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    known, late = payer.pay(1_000), payer.pay(400)
    recon.deliver(known)
    # The relayer's key is only the quickest way to a rise: a claim ends in the same accounts.
    recon.settle_elsewhere(payer, late, up_to=1_400)
    recon.catch_up()

    case = Case.objects.get(kind="CLAIMED_AHEAD")
    assert (case.subject, case.amount_atomic, case.status) == (payer.gateway.pubkey, 400, "OPEN")
    assert case.evidence["charged_total"] == "1000"
    recon.run(look_for_fraud)
    case.refresh_from_db()
    assert case.status == "OPEN"

    recon.deliver(late)
    recon.run(look_for_fraud)
    case.refresh_from_db()
    assert case.status == "RESOLVED"
    assert Gateway.objects.get(pubkey=payer.gateway.pubkey).penalty_points == 0


def test_charges_that_nobody_authorised_are_a_case_that_costs_reputation(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    honest = payer.pay(1_000)
    payer.cumulative = 0
    recon.deliver(honest, payer.pay(1_000))

    recon.run(look_for_fraud)
    recon.run(look_for_fraud)

    case = Case.objects.get(kind="OVER_REPORTED")
    assert (case.subject, case.amount_atomic) == (payer.gateway.pubkey, 1_000)
    assert (case.evidence["charged_total"], case.evidence["highest"]) == ("2000", "1000")
    assert len(case.evidence["newest_charges"]) == 2

    cases.uphold(case.id, by="ada", note="looked at the receipts")
    gateway = Gateway.objects.get(pubkey=payer.gateway.pubkey)
    assert (gateway.penalty_points, gateway.blacklisted_at) == (20, None)
    cases.reinstate(case.id, by="ada", note="their clock was broken")
    assert Gateway.objects.get(pubkey=payer.gateway.pubkey).penalty_points == 0
    assert Channel.objects.get(address=str(payer.channel)).charged_total_atomic == 2_000
