"""Workers killed with SIGKILL at every point, and a chain that fails in every way it can: in the end the ledger equals
the chain, every payment is settled once and in one batch, and nothing is left open."""

import random
import time
from collections.abc import Callable
from functools import partial
from uuid import UUID

import pytest

from apps.core.errors import DomainError
from apps.payments.models import Batch, BatchLeaf, Channel, PaymentIntent, Settlement, UnbatchedPayment
from apps.payments.services.aggregations import asked, sign
from apps.settlement.chain import ChainSession
from apps.settlement.services.anchor import commit_batch
from apps.settlement.services.follow import follow
from apps.settlement.services.reconcile import reconcile
from apps.settlement.services.settle import settle
from apps.settlement.services.sync import sync_chain
from apps.settlement.services.tables import extend_tables
from contracts.localnet.control import Control
from devnet.offers import ATLAS, LEXICON
from machpay.chain.errors import ChainError
from tests.settlement.conftest import BOND, Recon
from tests.settlement.killed import run_and_kill
from tests.support.chain import SLOT_MS, Payer

OFFERS = (LEXICON, ATLAS)
CYCLE: tuple[Callable[[ChainSession], object], ...] = (
    settle,
    follow,
    sync_chain,
    commit_batch,
    extend_tables,
)


class World:
    """Agents, their payments, and what the end must look like."""

    def __init__(self, recon: Recon, agents: int) -> None:
        self.recon = recon
        keys = recon.chain.new_agents(agents, bond_atomic=BOND)
        self.payers = [recon.chain.payer(agent, offer) for agent in keys for offer in OFFERS]
        recon.catch_up()
        self.before = self._vendor_balances()
        self.paid = 0

    def pay(self, payer: Payer, amount: int) -> None:
        self.recon.deliver(payer.pay(amount), payer.pay(amount, charged=0))
        self.paid += amount

    def cosign(self) -> None:
        """Agents sign whatever they are asked to, as the SDK does."""
        network = self.recon.chain.network
        for agent in {payer.agent.pubkey: payer.agent for payer in self.payers}.values():
            for proposal in asked(agent.pubkey):
                aggregate, vouchers = proposal.parse(
                    domain=network.domain, mint=network.mint, agent=agent.public
                )
                assert aggregate.covers(vouchers)
                signature = aggregate.sign(agent)
                sign(UUID(proposal.id), agent=agent.pubkey, signature=signature, network=network)

    def rest(self) -> None:
        """Let recon work undisturbed until nothing is left to do."""
        deadline = time.monotonic() + 120
        while not self._is_at_rest():
            assert time.monotonic() < deadline, self._open()
            Channel.objects.update(settle_after=None)
            self.cosign()
            for service in CYCLE:
                self.recon.run(service)
            time.sleep(SLOT_MS / 1000)

    def is_right(self) -> None:
        """Money, states and batches, to the unit."""
        assert self._vendor_balances() - self.before == self.paid
        for payer in self.payers:
            account = self.recon.chain.channel_account(payer)
            row = self.recon.channel(payer)
            assert account is not None
            assert (account.settled, account.owed) == (payer.served, 0)
            assert (row.settled_atomic, row.owed_atomic, row.in_flight_id) == (payer.served, 0, None)
            assert self.recon.liability(payer.agent) == 0
            bond = self.recon.chain.agent_account(payer.agent)
            assert bond is not None
            assert bond.bond == self.recon.bond(payer.agent)
        assert set(PaymentIntent.objects.values_list("status", flat=True)) <= {"SETTLED", "VOID"}
        assert not Settlement.objects.exclude(state__in=["FINALIZED", "FAILED"]).exists()
        assert not Settlement.objects.filter(state="FINALIZED", paid_atomic=None).exists()
        settled = sum(
            row.paid_atomic or 0 for row in Settlement.objects.filter(kind__in=["SETTLE", "AGGREGATE"])
        )
        assert settled == self.paid
        assert self.recon.run(reconcile).ok
        intents = {bytes(digest) for digest in PaymentIntent.objects.values_list("digest", flat=True)}
        leaves = [bytes(digest) for digest in BatchLeaf.objects.values_list("digest", flat=True)]
        assert sorted(leaves) == sorted(intents)
        batches = list(Batch.objects.order_by("sequence"))
        for batch in batches:
            self._stands(batch)
        assert [b.sequence - batches[0].sequence for b in batches] == list(range(len(batches)))

    def _stands(self, batch: Batch) -> None:
        account = self.recon.chain.call(lambda client: client.batch(batch.sequence, "finalized"))
        assert account is not None
        assert (account.root, account.head) == (bytes(batch.root), bytes(batch.head))

    def _is_at_rest(self) -> bool:
        return not any(self._open().values())

    def _open(self) -> dict[str, int]:
        return {
            "unsettled": Channel.objects.filter(unsettled_since__isnull=False).count(),
            "owed": Channel.objects.filter(owed_atomic__gt=0).count(),
            "open": Settlement.objects.exclude(state__in=["FINALIZED", "FAILED"]).count(),
            "unapplied": Settlement.objects.filter(state="FINALIZED", paid_atomic=None).count(),
            "waiting": UnbatchedPayment.objects.count(),
            "cut": Batch.objects.filter(state="CUT").count(),
        }

    def _vendor_balances(self) -> int:
        return sum(self.recon.chain.vendor_balance(offer) for offer in OFFERS)


