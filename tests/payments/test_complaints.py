"""Agents complain about gateways: what is proven, what counts once others say it, and what is refused."""

import time

import msgspec
import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.payments.errors import CaseClosed, ComplaintRefused
from apps.payments.models import AgentMirror, Case, CaseEntry, Complaint, Gateway
from apps.payments.services import cases, complaints
from apps.payments.services.complaints import PER_AGENT_MAX, Complained, complain
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.receipts import Receipt
from machpay.protocol.settlements import ResolvedPayment, to_item
from tests.payments.conftest import deliver
from tests.payments.factories import Party, Payer

pytestmark = pytest.mark.django_db


def bonded(gateway: Party) -> Payer:
    payer = Payer(SigningKey.generate(), gateway)
    AgentMirror.objects.create(agent=payer.agent.pubkey, bond_atomic=1_000_000)
    return payer


def said(kind: str, payment: ResolvedPayment) -> Complained:
    return Complained(
        agent=str(payment.agent),
        gateway=str(payment.gateway),
        kind=kind,
        payment=payment,
        item=msgspec.to_builtins(to_item(payment)),
    )


def receipted(payer: Payer, payment: ResolvedPayment, charged: int) -> ResolvedPayment:
    """The same payment with another receipt of the gateway."""
    assert payment.receipt is not None
    told = Receipt(payment.intent.digest, 200, charged, charged, payment.receipt.receipt.time)
    return msgspec.structs.replace(
        payment, charged=charged, served_total=charged, receipt=told.sign(payer.gateway.key)
    )


def test_a_receipt_for_less_than_was_delivered_proves_overcharging(gateway: Party) -> None:
    payer = bonded(gateway)
    payment = payer.pay(1_000)
    deliver(payment)

    made = complain(said("OVERCHARGED", receipted(payer, payment, 400)))

    assert made.verdict == "PROVEN"
    assert made.case is not None
    assert (made.case.kind, made.case.subject, made.case.amount_atomic) == (
        "OVER_REPORTED",
        gateway.pubkey,
        600,
    )
    assert made.case.evidence["delivered"] == {"charged": "1000", "http_status": 200}
    assert made.case.evidence["payment"]["charged"] == "400"
    # Once more says the same and opens nothing.
    assert complain(said("OVERCHARGED", receipted(payer, payment, 400))) == made
    assert (Complaint.objects.count(), Case.objects.count()) == (1, 1)


def test_a_complaint_that_came_before_the_delivery_is_judged_after_it(gateway: Party) -> None:
    payer = bonded(gateway)
    payment = payer.pay(1_000)
    assert complain(said("OVERCHARGED", receipted(payer, payment, 400))).verdict == "NOTED"
    assert complaints.judge_again(now=timezone.now()) == 0

    deliver(payment)
    assert complaints.judge_again(now=timezone.now()) == 1
    assert complaints.judge_again(now=timezone.now()) == 0
    assert Complaint.objects.get().verdict == "PROVEN"
    assert Case.objects.get().amount_atomic == 600


def test_what_the_gateway_delivered_refutes_a_complaint(gateway: Party) -> None:
    payer = bonded(gateway)
    payment = payer.pay(1_000)
    deliver(payment)
    no_receipt = msgspec.structs.replace(payment, charged=0, receipt=None, served_total=None, served_at=None)

    assert complain(said("OVERCHARGED", payment)).verdict == "REFUTED"
    assert complain(said("DENIED", no_receipt)).verdict == "REFUTED"
    assert not Case.objects.exists()


def test_a_refusal_that_turns_out_to_have_been_served_does_not_count(gateway: Party) -> None:
    payer = bonded(gateway)
    payment = payer.pay(1_000)
    refused = msgspec.structs.replace(payment, charged=0, receipt=None, served_total=None, served_at=None)
    assert complain(said("DENIED", refused)).verdict == "NOTED"
    assert complaints.judge_again(now=timezone.now()) == 0

    deliver(payment)

    assert complaints.judge_again(now=timezone.now()) == 1
    assert Complaint.objects.get().verdict == "REFUTED"


def test_a_receipt_for_another_payment_under_the_same_nonce_proves_nothing(gateway: Party) -> None:
    payer = bonded(gateway)
    stored = payer.pay(1_000)
    deliver(stored)
    # The gateway lost its log meanwhile, and served the agent's nonce once more.
    other = payer.pay(10, nonce=stored.intent.nonce)

    assert complain(said("OVERCHARGED", other)).verdict == "REFUTED"
    assert not Case.objects.exists()


@pytest.mark.parametrize(
    "ahead_ms", [2 * 86_400_000, None], ids=["two days ahead", "after the calendar's end"]
)
def test_a_payment_of_a_time_that_has_not_come_is_nothing_to_complain_about(
    gateway: Party, ahead_ms: int | None
) -> None:
    payer = bonded(gateway)
    moment = 2**48 - 1 if ahead_ms is None else int(time.time() * 1000) + ahead_ms
    with pytest.raises(ComplaintRefused, match="has not come"):
        complain(said("DENIED", payer.pay(10, charged=0, nonce=new_nonce(moment))))
    assert not Complaint.objects.exists()


