"""The ledger follows the finalised chain, whoever's transactions moved it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.db import connection
from redis.client import PubSub

from apps.core.live import channel as live_channel
from apps.core.redis import sync_redis
from apps.ledger import chart
from apps.ledger.selectors import statement
from apps.payments.models import ChainEvent, Settlement, SettlementItem
from apps.payments.services.chain_mirror import Applied
from devnet.offers import ATLAS, LEXICON
from tests.settlement.conftest import BOND, Recon
from tests.settlement.test_every_way_out import slash, withdraw
from tests.support.chain import Payer
from tests.support.live import heard


def at_once(recon: Recon, workers: int) -> list[Applied]:
    """`workers` that mirror the chain at the same moment."""
    start = Barrier(workers)

    def work() -> Applied:
        start.wait()
        try:
            return recon.sync()
        finally:
            connection.close()

    with ThreadPoolExecutor(workers) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(workers)]]


class Listener:
    """What is published on some topics."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub

    def watch(self, *topics: str) -> None:
        self._pubsub.subscribe(*map(live_channel, topics))
        for _ in topics:
            assert self._pubsub.get_message(timeout=30) is not None

    def heard(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(topic, event, data) of everything since, in order."""
        return [
            (channel.removeprefix("live:"), told["event"], told["data"])
            for channel, told in heard(self._pubsub)
        ]


@pytest.fixture
def listener() -> Iterator[Listener]:
    with sync_redis().pubsub() as pubsub:
        yield Listener(pubsub)


def test_deposits_reach_the_ledger_once_final_and_once_only(recon: Recon) -> None:
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()
    recon.sync()
    recon.chain.top_up(agent, 123_456)
    recon.catch_up()
    recon.sync()

    lines = statement(chart.bond(agent.pubkey, recon.mint))
    assert [(line.kind, line.amount_atomic) for line in lines] == [("deposit", BOND), ("deposit", 123_456)]
    account = recon.chain.agent_account(agent)
    assert account is not None
    assert account.bond == recon.bond(agent) == BOND + 123_456


def test_money_follows_the_finalised_slot_and_no_later_one(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))
    recon.settle()
    signature = Settlement.objects.get().signature
    recon.chain.call(lambda client: client.confirm(signature, "confirmed"))

    applied = recon.sync()

    (status,) = recon.chain.call(lambda client: client.status([signature]))
    assert status is not None
    paid = 1_000 if applied.slot >= status.slot else 0
    assert (recon.liability(payer.agent), recon.bond(payer.agent)) == (1_000 - paid, BOND - paid)
    recon.rest()
    assert (recon.liability(payer.agent), recon.bond(payer.agent)) == (0, BOND - 1_000)


def test_a_settlement_by_somebody_else_is_followed(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    before = recon.chain.vendor_balance(LEXICON)
    first, second = payer.pay(600), payer.pay(400)
    recon.deliver(first, second)

    recon.settle_elsewhere(payer, first, up_to=600)
    recon.catch_up()

    assert recon.states() == []
    assert recon.statuses(payer) == ["SETTLED", "PENDING"]
    assert recon.liability(payer.agent) == 400
    assert recon.bond(payer.agent) == BOND - 600
    # What is left is settled by recon, on top of the other's.
    recon.settle()
    recon.rest()
    assert Settlement.objects.get().paid_atomic == 400
    assert recon.statuses(payer) == ["SETTLED", "SETTLED"]
    assert recon.chain.vendor_balance(LEXICON) - before == 1_000


def test_two_settlements_of_one_channel_pay_its_charges_once(recon: Recon) -> None:
    """Ours is planned before somebody else's lands; both land."""
    (payer,) = recon.payers(1, LEXICON)
    before = recon.chain.vendor_balance(LEXICON)
    payment = payer.pay(1_000)
    recon.deliver(payment)

    recon.settle()
    recon.settle_elsewhere(payer, payment, up_to=1_000)
    recon.rest()
    recon.catch_up()

    assert recon.states() == ["FINALIZED"]
    assert recon.chain.vendor_balance(LEXICON) - before == 1_000
    assert recon.channel(payer).settled_atomic == 1_000
    assert recon.liability(payer.agent) == 0
    assert recon.bond(payer.agent) == BOND - 1_000


def test_workers_that_mirror_at_once_post_every_rise_once(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))
    recon.settle()
    recon.chain.top_up(payer.agent, 77)
    recon.chain.wait_until_final()

    results = at_once(recon, 4)

    rises = [seen for applied in results for seen in applied.settled]
    assert [(seen.channel, seen.amount_atomic) for seen in rises] == [(str(payer.channel), 1_000)]
    deposits = [seen for applied in results for seen in applied.deposits]
    assert [(seen.agent, seen.amount_atomic) for seen in deposits] == [(payer.agent.pubkey, 77)]
    assert recon.bond(payer.agent) == BOND + 77 - 1_000
    assert recon.liability(payer.agent) == 0


