"""Settling end to end: what agents were charged reaches the vendors, exactly."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from django.db import connection
from django.utils import timezone
from solders.compute_budget import set_compute_unit_price
from solders.transaction import VersionedTransaction

from apps.payments.models import Channel, Settlement, SettlementItem, VendorMirror
from apps.settlement.tasks import settle_channels
from devnet.offers import ATLAS, LEXICON
from machpay.protocol.encoding import U64_MAX
from tests.settlement.conftest import BOND, Recon


def test_two_agents_and_two_vendors_are_settled_exactly(recon: Recon) -> None:
    chain = recon.chain
    agents = [chain.new_agent(bond_atomic=BOND) for _ in range(2)]
    payers = {
        (agent.pubkey, offer.vendor): chain.payer(agent, offer)
        for agent in agents
        for offer in (LEXICON, ATLAS)
    }
    before = {offer.vendor: chain.vendor_balance(offer) for offer in (LEXICON, ATLAS)}
    recon.catch_up()
    settled = {offer.vendor: recon.settled(chain.payer(agents[0], offer)) for offer in (LEXICON, ATLAS)}
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
        assert recon.unsettled(payer) == 0
        assert recon.settled(payer) - settled[offer.vendor] == charged
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


def test_later_charges_are_paid_on_top_of_what_is_settled(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    before = recon.chain.vendor_balance(LEXICON)
    recon.deliver(payer.pay(1_000))
    recon.settle()
    recon.rest()
    recon.deliver(payer.pay(250), payer.pay(300))
    assert recon.statuses(payer) == ["SETTLED", "PENDING", "PENDING"]

    recon.settle()
    recon.rest()

    assert recon.statuses(payer) == ["SETTLED", "SETTLED", "SETTLED"]
    assert recon.chain.vendor_balance(LEXICON) - before == 1_550
    assert list(SettlementItem.objects.order_by("id").values_list("paid_atomic", flat=True)) == [1_000, 550]


def test_charges_beyond_64_bits_are_paid_as_far_as_they_are_authorised_and_hold_up_nobody(
    recon: Recon,
) -> None:
    absurd, honest = recon.payers(1, LEXICON)[0], recon.payers(1, ATLAS)[0]
    before = [recon.chain.vendor_balance(offer) for offer in (LEXICON, ATLAS)]
    for _ in range(2):
        # Each signs a ceiling of all 64 bits, and a total of 1,000.
        absurd.cumulative, absurd.served = 1_000 - U64_MAX, 0
        recon.deliver(absurd.pay(U64_MAX))
    recon.deliver(honest.pay(700))

    recon.settle()
    recon.rest()

    after = [recon.chain.vendor_balance(offer) for offer in (LEXICON, ATLAS)]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1_000, 700]
    assert (recon.channel(absurd).settled_atomic, recon.channel(honest).settled_atomic) == (1_000, 700)


def test_a_voucher_above_the_charges_pays_the_charges_only(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(5_000, charged=1_200), payer.pay(9_000, charged=0))

    recon.settle()
    recon.rest()

    channel = recon.channel(payer)
    assert (channel.highest_cumulative_atomic, channel.charged_total_atomic) == (14_000, 1_200)
    assert channel.settled_atomic == 1_200
    assert recon.statuses(payer) == ["SETTLED", "VOID"]


def test_channels_of_one_vendor_share_transactions_two_by_two(recon: Recon) -> None:
    for payer in recon.payers(3, ATLAS):
        recon.deliver(payer.pay(400))

    recon.settle()
    recon.rest()

    rows = Settlement.objects.order_by("id").values_list("channel_count", "paid_atomic")
    assert list(rows) == [(2, 800), (1, 400)]


def test_one_bond_pays_two_vendors(recon: Recon) -> None:
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()
    recon.deliver(recon.chain.payer(agent, LEXICON).pay(10))
    recon.deliver(recon.chain.payer(agent, ATLAS).pay(20))

    recon.settle()
    recon.rest()

    assert sorted(Settlement.objects.values_list("channel_count", "paid_atomic")) == [(1, 10), (1, 20)]
    account = recon.chain.agent_account(agent)
    assert account is not None
    assert account.bond == BOND - 30 == recon.bond(agent)


def test_small_amounts_wait_until_they_are_old(recon: Recon, settings) -> None:
    settings.SETTLE_MINIMUM_ATOMIC = 1_000
    small, enough = recon.payers(2, LEXICON)
    recon.deliver(small.pay(999))
    recon.deliver(enough.pay(1_000))

    recon.settle()
    recon.rest()
    assert (recon.statuses(small), recon.statuses(enough)) == (["PENDING"], ["SETTLED"])
    assert recon.settle() == []

    waited = timezone.now() - timedelta(seconds=settings.SETTLE_MAX_AGE_S)
    Channel.objects.filter(address=str(small.channel)).update(unsettled_since=waited)
    recon.settle()
    recon.rest()
    assert recon.statuses(small) == ["SETTLED"]


def test_a_second_run_finds_nothing_to_do(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))

    assert len(recon.settle()) == 1
    assert recon.settle() == []
    recon.rest()
    assert recon.settle() == []
    assert recon.channel(payer).settled_atomic == 1_000


def test_a_vendor_newer_than_the_snapshot_waits_and_holds_nobody_up(recon: Recon) -> None:
    (new,) = recon.payers(1, LEXICON)
    (known,) = recon.payers(1, ATLAS)
    for payer in (new, known):
        recon.deliver(payer.pay(1_000))
    (mirrored,) = VendorMirror.objects.filter(authority=str(new.vendor)).values()
    VendorMirror.objects.filter(authority=str(new.vendor)).delete()

    recon.settle()
    VendorMirror.objects.create(**mirrored)
    recon.rest()
    assert (recon.statuses(new), recon.statuses(known)) == (["PENDING"], ["SETTLED"])

    recon.settle()
    recon.rest()
    assert recon.statuses(new) == ["SETTLED"]


def test_workers_at_once_claim_every_channel_once(recon: Recon) -> None:
    payers = [*recon.payers(5, LEXICON), *recon.payers(5, ATLAS)]
    before = recon.chain.vendor_balance(LEXICON) + recon.chain.vendor_balance(ATLAS)
    for number, payer in enumerate(payers):
        recon.deliver(payer.pay(1_000 + number))
    start = Barrier(3)

    def work() -> None:
        start.wait()
        try:
            settle_channels()
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work) for _ in range(3)]:
            future.result()
    recon.rest()

    items = SettlementItem.objects.values_list("channel", "paid_atomic")
    assert sorted(items) == sorted((str(payer.channel), payer.served) for payer in payers)
    assert set(recon.states()) == {"FINALIZED"}
    after = recon.chain.vendor_balance(LEXICON) + recon.chain.vendor_balance(ATLAS)
    assert after - before == sum(payer.served for payer in payers)


@pytest.mark.parametrize(("most", "offered"), [(100_000, 1_000), (500, 500), (0, 0)])
def test_a_priority_fee_is_offered_up_to_the_setting(recon: Recon, settings, most: int, offered: int) -> None:
    settings.PRIORITY_PRICE_MAX = most
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))

    recon.settle()

    raw = bytes(Settlement.objects.get().raw_transaction)
    instructions = VersionedTransaction.from_bytes(raw).message.instructions
    assert bytes(set_compute_unit_price(offered).data) in [bytes(each.data) for each in instructions]
    recon.rest()
