"""Agents that co-sign are settled with one signature; whoever does not sign is settled all the same."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.core.management import call_command
from django.utils import timezone

from apps.payments.errors import BadAggregationSignature, UnknownAggregation
from apps.payments.models import AgentMirror, Aggregation, Settlement, SettlementItem
from apps.payments.services.aggregations import asked, sign
from apps.settlement.services import aggregate as aggregate_module
from devnet.offers import ATLAS, LEXICON
from machpay.protocol.aggregates import AggregationProposal
from tests.settlement.conftest import BOND, Recon
from tests.support.chain import Payer


@pytest.fixture
def pair(recon: Recon, settings) -> list[Payer]:
    """One agent that pays two gateways, whose channels exist; it co-signs from two channels on."""
    settings.AGGREGATION_CHANNELS_MIN = 2
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()
    payers = [recon.chain.payer(agent, offer) for offer in (LEXICON, ATLAS)]
    for payer in payers:
        recon.deliver(payer.pay(1_000))
    recon.settle()
    recon.rest()
    assert asked(agent.pubkey) == []
    return payers


def proposal(recon: Recon, payers: list[Payer], *amounts: int) -> AggregationProposal:
    """What the agent is asked to sign after paying these amounts."""
    for payer, amount in zip(payers, amounts, strict=True):
        recon.deliver(payer.pay(amount), payer.pay(50, charged=0))
    recon.settle()
    (found,) = asked(payers[0].agent.pubkey)
    return found


def cosign(recon: Recon, payers: list[Payer], found: AggregationProposal) -> None:
    """What the SDK does."""
    network, agent = recon.chain.network, payers[0].agent
    aggregate, vouchers = found.parse(domain=network.domain, mint=network.mint, agent=agent.public)
    assert aggregate.covers(vouchers)
    state = sign(UUID(found.id), agent=agent.pubkey, signature=aggregate.sign(agent), network=network)
    assert state == "SIGNED"


def test_one_signature_settles_both_vendors(recon: Recon, pair: list[Payer]) -> None:
    before = [recon.chain.vendor_balance(offer) for offer in (LEXICON, ATLAS)]
    found = proposal(recon, pair, 300, 700)
    assert found.amount == "1000"
    # Authorised is more than charged; the proposal settles the charges.
    assert sorted(channel.cumulative for channel in found.channels) == ["1300", "1700"]
    assert sorted(channel.voucher["cumulative"] for channel in found.channels) == ["1350", "1750"]
    assert recon.settle() == []

    cosign(recon, pair, found)
    (stored,) = recon.settle()
    recon.rest()

    row = Settlement.objects.get(id=stored)
    assert (row.kind, row.state, row.paid_atomic, row.channel_count) == ("AGGREGATE", "FINALIZED", 1_000, 2)
    assert Aggregation.objects.get().state == "SETTLED"
    assert recon.liability(pair[0].agent) == 0
    assert [recon.channel(payer).owed_atomic for payer in pair] == [300, 700]
    for payer in pair:
        assert recon.statuses(payer) == ["SETTLED", "SETTLED", "VOID"]

    recon.settle()
    recon.rest()
    kinds = Settlement.objects.filter(kind="DISTRIBUTE").values_list("state", "paid_atomic")
    assert sorted(kinds) == [("FINALIZED", 300), ("FINALIZED", 700)]
    after = [recon.chain.vendor_balance(offer) for offer in (LEXICON, ATLAS)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [300, 700]
    assert [recon.channel(payer).owed_atomic for payer in pair] == [0, 0]
    assert recon.settle() == []


def test_a_proposal_that_nobody_signs_expires_and_is_settled_one_by_one(
    recon: Recon, pair: list[Payer]
) -> None:
    found = proposal(recon, pair, 300, 700)
    Aggregation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert len(recon.settle()) == 2
    recon.rest()
    assert Aggregation.objects.get().state == "EXPIRED"
    assert [recon.channel(payer).settled_atomic for payer in pair] == [1_300, 1_700]
    with pytest.raises(UnknownAggregation):
        cosign(recon, pair, found)
    # It had its chance: the next amounts do not wait for it.
    for payer in pair:
        recon.deliver(payer.pay(10))
    assert len(recon.settle()) == 2
    recon.rest()


def test_an_urgent_channel_waits_for_no_signature(recon: Recon, pair: list[Payer]) -> None:
    found = proposal(recon, pair, 300, 700)
    cosign(recon, pair, found)
    # An alarm: the bond may be about to shrink.
    AgentMirror.objects.filter(agent=pair[0].agent.pubkey).update(settle_urgently_since=timezone.now())
    Aggregation.objects.update(state="PROPOSED")
    assert len(recon.settle()) == 2
    Aggregation.objects.update(state="SIGNED")
    assert recon.settle() == []
    recon.rest()
    # Overtaken: nothing is left for it.
    recon.settle()
    assert Aggregation.objects.get().state == "EXPIRED"
    assert [recon.channel(payer).settled_atomic for payer in pair] == [1_300, 1_700]


def test_settling_now_waits_for_no_signature(recon: Recon, pair: list[Payer]) -> None:
    found = proposal(recon, pair, 300, 700)
    call_command("settle", "--now")
    assert [recon.channel(payer).settled_atomic for payer in pair] == [1_300, 1_700]
    # A signature that comes all the same has nothing left to settle.
    cosign(recon, pair, found)
    assert recon.settle() == []
    assert Aggregation.objects.get().state == "EXPIRED"


def test_a_bond_that_no_longer_covers_all_falls_back(recon: Recon, pair: list[Payer]) -> None:
    agent = pair[0].agent
    found = proposal(recon, pair, 300, 700)
    cosign(recon, pair, found)
    # Another holder of the relayer's key takes all but 500 of the bond first.
    recon.settle_elsewhere(pair[0], pair[0].pay(BOND - 2_800), up_to=pair[0].served)
    recon.catch_up()
    assert recon.bond(agent) == 500
    stored = recon.settle()
    recon.rest()
    assert Aggregation.objects.get().state == "EXPIRED"
    assert Settlement.objects.filter(id__in=stored, kind="AGGREGATE").count() == 0
    assert recon.bond(agent) == 0


def test_a_shortfall_on_the_chain_fails_whole_and_is_settled_in_part(
    recon: Recon, pair: list[Payer], monkeypatch
) -> None:
    """The bond shrinks between planning and landing: 0x102, and the cumulative form pays what is there."""
    found = proposal(recon, pair, 300, 700)
    cosign(recon, pair, found)
    monkeypatch.setattr(aggregate_module, "send_all", lambda _chain, _outgoing: 0)
    recon.settle()
    monkeypatch.undo()
    recon.settle_elsewhere(pair[0], pair[0].pay(BOND - 2_500), up_to=pair[0].served)
    recon.follow()
    row = Settlement.objects.get(kind="AGGREGATE")
    assert row.state == "FAILED"
    assert "0x102" in row.error
    assert Aggregation.objects.get().state == "FAILED"
    recon.catch_up()
    recon.end_backoff()
    recon.settle()
    recon.rest()
    assert recon.bond(pair[0].agent) == 0
    assert SettlementItem.objects.filter(settlement__kind="SETTLE", settlement__state="FINALIZED").exists()


def test_a_worker_killed_anywhere_settles_it_once(recon: Recon, pair: list[Payer], monkeypatch) -> None:
    before = sum(recon.chain.vendor_balance(offer) for offer in (LEXICON, ATLAS))

    class Killed(BaseException):
        pass

    def die(*_args: object, **_named: object) -> None:
        raise Killed

    for name in ("store_aggregated", "send_all"):
        found = proposal(recon, pair, 300, 700)
        cosign(recon, pair, found)
        monkeypatch.setattr(aggregate_module, name, die)
        with pytest.raises(Killed):
            recon.settle()
        monkeypatch.undo()
        recon.settle()
        recon.rest()
        recon.settle()
        recon.rest()
    after = sum(recon.chain.vendor_balance(offer) for offer in (LEXICON, ATLAS))
    assert after - before == 2_000
    assert Settlement.objects.filter(kind="AGGREGATE").count() == 2
    assert recon.liability(pair[0].agent) == 0


def test_only_the_agent_signs_only_its_own(recon: Recon, pair: list[Payer]) -> None:
    found = proposal(recon, pair, 300, 700)
    network, agent = recon.chain.network, pair[0].agent
    aggregate, _ = found.parse(domain=network.domain, mint=network.mint, agent=agent.public)
    stranger = pair[0].gateway
    with pytest.raises(UnknownAggregation):
        sign(UUID(found.id), agent=stranger.pubkey, signature=aggregate.sign(agent), network=network)
    with pytest.raises(BadAggregationSignature):
        sign(UUID(found.id), agent=agent.pubkey, signature=aggregate.sign(stranger), network=network)
    assert Aggregation.objects.get().state == "PROPOSED"
    cosign(recon, pair, found)
    assert sign(UUID(found.id), agent=agent.pubkey, signature=bytes(64), network=network) == "SIGNED"


def test_agents_that_do_not_ask_are_not_waited_for(recon: Recon, settings) -> None:
    settings.AGGREGATION_CHANNELS_MIN = 1
    (payer,) = recon.payers(1, LEXICON)
    for _ in range(2):
        recon.deliver(payer.pay(10))
        assert len(recon.settle()) == 1
        recon.rest()
    assert not Aggregation.objects.exists()
