"""Many connections at once: every payment is stored and credited once, and no equivocation slips through."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from django.db import connection

from apps.payments.models import Channel, Equivocation, PaymentIntent
from apps.payments.services import network
from apps.payments.services.chain_mirror import apply_chain_snapshot
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import deliver, registered, spent, unsettled
from tests.payments.factories import NETWORK, Payer, agent_account, chain_state, channel_account

CONNECTIONS = 8
T = TypeVar("T")
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def bound_network(transactional_db):
    network.bind(NETWORK)


def together(*work: Callable[[], T]) -> list[T]:
    """Run every function on a connection of its own, all from the same moment on."""
    barrier = threading.Barrier(len(work))

    def run(function: Callable[[], T]) -> T:
        try:
            barrier.wait()
            return function()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


def test_eight_connections_delivering_the_same_batches_store_each_payment_once():
    gateway = registered()
    payers = [Payer(SigningKey.generate(), gateway) for _ in range(5)]
    batches = [[payer.pay(10, charged=(7, 0, 10)[n % 3]) for payer in payers] for n in range(9)]

    def work(number: int) -> Callable[[], int]:
        order = random.Random(number).sample(batches, len(batches))
        return lambda: sum(result.status == "accepted" for batch in order for result in deliver(*batch))

    accepted = together(*(work(number) for number in range(CONNECTIONS)))

    assert sum(accepted) == 45
    assert PaymentIntent.objects.count() == 45
    assert unsettled(gateway) == 5 * 3 * 17
    for payer in payers:
        channel = Channel.objects.get(address=str(payer.channel))
        assert (channel.charged_total_atomic, channel.charged_count, channel.void_count) == (51, 6, 3)
        assert channel.highest_cumulative_atomic == payer.cumulative
        through = PaymentIntent.objects.filter(channel=channel.address, charged_atomic__gt=0)
        assert len(set(through.values_list("charged_through_atomic", flat=True))) == 6


def test_gateways_that_share_agents_in_any_order_do_not_deadlock():
    gateways = [registered() for _ in range(CONNECTIONS)]
    agents = [SigningKey.generate() for _ in range(12)]

    def work(number: int) -> Callable[[], None]:
        payers = [Payer(agent, gateways[number]) for agent in agents]
        random.Random(number).shuffle(payers)

        def run() -> None:
            for _ in range(5):
                deliver(*(payer.pay(3) for payer in payers))

        return run

    together(*(work(number) for number in range(CONNECTIONS)))

    assert [unsettled(gateway) for gateway in gateways] == [12 * 5 * 3] * CONNECTIONS
    assert [spent(agent) for agent in agents] == [-CONNECTIONS * 5 * 3] * 12


def test_one_nonce_delivered_by_all_gateways_at_once_is_found_for_every_pair():
    agent = SigningKey.generate()
    gateways = [registered() for _ in range(CONNECTIONS)]
    first = Payer(agent, gateways[0]).pay(10)
    payments = [first, *(Payer(agent, other).pay(10, nonce=first.intent.nonce) for other in gateways[1:])]

    results = together(*((lambda payment=payment: deliver(payment)[0].status) for payment in payments))

    assert results == ["accepted"] * CONNECTIONS
    assert PaymentIntent.objects.count() == CONNECTIONS
    assert Equivocation.objects.count() == CONNECTIONS * (CONNECTIONS - 1) // 2
    assert spent(agent) == -10 * CONNECTIONS


def test_following_the_chain_while_payments_arrive_loses_neither():
    gateway = registered()
    payers = [Payer(SigningKey.generate(), gateway) for _ in range(6)]
    rounds = 10

    def pay() -> None:
        for _ in range(rounds):
            deliver(*(payer.pay(10) for payer in payers))

    def follow() -> None:
        for slot in range(1, rounds + 1):
            apply_chain_snapshot(
                chain_state(
                    slot,
                    [agent_account(payer.agent.public, deposited=1000, paid=4 * slot) for payer in payers],
                    [channel_account(payer.agent.public, gateway, settled=4 * slot) for payer in payers],
                    [gateway],
                )
            )

    together(pay, follow, follow)

    assert PaymentIntent.objects.count() == 60
    for payer in payers:
        channel = Channel.objects.get(address=str(payer.channel))
        assert (channel.charged_total_atomic, channel.settled_atomic) == (100, 40)
        rows = PaymentIntent.objects.filter(channel=channel.address)
        assert rows.filter(status="SETTLED", charged_through_atomic__lte=40).count() == 4
        assert rows.filter(status="PENDING", charged_through_atomic__gt=40).count() == 6
    assert unsettled(gateway) == 6 * 60