def test_a_finalised_rise_is_told_once_in_full_to_its_parties_and_without_names_to_all(
    recon: Recon, listener: Listener
) -> None:
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()
    one, two = recon.chain.payer(agent, LEXICON), recon.chain.payer(agent, ATLAS)
    recon.deliver(one.pay(1_000))
    recon.deliver(two.pay(400))
    recon.settle()
    recon.chain.wait_until_final()
    topics = [f"vendor:{one.gateway.pubkey}", f"vendor:{two.gateway.pubkey}", f"agent:{agent.pubkey}"]
    listener.watch(*topics, "ticker")

    applied = recon.sync()
    recon.sync()
    heard = listener.heard()

    def full(payer: Payer) -> dict[str, Any]:
        return {
            "slot": applied.slot,
            "channel": str(payer.channel),
            "agent": agent.pubkey,
            "gateway": payer.gateway.pubkey,
            "vendor": str(payer.vendor),
            "amount_atomic": str(payer.served),
            "settled_atomic": str(payer.served),
            "transaction": SettlementItem.objects.get(channel=str(payer.channel)).settlement.signature,
        }

    times = {data.pop("time") for _topic, _event, data in heard}
    assert len(times) == 1
    assert {event for _topic, event, _data in heard} == {"settlement"}
    told = [(topic, data) for topic, _event, data in heard]
    assert sorted(told, key=str) == sorted(
        [
            (topics[0], full(one)),
            (topics[1], full(two)),
            (topics[2], full(one)),
            (topics[2], full(two)),
            ("ticker", {"slot": applied.slot, "channels": 2, "amount_atomic": "1400"}),
        ],
        key=str,
    )


def test_a_deposit_is_told_to_its_agent(recon: Recon, listener: Listener) -> None:
    (payer,) = recon.payers(1, LEXICON)
    listener.watch(f"agent:{payer.agent.pubkey}")
    recon.chain.top_up(payer.agent, 5_000)

    recon.catch_up()

    ((_topic, event, data),) = listener.heard()
    assert (event, data["agent"], data["amount_atomic"]) == ("deposit", payer.agent.pubkey, "5000")
    assert ChainEvent.objects.get(transaction=data["transaction"], kind="Deposited").data["amount"] == "5000"


def test_ways_out_of_a_bond_are_told_to_its_agent_with_their_transactions(
    recon: Recon, listener: Listener
) -> None:
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()
    listener.watch(f"agent:{agent.pubkey}")
    withdraw(recon, agent, 1_000_000)
    recon.sync()
    slash(recon, recon.chain.payer(agent, LEXICON), recon.chain.payer(agent, ATLAS))
    recon.sync()

    heard = [(event, data) for _topic, event, data in listener.heard()]

    assert [(event, data["amount_atomic"]) for event, data in heard] == [
        ("withdrawal", "1000000"),
        ("slash", str(BOND - 1_000_000)),
    ]
    kinds = [ChainEvent.objects.get(transaction=data["transaction"]).kind for _event, data in heard]
    assert kinds == ["Withdrawn", "AgentSlashed"]
