"""What moved money unseen, and touches no agent that is looked at, is noticed by what the vault holds."""

from datetime import timedelta

import pytest

from apps.ledger import chart
from apps.ledger.selectors import balance
from apps.payments.models import ChainCursor, ChainTransaction
from apps.payments.services import chain_index
from apps.settlement.services.index import index_events
from apps.settlement.services.reconcile import reconcile
from devnet.offers import LEXICON
from machpay.chain import instructions as build
from machpay.chain import tokens
from machpay.protocol.aggregates import Aggregate, ChannelTotal
from tests.settlement.conftest import BOND, Recon
from tests.settlement.test_every_way_out import send
from tests.support.chain import Payer


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.payments.services.vault.BELIEVED_AFTER", timedelta(0))


def owing(recon: Recon, amount: int) -> Payer:
    """A channel that was settled by the agent's signature and is owed `amount`, which recon knows."""
    (payer,) = recon.payers(1, LEXICON)
    first = payer.pay(1_000)
    recon.deliver(first, payer.pay(amount))
    recon.settle_elsewhere(payer, first, up_to=1_000)
    recon.catch_up()
    network, relayer = recon.chain.network, recon.chain.keys.get("relayer")
    aggregate = Aggregate.of(
        network.domain, network.mint, payer.agent.public, [ChannelTotal(payer.channel, 1_000 + amount)]
    )
    steps = build.settle_aggregated(
        network, relayer=relayer.public, aggregate=aggregate, signature=aggregate.sign(payer.agent)
    )
    send(recon, *steps, signers=(relayer,))
    look(recon)
    assert recon.channel(payer).owed_atomic == amount
    return payer


def look(recon: Recon) -> None:
    recon.chain.wait_until_final()
    recon.sync()


def distribute_unseen(recon: Recon, payer: Payer) -> None:
    """Somebody distributes, and the index loses it."""
    network = recon.chain.network
    payout = tokens.associated_token_address(payer.vendor, network.mint)
    send(recon, build.distribute(network, vendor=payer.vendor, payout=payout, channels=[payer.channel]))
    recon.run(index_events)
    assert ChainTransaction.objects.filter(state="READ").update(state="APPLIED") == 1


def snapshot_slot() -> int:
    return chain_index.position().snapshot_slot


def test_a_distribution_whose_event_was_lost_is_found_by_the_next_looks(recon: Recon, at_once) -> None:
    payer = owing(recon, 2_000)
    owed = chart.owed(str(payer.vendor), payer.gateway.pubkey, recon.mint)
    settled, everything_read = recon.settled(payer), snapshot_slot()
    distribute_unseen(recon, payer)

    look(recon)
    assert (balance(owed), snapshot_slot()) == (2_000, everything_read)
    look(recon)
    look(recon)

    assert (balance(owed), recon.settled(payer)) == (0, settled + 2_000)
    assert snapshot_slot() > everything_read
    # And that was all: the next looks read nothing but what moved.
    everything_read = snapshot_slot()
    for _ in range(3):
        look(recon)
    assert snapshot_slot() == everything_read
    assert recon.run(reconcile).ok


def test_it_is_found_while_others_keep_moving(recon: Recon, at_once) -> None:
    payer = owing(recon, 2_000)
    distribute_unseen(recon, payer)
    agents = []
    for _ in range(4):
        agents.append(recon.chain.new_agent(bond_atomic=BOND))
        look(recon)

    assert recon.channel(payer).owed_atomic == 0
    assert [recon.bond(agent) for agent in agents] == [BOND] * 4


def test_a_difference_is_believed_only_when_it_stays(recon: Recon) -> None:
    payer = owing(recon, 2_000)
    everything_read = snapshot_slot()
    distribute_unseen(recon, payer)
    look(recon)
    look(recon)
    assert (recon.channel(payer).owed_atomic, snapshot_slot()) == (2_000, everything_read)
    cursor = ChainCursor.objects.get()
    assert cursor.surplus_atomic is not None
    assert cursor.surplus_seen_atomic == cursor.surplus_atomic - 2_000

    # The server lists it after all.
    ChainTransaction.objects.filter(slot__gt=everything_read).update(state="READ")
    look(recon)
    look(recon)
    assert (recon.channel(payer).owed_atomic, snapshot_slot()) == (0, everything_read)
    assert ChainCursor.objects.get().surplus_seen_since is None


def test_gifts_make_nobody_read_everything(recon: Recon, at_once) -> None:
    recon.catch_up()
    look(recon)
    before, everything_read = ChainCursor.objects.get().surplus_atomic, snapshot_slot()
    assert before is not None
    network, authority = recon.chain.network, recon.chain.keys.get("mint-authority")
    send(
        recon,
        tokens.mint_to(mint=network.mint, destination=network.vault(), authority=authority.public, amount=77),
        signers=(authority,),
    )
    for _ in range(3):
        look(recon)

    assert ChainCursor.objects.get().surplus_atomic == before + 77
    assert snapshot_slot() == everything_read
