"""What becomes of evidence of double signing once people and the chain have spoken."""

import pytest

from apps.payments.models import AgentMirror, Case, Equivocation
from apps.payments.services import equivocations, settlements
from apps.payments.services.chain_mirror import apply_chain_snapshot
from apps.payments.services.decisions import Decision, decide
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import deliver, registered
from tests.payments.factories import Payer, agent_account, chain_state

pytestmark = pytest.mark.django_db


@pytest.fixture
def case(bound) -> Case:
    """The case of a bonded agent that signed one nonce for two gateways; the proof is under way."""
    agent = SigningKey.generate()
    apply_chain_snapshot(chain_state(5, [agent_account(agent.public, deposited=1_000)]))
    first = Payer(agent, registered()).pay(10)
    deliver(first)
    deliver(Payer(agent, registered()).pay(10, nonce=first.intent.nonce))
    (found,) = equivocations.provable(limit=9)
    sent = equivocations.store_proof(
        found, raw_transaction=b"signed", signature="s" * 88, last_valid_block_height=9
    )
    assert sent is not None
    return Case.objects.get()


@pytest.mark.parametrize("decision", [None, Decision.DISMISS, Decision.REINSTATE])
def test_a_proof_that_failed_is_tried_again_unless_somebody_let_the_agent_off(
    case: Case, decision: Decision | None
) -> None:
    if decision is not None:
        decide(case.id, decision, by="ada", note="their clock was broken")
    row = Equivocation.objects.get()
    assert (row.status, row.transaction_id is not None) == ("SUBMITTED", True)
    assert settlements.mark_failed(row.transaction_id, error="expired")

    assert equivocations.follow() == []

    assert Equivocation.objects.get().status == ("OPEN" if decision is None else "DISMISSED")
    Equivocation.objects.update(retry_after=None)
    assert len(equivocations.provable(limit=9)) == (1 if decision is None else 0)
    assert AgentMirror.objects.get().window_end == 0
