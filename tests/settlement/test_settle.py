"""Settling end to end: what agents were charged reaches the vendors, exactly."""

from apps.payments.models import Settlement
from devnet.offers import ATLAS, LEXICON
from tests.settlement.conftest import Recon

BOND = 50_000_000


def test_two_agents_and_two_vendors_are_settled_exactly(recon: Recon) -> None:
    chain = recon.chain
    agents = [chain.new_agent(bond_atomic=BOND) for _ in range(2)]
    payers = {
        (agent.pubkey, offer.vendor): chain.payer(agent, offer)
        for agent in agents
        for offer in (LEXICON, ATLAS)
    }
    before = {offer.vendor: chain.vendor_balance(offer) for offer in (LEXICON, ATLAS)}
    chain.wait_until_final()
    recon.sync()
    for number, payer in enumerate(payers.values()):
        recon.deliver(*(payer.pay(1_000 + number) for _ in range(3)), payer.pay(700, charged=0))
    assert [recon.liability(agent) for agent in agents] == [3 * 1_000 + 3 * 1_001, 3 * 1_002 + 3 * 1_003]

    stored = recon.settle()
    recon.rest()

    assert len(stored) == 2
    assert recon.states() == ["FINALIZED", "FINALIZED"]
    for offer in (LEXICON, ATLAS):
        charged = sum(payers[agent.pubkey, offer.vendor].served for agent in agents)
        assert chain.vendor_balance(offer) - before[offer.vendor] == charged
        payer = payers[agents[0].pubkey, offer.vendor]
        assert (recon.unsettled(payer), recon.settled(payer)) == (0, charged)
    for agent in agents:
        paid = sum(payers[agent.pubkey, offer.vendor].served for offer in (LEXICON, ATLAS))
        account = chain.agent_account(agent)
        assert account is not None
        assert account.bond == BOND - paid == recon.bond(agent)
        assert recon.liability(agent) == 0
    for payer in payers.values():
        assert recon.statuses(payer) == ["SETTLED", "SETTLED", "SETTLED", "VOID"]
        assert recon.channel(payer).settled_atomic == payer.served
        assert recon.channel(payer).in_flight_id is None
    paid_rows = Settlement.objects.values_list("paid_atomic", "planned_atomic")
    assert all(paid == planned for paid, planned in paid_rows)
