"""Whatever anybody does on the chain, in whatever order: the ledger ends where the chain is, every payment ends once,
and replaying all of it changes nothing.

A failing run names its seed; put it into SEEDS and it stays.
"""

import random
from collections import Counter

import pytest

from apps.ledger.models import Transfer
from apps.ledger.selectors import trial_balance
from apps.payments.models import AgentMirror, Channel, Equivocation, PaymentIntent, Reversal
from apps.settlement.services.fraud import look_for_fraud
from apps.settlement.services.reconcile import reconcile
from apps.settlement.services.replay import replay
from apps.settlement.services.solvency import watch_solvency
from devnet.offers import ATLAS, LEXICON
from machpay.chain import instructions as build
from machpay.chain import tokens
from machpay.chain.errors import ChainError
from machpay.protocol.nonces import new_nonce
from machpay.protocol.settlements import ResolvedPayment
from tests.settlement.conftest import Recon
from tests.settlement.test_every_way_out import CLAIM_DELAY, TIMELOCK, pass_time, send, sweep, withdraw
from tests.support.chain import Payer

SEEDS = (7, 9)
STEPS = 34
BOND = 1_000_000


class World:
    """Two agents at two gateways, and everybody who may do something to them."""

    def __init__(self, recon: Recon, seed: int) -> None:
        self.recon, self.random = recon, random.Random(seed)
        self.agents = recon.chain.new_agents(2, bond_atomic=BOND)
        recon.catch_up()
        self.payers = [recon.chain.payer(agent, offer) for agent in self.agents for offer in (LEXICON, ATLAS)]
        self.last: dict[int, ResolvedPayment] = {}
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        moves = (
            *(self.charge,) * 4,
            self.deposit,
            self.settle,
            self.settle_elsewhere,
            self.claim,
            self.execute,
            self.leave,
            self.sign_twice,
            self.sweep,
            self.look,
        )
        move = self.random.choice(moves)
        self.done[move.__name__] += 1
        try:
            move()
        except ChainError as error:
            # The program refused: nothing moved, which is an answer too.
            self.done[f"{move.__name__} refused: {error}"[:60]] += 1

    def pick(self) -> tuple[int, Payer]:
        number = self.random.randrange(len(self.payers))
        return number, self.payers[number]

    # ---- off the chain

    def charge(self) -> None:
        number, payer = self.pick()
        amount = self.random.randrange(1, BOND // 2)
        payment = payer.pay(amount, charged=self.random.choice((amount, amount // 2, 0)))
        self.last[number] = payment
        if self.random.random() < 0.8:
            self.recon.deliver(payment)

    def sign_twice(self) -> None:
        agent = self.random.randrange(2)
        nonce = new_nonce()
        for number in (2 * agent, 2 * agent + 1):
            self.last[number] = self.payers[number].pay(1_000, nonce=nonce)
            self.recon.deliver(self.last[number])

    def settle(self) -> None:
        self.recon.settle()

    def look(self) -> None:
        self.recon.chain.wait_until_final()
        self.recon.sync()
        self.recon.follow()
        watch_solvency()
        self.recon.run(look_for_fraud)

    # ---- on it

    def deposit(self) -> None:
        self.recon.chain.top_up(self.random.choice(self.agents), self.random.randrange(1, BOND))

    def settle_elsewhere(self) -> None:
        number, payer = self.pick()
        if number in self.last:
            self.recon.settle_elsewhere(payer, self.last[number], up_to=payer.served)

    def claim(self) -> None:
        number, payer = self.pick()
        if number in self.last:
            steps = build.claim_cumulative(
                self.recon.chain.network,
                claimant=payer.gateway.public,
                vendor=payer.vendor,
                agent=payer.agent.public,
                gateway=payer.gateway.public,
                voucher=self.last[number].voucher,
                payer=self.recon.chain.keys.get("admin").public,
            )
            send(self.recon, *steps, signers=(payer.gateway,))

    def execute(self) -> None:
        _, payer = self.pick()
        pass_time(self.recon, CLAIM_DELAY)
        send(
            self.recon,
            build.execute_claim(
                self.recon.chain.network,
                vendor=payer.vendor,
                payout=tokens.associated_token_address(payer.vendor, self.recon.chain.network.mint),
                agent=payer.agent.public,
                gateway=payer.gateway.public,
            ),
        )

    def leave(self) -> None:
        withdraw(self.recon, self.random.choice(self.agents), self.random.randrange(1, BOND))

    def sweep(self) -> None:
        pass_time(self.recon, 2 * TIMELOCK)
        sweep(self.recon, self.random.choice(self.agents), self.recon.chain.keys.get("relayer"))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ledger_ends_where_the_chain_is(recon: Recon, settings, seed: int) -> None:
    settings.REVERSAL_GRACE_S = 0.0
    settings.SETTLE_CREATE_MINIMUM_ATOMIC = 1
    world = World(recon, seed)
    for _ in range(STEPS):
        world.step()
    print(f"seed {seed}: {dict(world.done)}")

    # At rest: everything that can be paid is, and the rest is taken back.
    for _ in range(4):
        recon.catch_up()
        recon.end_backoff()
        Equivocation.objects.update(retry_after=None)
        recon.settle()
        recon.rest()
        recon.run(look_for_fraud)
        watch_solvency()
    found = recon.run(reconcile)
    assert found.ok, found
    assert [book.total_atomic for book in trial_balance()] == [0]
    agents = [agent.pubkey for agent in world.agents]
    ends = PaymentIntent.objects.filter(agent__in=agents)
    assert not ends.filter(status__in=["PENDING", "PROCESSING"]).exists(), list(ends.values("status"))
    for channel in Channel.objects.filter(agent__in=agents):
        assert channel.credited_atomic == channel.settled_atomic + channel.uncollected_atomic
        reversals = Reversal.objects.filter(channel=channel)
        open_ = sum(row.amount_atomic - row.collected_atomic for row in reversals)
        assert open_ == channel.uncollected_atomic
        paid = ends.filter(channel=channel.address, status__in=["SETTLED", "SLASHED"])
        assert not paid.filter(charged_through_atomic__gt=channel.settled_atomic).exists()
        taken_back = ends.filter(channel=channel.address, status="REVERSED")
        assert not taken_back.filter(charged_through_atomic__lte=channel.settled_atomic).exists()
    slashed = AgentMirror.objects.filter(agent__in=agents, window_end__gt=0)
    assert not slashed.exclude(status="SLASHED").exists()
    assert not Equivocation.objects.filter(agent__in=slashed).exclude(status="SLASHED").exists()

    transfers = Transfer.objects.count()
    again = recon.run(lambda chain: replay(chain, from_slot=0))
    assert (again.events, again.missing, again.differing, again.moved) == (0, [], [], False)
    assert Transfer.objects.count() == transfers
