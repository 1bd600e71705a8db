"""One program, bonds in two mints: what one mint's accounts say never moves the other mint's tokens.

The agent has an account in both, under one key, so everything but the mint fits. Deposits and withdrawals are checked
with their own instructions.
"""

from collections.abc import Sequence

import pytest
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import instructions as build
from machpay.chain.network import Network
from machpay.protocol.aggregates import Aggregate, ChannelTotal
from tests.program.moves import (
    CLAIM_DELAY,
    WINDOW,
    aggregate_ixs,
    claim,
    claim_ixs,
    damage,
    execute_ix,
    proof,
    settle_aggregated,
    slash,
    with_account,
)
from tests.program.world import USDC, Vendor, World, done, refused

# Where the agent's account stands in each instruction.
SETTLE, AGGREGATED, CLAIM, EXECUTE, SLASH, SWEEP = 10, 2, 4, 5, 2, 2


class Scene:
    """Agent and channel of the world's mint, and the same agent's account in another, larger one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.reporter = Keypair()
        self.agent = world.agent(USDC)
        here = world.network
        self.elsewhere = Network(here.program_id, world.new_mint(), here.domain)
        world.network = self.elsewhere
        done(world.initialize_bond())
        done(world.deposit(self.agent, 9 * USDC))
        world.network = here
        self.vendor: Vendor = world.vendor()
        done(world.settle(self.vendor, world.item(self.agent, self.vendor.gateway, 50)))

    @property
    def other_account(self) -> Pubkey:
        return self.elsewhere.agent_account(self.agent.pubkey())

    def refuses(self, steps: Sequence[Instruction], index: int, address: Pubkey, *signers: Keypair) -> None:
        """The last instruction with another account at `index`; as it was it would succeed."""
        *before, last = steps
        with self.world.nothing_moves():
            outcome = self.world.send(*before, with_account(last, index, address), signers=signers)
            refused(outcome, "WrongMint")
        done(self.world.send(*steps, signers=signers))


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


def test_a_settlement_takes_nothing_from_another_mints_bond(scene: Scene) -> None:
    world = scene.world
    item = world.item(scene.agent, scene.vendor.gateway, 150, create=False)
    scene.refuses(world.settle_ixs(scene.vendor, item), SETTLE, scene.other_account, world.relayer)


def test_a_channel_is_not_opened_for_an_account_in_another_mint(scene: Scene) -> None:
    world, gateway = scene.world, Keypair()
    done(world.register_gateway(scene.vendor.authority, gateway))
    steps = world.settle_ixs(scene.vendor, world.item(scene.agent, gateway, 150))
    scene.refuses(steps, SETTLE, scene.other_account, world.relayer)


def test_an_aggregate_takes_nothing_from_another_mints_bond(scene: Scene) -> None:
    steps = aggregate_ixs(scene.world, scene.agent, [(scene.vendor, 150)])
    scene.refuses(steps, AGGREGATED, scene.other_account, scene.world.relayer)


def test_an_aggregate_owes_nothing_on_another_mints_channel(scene: Scene) -> None:
    """Signed for by the agent itself: tokens of one mint would be taken, and tokens of the other distributed."""
    world, agent = scene.world, scene.agent
    channel = world.network.channel(agent.pubkey(), scene.vendor.gateway.pubkey())
    totals = [ChannelTotal(channel, 150)]
    signed = Aggregate.of(scene.elsewhere.domain, scene.elsewhere.mint, agent.pubkey(), totals)
    steps = build.settle_aggregated(
        scene.elsewhere,
        relayer=world.relayer.pubkey(),
        aggregate=signed,
        signature=bytes(agent.sign_message(signed.message)),
    )
    with world.nothing_moves():
        refused(world.send(*steps, signers=(world.relayer,)), "WrongMint")


def test_a_claim_is_not_counted_against_another_mints_bond(scene: Scene) -> None:
    steps = claim_ixs(scene.world, scene.agent, scene.vendor, 150)
    scene.refuses(steps, CLAIM, scene.other_account, scene.world.payer, scene.vendor.gateway)


def test_a_claim_is_not_executed_on_another_mints_bond(scene: Scene) -> None:
    done(claim(scene.world, scene.agent, scene.vendor, 150))
    scene.world.wait(CLAIM_DELAY)
    step = execute_ix(scene.world, scene.agent, scene.vendor)
    scene.refuses([step], EXECUTE, scene.other_account)


@pytest.mark.parametrize("payout", ["live", "closed"])
def test_a_claim_is_not_executed_from_another_mints_vault(scene: Scene, payout: str) -> None:
    world = scene.world
    done(claim(world, scene.agent, scene.vendor, 150))
    world.wait(CLAIM_DELAY)
    if payout == "closed":
        damage(world, scene.vendor.payout, scene.vendor.key, "closed")
    step = with_account(execute_ix(world, scene.agent, scene.vendor), 1, scene.elsewhere.vault())
    with world.nothing_moves():
        refused(world.send(with_account(step, 0, scene.elsewhere.bond())), "WrongMint")


def test_what_is_owed_is_not_distributed_from_another_mints_vault(scene: Scene) -> None:
    world, vendor = scene.world, scene.vendor
    done(settle_aggregated(world, scene.agent, (vendor, 150)))
    channel = world.network.channel(scene.agent.pubkey(), vendor.gateway.pubkey())
    step = build.distribute(world.network, vendor=vendor.key, payout=vendor.payout, channels=[channel])
    moved = with_account(step, 1, scene.elsewhere.vault())
    with world.nothing_moves():
        refused(world.send(with_account(moved, 0, scene.elsewhere.bond())), "WrongMint")
    done(world.send(step))


def test_signing_twice_in_one_mint_forfeits_nothing_in_another(scene: Scene) -> None:
    gateways = (Keypair().pubkey(), Keypair().pubkey())
    steps = proof(scene.world, scene.agent, *gateways, scene.reporter)
    scene.refuses(steps, SLASH, scene.other_account, scene.world.payer, scene.reporter)


def test_a_bond_forfeited_in_one_mint_is_not_swept_from_another_mints_vault(scene: Scene) -> None:
    """Both are forfeited: the larger sum of the other mint must not be paid in this one's tokens."""
    world, here = scene.world, scene.world.network
    world.network = scene.elsewhere
    done(slash(world, scene.agent, scene.reporter))
    world.network = here
    done(slash(world, scene.agent, scene.reporter))
    world.wait(WINDOW)
    step = build.sweep_forfeited(
        here,
        agent=scene.agent.pubkey(),
        reporter_token_account=world.token_account(scene.reporter.pubkey()),
        treasury_token_account=world.token_account(world.treasury.pubkey()),
    )
    scene.refuses([step], SWEEP, scene.other_account)
