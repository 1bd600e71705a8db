"""Thousands of random transactions by honest and hostile people. After each one every rule of `market` is checked."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair

from machpay.chain import instructions as build
from machpay.chain.instructions import ConfigChange
from tests.program import moves, world
from tests.program.market import Buyer, Market, Shop
from tests.program.world import USDC

STEPS = 2_000
DAY = 86_400
DEFAULT_SEEDS = (1, 2, 3, 4, 5)
SEEDS = (int(os.environ["MACHPAY_SEED"]),) if "MACHPAY_SEED" in os.environ else DEFAULT_SEEDS
HISTORY = 60
# What the runs together must have seen succeed; a move that never works tests nothing.
MOVES = {
    "deposit_bond",
    "settle_cumulative",
    "settle_aggregated",
    "distribute",
    "claim_cumulative",
    "execute_claim",
    "request_withdrawal",
    "cancel_withdrawal",
    "withdraw_bond",
    "slash_equivocation",
    "sweep_forfeited",
    "set_config",
    "update_vendor",
    "revoke_gateway",
    "commit_batch",
    "replay",
}
REFUSALS = {
    "NotRelayer",
    "ClaimLocked",
    "WithdrawalLocked",
    "WithdrawalPending",
    "AgentSlashed",
    "NonceReplay",
    "NotClaimant",
    "NotOwner",
    "NotAgentOrOwner",
    "InvalidSignature",
    "SlashingWindowOpen",
    "InsufficientBond",
    "runtime",
}


class _Keys:
    """Keys from the seed: addresses decide the order of channels, so a run repeats only with the same keys."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def __call__(self) -> Keypair:
        return Keypair.from_seed(self.rng.randbytes(32))


