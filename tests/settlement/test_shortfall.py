"""A bond smaller than what is due pays what is there; the rest stays due without a storm of transactions."""

from concurrent.futures import ThreadPoolExecutor

from django.db import connection

from apps.payments.models import Settlement
from apps.payments.selectors.bonds import payable_bonds
from apps.settlement.services import settle as settle_module
from apps.settlement.services.sync import sync_chain
from devnet.offers import ATLAS, LEXICON
from tests.settlement.conftest import Recon

SMALL_BOND = 1_000_000


def test_a_bond_pays_what_is_there_and_the_rest_stays_unsettled(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON, bond_atomic=SMALL_BOND)
    before = recon.chain.vendor_balance(LEXICON)
    recon.deliver(payer.pay(700_000), payer.pay(500_000))

    recon.settle()
    recon.rest()

    assert recon.chain.vendor_balance(LEXICON) - before == SMALL_BOND
    (row,) = Settlement.objects.all()
    assert (row.state, row.planned_atomic, row.paid_atomic) == ("FINALIZED", SMALL_BOND, SMALL_BOND)
    assert recon.statuses(payer) == ["SETTLED", "PENDING"]
    assert recon.liability(payer.agent) == 200_000
    assert recon.unsettled(payer) == 200_000
    assert recon.bond(payer.agent) == 0
    # Nothing is left to pay from, so nothing is sent.
    for _ in range(3):
        assert recon.settle() == []

    recon.chain.top_up(payer.agent, 5_000_000)
    recon.catch_up()
    recon.settle()
    recon.rest()

    assert recon.statuses(payer) == ["SETTLED", "SETTLED"]
    assert recon.chain.vendor_balance(LEXICON) - before == 1_200_000
    assert recon.liability(payer.agent) == 0
    assert recon.bond(payer.agent) == 4_800_000


def test_two_channels_never_share_one_bond_twice(recon: Recon) -> None:
    agent = recon.chain.new_agent(bond_atomic=SMALL_BOND)
    recon.catch_up()
    first, second = recon.chain.payer(agent, LEXICON), recon.chain.payer(agent, ATLAS)
    before = recon.chain.vendor_balance(LEXICON) + recon.chain.vendor_balance(ATLAS)
    recon.deliver(first.pay(SMALL_BOND))
    recon.deliver(second.pay(SMALL_BOND))

    assert len(recon.settle()) == 2
    # The bond is still there on the finalised chain, but it is promised to the transactions under way.
    assert recon.settle() == []
    recon.rest()

    after = recon.chain.vendor_balance(LEXICON) + recon.chain.vendor_balance(ATLAS)
    assert after - before == SMALL_BOND
    assert recon.settle() == []
    assert recon.liability(agent) == SMALL_BOND
    assert recon.bond(agent) == 0
    assert [recon.channel(payer).settled_atomic for payer in (first, second)] == [SMALL_BOND // 2] * 2
    assert [recon.statuses(payer) for payer in (first, second)] == [["PENDING"], ["PENDING"]]


def test_a_settlement_that_is_mirrored_while_bonds_are_read_frees_nothing(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON, bond_atomic=SMALL_BOND)
    recon.deliver(payer.pay(700_000))
    recon.settle()

    def mirror() -> None:
        try:
            recon.rest()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as worker:

        def then_mirror(execute, sql, params, many, context):
            result = execute(sql, params, many, context)
            worker.submit(mirror).result()
            return result

        with connection.execute_wrapper(then_mirror):
            found = payable_bonds([payer.agent.pubkey])

    assert found == {payer.agent.pubkey: SMALL_BOND - 700_000}
    assert recon.bond(payer.agent) == SMALL_BOND - 700_000


def test_a_transaction_that_paid_nothing_makes_its_channel_wait(recon: Recon, monkeypatch) -> None:
    """Somebody else takes the whole bond while recon still sees the finalised state before that."""
    (payer,) = recon.payers(1, LEXICON, bond_atomic=SMALL_BOND)
    other = recon.chain.payer(payer.agent, ATLAS)
    recon.deliver(payer.pay(500_000))
    behind = recon.run(sync_chain)
    recon.settle_elsewhere(other, other.pay(SMALL_BOND), up_to=SMALL_BOND)
    monkeypatch.setattr(settle_module, "sync_chain", lambda _chain: behind)
    assert len(recon.settle()) == 1
    monkeypatch.undo()
    recon.rest()

    (row,) = Settlement.objects.all()
    assert (row.state, row.planned_atomic, row.paid_atomic) == ("FINALIZED", 500_000, 0)
    assert recon.liability(payer.agent) == 500_000
    channel = recon.channel(payer)
    assert (channel.in_flight_id, channel.settle_failures) == (None, 1)
    assert channel.settle_after is not None
    recon.chain.top_up(payer.agent, SMALL_BOND)
    recon.catch_up()
    assert recon.settle() == []

    recon.end_backoff()
    recon.settle()
    recon.rest()
    channel = recon.channel(payer)
    assert (channel.settled_atomic, channel.settle_failures, channel.settle_after) == (500_000, 0, None)
    assert recon.liability(payer.agent) == 0