@pytest.fixture
def world(recon: Recon, settings) -> World:
    settings.BATCH_INTERVAL_S = 0
    settings.AGGREGATION_CHANNELS_MIN = 2
    return World(recon, agents=2)


def test_a_worker_killed_at_every_point_of_its_work(world: World) -> None:
    killed = []
    for point in range(1, 400):
        world.pay(world.payers[point % len(world.payers)], 100 + point)
        name = run_and_kill(CYCLE, die_at=point)
        if name is None:
            break
        killed.append(name)
        if point % 4 == 0:
            world.cosign()
    else:
        raise AssertionError("a cycle has no end")
    # Storing, sending, looking up, mirroring and anchoring were all interrupted.
    assert len(killed) > 40, killed
    assert {"before commit", "after commit"} <= set(killed)
    # Sending is one point of a cycle, and only of one that has something due.
    for name in ("before call _send", "after call _send"):
        deadline = time.monotonic() + 120
        while run_and_kill(CYCLE, die_at=name) is None:
            assert time.monotonic() < deadline, name
            world.pay(world.payers[0], 100)
            Channel.objects.update(settle_after=None)
    world.rest()
    world.is_right()


def faults(control: Control, chance: random.Random) -> list[Callable[[], object]]:
    """What can go wrong next."""
    some = chance.randint(1, 3)
    return [
        partial(control.drop_sends, some),
        partial(control.delay_landing, chance.randint(1, 12), some),
        partial(control.lose_confirmation, chance.randint(2, 30), some),
        partial(control.expire_blockhashes),
        partial(control.hold_finality),
        partial(control.release_finality),
        partial(control.fail_calls, "sendTransaction", some),
        partial(control.fail_calls, "getSignatureStatuses", some),
        partial(control.fail_calls, "getLatestBlockhash", 1),
        partial(control.interrupt_calls, "sendTransaction", some),
        partial(control.interrupt_calls, "*", 1),
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_chain_that_fails_in_every_way(world: World, seed: int) -> None:
    chance = random.Random(seed)
    with world.recon.chain.control() as control:
        for _ in range(15):
            world.pay(chance.choice(world.payers), chance.randint(1, 1_000))
            chance.choice(faults(control, chance))()
            if chance.random() < 0.3:
                run_and_kill(CYCLE, die_at=chance.randint(1, 60))
            for service in chance.sample(CYCLE, k=3):
                try:
                    world.recon.run(service)
                except (ChainError, DomainError):
                    continue
            if chance.random() < 0.3:
                world.cosign()
    world.rest()
    world.is_right()