class Play:
    """The moves. The first buyer and the first shop are one hostile person; the second buyer signs twice."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.rng = market.rng
        self.moves: dict[Callable[[], Any], int] = {
            self.pay: 30,
            self.settle: 25,
            self.settle_without_the_relayer: 2,
            self.aggregate: 8,
            self.distribute: 6,
            self.claim: 12,
            self.claim_for_somebody_else: 2,
            self.execute: 14,
            self.deposit: 5,
            self.request: 8,
            self.cancel: 3,
            self.withdraw: 8,
            self.withdraw_of_somebody_else: 2,
            self.slash: 1,
            self.slash_an_innocent: 2,
            self.sweep: 4,
            self.wait: 20,
            self.configure: 2,
            self.move_payout: 1,
            self.freeze_or_thaw: 4,
            self.revoke: 1,
            self.commit: 2,
            self.donate: 1,
            self.replay: 8,
            self.tamper: 12,
        }

    def step(self) -> str:
        (move,) = self.rng.choices(list(self.moves), list(self.moves.values()))
        move()
        return move.__name__

    def send(self, name: str, ixs: list[Instruction], *signers: Keypair) -> None:
        market = self.market
        market.send(name, ixs, *signers)
        market.history = [*market.history[1 - HISTORY :], (ixs, signers)]

    # ---- choosing

    def route(self) -> tuple[Buyer, Shop, Keypair]:
        buyer, shop = self.market.buyer(), self.market.shop()
        return buyer, shop, self.rng.choice(shop.gateways)

    def signed(self, buyer: Buyer, gateway: Keypair) -> int:
        """One of the last totals the agent signed on the channel, mostly the highest."""
        totals = buyer.signed.get(self.market.channel(buyer, gateway), [0])
        return totals[-1] if self.rng.random() < 0.7 else self.rng.choice(totals[-4:])

    # ---- paying

    def pay(self) -> None:
        buyer, _, gateway = self.route()
        hostile = buyer is self.market.buyers[0] and self.rng.random() < 0.2
        self.market.sign(buyer, gateway, self.rng.randrange(1, (30 if hostile else 1) * USDC))

    def settle(self) -> None:
        world, shop = self.market.world, self.market.shop()
        routes = {
            (self.rng.randrange(len(self.market.buyers)), self.rng.choice(range(len(shop.gateways))))
            for _ in range(self.rng.randrange(1, 5))
        }
        items = []
        for number, place in sorted(routes):
            buyer, gateway = self.market.buyers[number], shop.gateways[place]
            cumulative = self.signed(buyer, gateway)
            limit = self.rng.choice([cumulative, cumulative, cumulative // 2, 2**64 - 1])
            items.append(world.item(buyer.key, gateway, cumulative, up_to=limit))
        self.send("settle_cumulative", world.settle_ixs(shop.route(shop.gateways[0]), *items), world.relayer)

    def settle_without_the_relayer(self) -> None:
        market, world = self.market, self.market.world
        buyer, shop, hostile = market.buyers[0], market.shops[0], market.stranger
        item = world.item(buyer.key, shop.gateways[0], self.signed(buyer, shop.gateways[0]))
        ixs = build.settle_cumulative(
            world.network,
            relayer=hostile.pubkey(),
            vendor=shop.authority.pubkey(),
            payout=shop.payouts[-1],
            channels=[item],
        )
        self.send("settle_without_the_relayer", ixs, hostile)

    def aggregate(self) -> None:
        market, buyer = self.market, self.market.buyer()
        totals = [
            (shop.route(gateway), self.signed(buyer, gateway))
            for shop in market.shops
            for gateway in shop.gateways
            if market.channel(buyer, gateway) in market.state.channels and self.rng.random() < 0.5
        ]
        if totals:
            signer = buyer.key if self.rng.random() < 0.9 else market.stranger
            signed = moves.aggregate(market.world, buyer.key, totals)
            ixs = build.settle_aggregated(
                market.world.network,
                relayer=market.world.relayer.pubkey(),
                aggregate=signed,
                signature=bytes(signer.sign_message(signed.message)),
            )
            self.send("settle_aggregated", ixs, market.world.relayer)

    def distribute(self) -> None:
        market, shop = self.market, self.market.shop()
        mine = [
            address
            for address, channel in sorted(market.state.channels.items(), key=lambda item: bytes(item[0]))
            if channel.vendor == shop.authority.pubkey()
        ]
        if mine:
            chosen = self.rng.choices(mine, k=self.rng.randrange(1, 6))
            ix = build.distribute(
                market.world.network,
                vendor=shop.authority.pubkey(),
                payout=shop.payouts[-1],
                channels=chosen,
            )
            self.send("distribute", [ix], market.stranger)

    # ---- claiming

    def claim(self, claimant: Keypair | None = None) -> None:
        buyer, shop, gateway = self.route()
        world = self.market.world
        by = claimant or self.rng.choice([gateway, shop.authority])
        ixs = moves.claim_ixs(world, buyer.key, shop.route(gateway), self.signed(buyer, gateway), by=by)
        self.send("claim_cumulative", ixs, world.payer, by)

    def claim_for_somebody_else(self) -> None:
        self.claim(self.rng.choice([self.market.stranger, self.market.world.relayer]))

    def execute(self) -> None:
        market = self.market
        buyer, shop, gateway = self.route()
        if market.claims and self.rng.random() < 0.8:
            channel = market.state.channels[self.rng.choice(sorted(market.claims, key=bytes))]
            buyer = next(one for one in market.buyers if one.key.pubkey() == channel.agent)
            shop = next(one for one in market.shops if one.authority.pubkey() == channel.vendor)
            gateway = next(key for key in shop.gateways if key.pubkey() == channel.gateway)
        ix = moves.execute_ix(market.world, buyer.key, shop.route(gateway))
        self.send("execute_claim", [ix], market.stranger)

    # ---- bonds

    def deposit(self) -> None:
        buyer, world = self.market.buyer(), self.market.world
        amount = self.rng.randrange(1, 8 * USDC)
        source = world.token_account(buyer.key.pubkey(), amount)
        ix = build.deposit_bond(world.network, agent=buyer.key.pubkey(), source=source, amount=amount)
        self.send("deposit_bond", [ix], buyer.key)

    def request(self) -> None:
        buyer, market = self.market.buyer(), self.market
        bond = market.state.agents[buyer.key.pubkey()].bond
        amount = self.rng.choice(
            [bond, bond // 2, max(bond - USDC, 0), bond + 1, self.rng.randrange(1, 9 * USDC)]
        )
        by = self.rng.choice([buyer.key, buyer.owner])
        ix = build.request_withdrawal(
            market.world.network, agent=buyer.key.pubkey(), amount=amount, authority=by.pubkey()
        )
        self.send("request_withdrawal", [ix], by)

    def cancel(self) -> None:
        buyer, market = self.market.buyer(), self.market
        by = self.rng.choice([buyer.owner, buyer.owner, buyer.key, market.stranger])
        ix = build.cancel_withdrawal(market.world.network, agent=buyer.key.pubkey(), owner=by.pubkey())
        self.send("cancel_withdrawal", [ix], by)

    def withdraw(self) -> None:
        buyer, network = self.market.buyer(), self.market.world.network
        by = self.rng.choice([buyer.key, buyer.owner])
        ix = build.withdraw_bond(
            network, agent=buyer.key.pubkey(), destination=buyer.wallet, authority=by.pubkey()
        )
        self.send("withdraw_bond", [ix], by)

    def withdraw_of_somebody_else(self) -> None:
        victim, thief, network = self.market.buyer(), self.market.buyers[0], self.market.world.network
        ix = build.withdraw_bond(
            network,
            agent=victim.key.pubkey(),
            destination=self.rng.choice([thief.wallet, victim.wallet]),
            authority=self.market.stranger.pubkey(),
        )
        self.send("withdraw_of_somebody_else", [ix], self.market.stranger)

    # ---- slashing

    def slash(self) -> None:
        market = self.market
        first, second = (self.rng.choice(shop.gateways).pubkey() for shop in market.shops[:2])
        liar = market.buyers[1 if self.rng.random() < 0.8 else 0]
        for gateway in (first, second):
            totals = liar.signed.setdefault(market.world.network.channel(liar.key.pubkey(), gateway), [0])
            totals.append(max(totals[-1], 1_000))  # what the proof's vouchers authorise
        ixs = moves.proof(market.world, liar.key, first, second, market.reporter)
        self.send("slash_equivocation", ixs, market.reporter)

    def slash_an_innocent(self) -> None:
        """With a genuine proof against somebody else, or with signatures of one's own."""
        market, victim = self.market, self.market.buyers[-1]
        ixs = moves.proof(
            market.world,
            market.stranger,
            *(shop.gateways[0].pubkey() for shop in market.shops[:2]),
            market.reporter,
        )
        ixs[1] = moves.with_account(ixs[1], 2, market.world.network.agent_account(victim.key.pubkey()))
        self.send("slash_an_innocent", ixs, market.reporter)

    def sweep(self) -> None:
        market = self.market
        slashed = [buyer for buyer in market.buyers if buyer.window_end is not None]
        buyer = self.rng.choice(slashed or market.buyers)
        ix = build.sweep_forfeited(
            market.world.network,
            agent=buyer.key.pubkey(),
            reporter_token_account=market.reporter_account,
            treasury_token_account=market.treasury_account,
        )
        self.send("sweep_forfeited", [ix], market.stranger)

    # ---- the rest of the world

    def wait(self) -> None:
        self.market.world.wait(self.rng.choice([1, 60, 3_600, DAY // 4, DAY // 2]))

    def configure(self) -> None:
        """Not kept for replays: what an admin signs is an admin's right."""
        bond, world = self.market.state.bond, self.market.world
        change = self.rng.choice(
            [
                ConfigChange(timelock=DAY, claim_delay=DAY // 2),
                ConfigChange(timelock=3_600, claim_delay=600),
                ConfigChange(timelock=2 * DAY),
                ConfigChange(timelock=59),
                ConfigChange(min_bond=max(bond.min_bond - 1, 1)),
                ConfigChange(min_bond=bond.min_bond + 1),
                ConfigChange(reporter_bps=self.rng.randrange(5_001)),
                ConfigChange(deposits_paused=not bond.deposits_paused),
            ]
        )
        ix = build.set_config(world.network, admin=world.admin.pubkey(), change=change)
        self.market.send("set_config", [ix], world.admin)

    def move_payout(self) -> None:
        shop, world = self.market.shop(), self.market.world
        shop.payouts.append(world.token_account(shop.authority.pubkey()))
        ix = build.update_vendor(
            world.network,
            authority=shop.authority.pubkey(),
            payout=shop.payouts[-1],
            price=1,
            metadata_uri="",
        )
        self.market.send("update_vendor", [ix], world.payer, shop.authority)

    def freeze_or_thaw(self) -> None:
        """The mint's issuer freezes a payout account, or thaws it."""
        payout, world = self.market.shop().payouts[-1], self.market.world
        data = world.data(payout)
        assert data is not None
        world.patch(payout, 108, bytes([3 - data[108]]))

    def revoke(self) -> None:
        shop = self.market.shops[-1]
        ix = build.revoke_gateway(
            self.market.world.network, gateway=shop.gateways[1].pubkey(), authority=shop.authority.pubkey()
        )
        self.send("revoke_gateway", [ix], self.market.world.payer, shop.authority)

    def commit(self) -> None:
        world = self.market.world
        ix = build.commit_batch(
            world.network,
            relayer=world.relayer.pubkey(),
            sequence=self.market.state.bond.batch_sequence,
            root=self.rng.randbytes(32),
            leaf_count=self.rng.randrange(4),
            total=self.rng.randrange(USDC),
        )
        self.send("commit_batch", [ix], world.relayer)

    def donate(self) -> None:
        self.market.donate(self.rng.randrange(1, USDC))

    # ---- what nobody meant to send

    def replay(self) -> None:
        if self.market.history:
            ixs, signers = self.rng.choice(self.market.history)
            self.market.send("replay", ixs, *signers)

    def tamper(self) -> None:
        """An earlier transaction with one thing changed: any outcome will do, as long as every rule holds."""
        if not self.market.history:
            return
        ixs, signers = self.rng.choice(self.market.history)
        ix = ixs[-1]
        accounts, data = list(ix.accounts), bytearray(ix.data)
        match self.rng.randrange(4):
            case 0:
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            case 1:
                del accounts[-1]
            case 2:
                first, second = (self._unsigned(accounts) for _ in range(2))
                accounts[first], accounts[second] = accounts[second], accounts[first]
            case _:
                other, _ = self.rng.choice(self.market.history)
                donor = self.rng.choice(other[-1].accounts)
                place = self._unsigned(accounts)
                accounts[place] = AccountMeta(donor.pubkey, False, accounts[place].is_writable)
        self.market.send("tamper", [*ixs[:-1], Instruction(ix.program_id, bytes(data), accounts)], *signers)

    def _unsigned(self, accounts: list[AccountMeta]) -> int:
        return self.rng.choice([place for place, meta in enumerate(accounts) if not meta.is_signer])


def _play(seed: int, steps: int) -> Market:
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        for module in (world, moves):
            patch.setattr(module, "Keypair", _Keys(rng))
        play = Play(Market(rng, buyers=5, shops=3))
        for number in range(steps):
            try:
                play.step()
            except Exception as error:
                error.add_note(f"seed {seed}, step {number}: run again with MACHPAY_SEED={seed}")
                raise
    return play.market


# Both tests below look at the same runs.
_run = cache(_play)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_sequence_of_transactions_breaks_a_rule(seed: int) -> None:
    market = _run(seed, STEPS)
    hostile = {"settle_without_the_relayer", "withdraw_of_somebody_else", "slash_an_innocent"}
    assert not hostile & set(market.succeeded)


def test_the_runs_reach_every_move_and_the_refusals_that_matter() -> None:
    markets = [_run(seed, STEPS) for seed in DEFAULT_SEEDS]
    assert {move for market in markets for move in market.succeeded} >= MOVES
    assert {refusal for market in markets for refusal in market.refusals} >= REFUSALS


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (_play(7, 60) for _ in range(2))
    assert (first.state, first.succeeded, first.refusals) == (second.state, second.succeeded, second.refusals)


def test_the_market_notices_money_that_left_too_early() -> None:
    """The checks themselves: a payment without claim or relayer, a bond that shrinks, a vault that is short."""
    market = _play(7, 200)
    market.check_sums()
    before = market.state
    address, channel = next((a, c) for a, c in before.channels.items() if c.settled < 2**40)
    market.state = replace(
        before, channels={**before.channels, address: replace(channel, settled=channel.settled + 1)}
    )
    market.claims.pop(address, None)
    with pytest.raises(AssertionError, match="paid without relayer and claim"):
        market._check_speed(before, fast=False)
    with pytest.raises(AssertionError):
        market.check_sums()
    market.state = replace(before, vault=before.vault - 1)
    with pytest.raises(AssertionError):
        market.check_sums()
    key, agent = next(iter(before.agents.items()))
    market.state = replace(
        before,
        agents={**before.agents, key: replace(agent, withdrawn_total=agent.withdrawn_total + 1)},
    )
    next(buyer for buyer in market.buyers if buyer.key.pubkey() == key).requested = None
    with pytest.raises(AssertionError, match="withdrawn without a request"):
        market._check_speed(before, fast=True)