@pytest.mark.parametrize("kind", ["SUSPENDED", "no bond", "stopped"])
def test_an_agent_that_gateways_may_refuse_has_nothing_to_complain_about(gateway: Party, kind: str) -> None:
    payer = bonded(gateway)
    changes = {
        "SUSPENDED": {"status": "SUSPENDED"},
        "no bond": {"bond_atomic": 0},
        "stopped": {"stopped": True},
    }
    AgentMirror.objects.update(**changes[kind])

    with pytest.raises(ComplaintRefused):
        complain(said("DENIED", payer.pay(1_000, charged=0)))
    assert not Complaint.objects.exists()


def test_a_receipt_that_says_the_opposite_is_no_proof(gateway: Party) -> None:
    payer = bonded(gateway)
    with pytest.raises(ComplaintRefused, match="served"):
        complain(said("DENIED", payer.pay(1_000)))
    with pytest.raises(ComplaintRefused, match="receipt"):
        complain(said("OVERCHARGED", payer.pay(1_000, receipt=False)))
    assert not Complaint.objects.exists()


def test_one_agent_complains_so_often_a_day(gateway: Party) -> None:
    payer = bonded(gateway)
    for _ in range(PER_AGENT_MAX):
        complain(said("DENIED", payer.pay(10, charged=0)))
    with pytest.raises(ComplaintRefused, match="too many"):
        complain(said("DENIED", payer.pay(10, charged=0)))
    assert Complaint.objects.count() == PER_AGENT_MAX


def test_refusals_of_several_agents_are_a_case_if_others_were_served(gateway: Party) -> None:
    refused = [bonded(gateway) for _ in range(3)]
    for payer in refused[:2]:
        assert complain(said("DENIED", payer.pay(500, receipt=False, charged=0))).verdict == "NOTED"
    now = timezone.now()
    assert complaints.open_cases(now=now) == 0
    complain(said("DENIED", refused[2].pay(500, charged=0)))
    # A gateway that serves nobody is down, not choosy.
    assert complaints.open_cases(now=now) == 0
    deliver(Payer(SigningKey.generate(), gateway).pay(10))

    assert complaints.open_cases(now=now) == 1
    assert complaints.open_cases(now=now) == 0

    case = Case.objects.get()
    assert (case.kind, case.subject, case.status) == ("SELECTIVE_DENIAL", gateway.pubkey, "OPEN")
    assert case.evidence["agents"] == sorted(payer.agent.pubkey for payer in refused)
    assert (case.evidence["with_receipt"], case.complaints.count()) == (1, 3)
    # People look into it; nothing happened to the gateway yet.
    assert Gateway.objects.get(pubkey=gateway.pubkey).penalty_points == 0


def test_one_agents_receipts_of_refusals_are_a_case_too(gateway: Party) -> None:
    payer = bonded(gateway)
    deliver(Payer(SigningKey.generate(), gateway).pay(10))
    for _ in range(3):
        complain(said("DENIED", payer.pay(500, charged=0)))

    assert complaints.open_cases(now=timezone.now()) == 1
    assert Case.objects.get().evidence["with_receipt"] == 3


def test_a_decision_is_made_once_and_its_trail_is_final(gateway: Party) -> None:
    case, new = cases.open_case(
        kind=Case.Kind.SELECTIVE_DENIAL, subject=gateway.pubkey, key="a finding", evidence={"a": 1}
    )
    assert new
    assert cases.open_case(
        kind=Case.Kind.SELECTIVE_DENIAL, subject=gateway.pubkey, key="a finding", evidence={"b": 2}
    ) == (case, False)

    cases.uphold(case.id, by="ada", note="asked them", blacklist=True)
    with pytest.raises(CaseClosed):
        cases.dismiss(case.id, by="bob", note="second thoughts")

    row = Gateway.objects.get(pubkey=gateway.pubkey)
    assert (row.penalty_points, row.blacklisted_at is None) == (10, False)
    trail = case.entries.order_by("id").values_list("action", "by")
    assert list(trail) == [
        ("OPENED", "recon"),
        ("PENALISED", "ada"),
        ("BLACKLISTED", "ada"),
        ("UPHELD", "ada"),
    ]
    for change in (
        lambda: CaseEntry.objects.filter(case=case).update(by="bob"),
        lambda: CaseEntry.objects.filter(case=case).delete(),
    ):
        with pytest.raises(IntegrityError, match="never changed"), transaction.atomic():
            change()
    cases.reinstate(case.id, by="ada", note="they explained it")
    row.refresh_from_db()
    assert (row.penalty_points, row.blacklisted_at) == (0, None)
