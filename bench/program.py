"""What the Solana program costs: compute units and bytes per instruction, lamports per 1,000 payments.

    .venv/bin/python bench/program.py

LiteSVM with mainnet features; 12 worlds with fresh keys, because finding an address costs 1,500 units per bump tried.
The figures of docs/program.md come from here. A cluster's limit is 1,400,000 units and 1,232 bytes a transaction.
"""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from solders.keypair import Keypair

from machpay.chain import instructions as build
from machpay.chain.instructions import ConfigChange
from tests.program import moves
from tests.program.world import ARTIFACT, USDC, Vendor, World, done

WORLDS = 12
LAMPORTS_PER_SIGNATURE = 5_000
LAMPORTS_PER_BYTE = 6_960
ACCOUNT_OVERHEAD_BYTES = 128
CHANNEL_BYTES, AGENT_BYTES = 208, 288
AGGREGATED_CHANNELS, DISTRIBUTED_CHANNELS = 56, 55


def costs(world: World) -> dict[str, int]:
    """Compute units of one run of each instruction."""
    found = {"initialize_bond": done(world.initialize_bond()).compute_units}
    network, admin = world.network, world.admin
    authority, gateway, agent = Keypair(), Keypair(), world.agent()
    payout = world.token_account(authority.pubkey())
    found["register_vendor"] = done(world.register_vendor(authority, payout)).compute_units
    found["register_gateway"] = done(world.register_gateway(authority, gateway)).compute_units
    vendor = Vendor(authority, gateway, payout)
    found["deposit_bond, first"] = done(world.deposit(agent, 90 * USDC)).compute_units
    found["deposit_bond, later"] = done(world.deposit(agent, USDC)).compute_units
    change = build.set_config(
        network, admin=admin.pubkey(), change=ConfigChange(pending_admin=admin.pubkey())
    )
    found["set_config"] = done(world.send(change, signers=(world.payer, admin))).compute_units
    accept = build.accept_admin(network, pending_admin=admin.pubkey())
    found["accept_admin"] = done(world.send(accept, signers=(world.payer, admin))).compute_units
    update = build.update_vendor(
        network, authority=vendor.key, payout=vendor.payout, price=2, metadata_uri="https://v.example"
    )
    found["update_vendor"] = done(world.send(update, signers=(world.payer, vendor.authority))).compute_units
    batch = build.commit_batch(
        network, relayer=world.relayer.pubkey(), sequence=0, root=bytes(32), leaf_count=1, total=1
    )
    found["commit_batch"] = done(world.send(batch, signers=(world.relayer,))).compute_units

    agents = [agent, *(world.agent(90 * USDC) for _ in range(7))]
    for first, count in ((0, 1), (1, 2), (3, 4)):
        items = [world.item(one, vendor.gateway, 1) for one in agents[first : first + count]]
        found[f"settle_cumulative, {count} created"] = done(world.settle(vendor, *items)).compute_units
    for count in range(1, 6):
        items = [world.item(one, vendor.gateway, 10 * count, create=False) for one in agents[:count]]
        found[f"settle_cumulative, {count} existing"] = done(world.settle(vendor, *items)).compute_units
        if count in (1, 5):
            again = done(world.settle(vendor, *items)).compute_units
            found[f"settle_cumulative, {count} with nothing due"] = again

    found["claim_cumulative, created"] = done(moves.claim(world, agents[7], vendor, USDC)).compute_units
    found["claim_cumulative, existing"] = done(moves.claim(world, agent, vendor, USDC)).compute_units
    world.wait(moves.CLAIM_DELAY)
    found["execute_claim"] = done(moves.execute(world, agent, vendor)).compute_units
    found["settle_aggregated, 1 channel"] = done(
        moves.settle_aggregated(world, agent, (vendor, 2 * USDC))
    ).compute_units
    channel = network.channel(agent.pubkey(), vendor.gateway.pubkey())
    found["distribute, 1 channel"] = done(moves.distribute(world, vendor, channel)).compute_units

    wallet = world.token_account(agent.pubkey())
    found["request_withdrawal"] = done(world.request_withdrawal(agent, USDC)).compute_units
    found["cancel_withdrawal"] = done(world.cancel_withdrawal(agent, by=agent)).compute_units
    done(world.request_withdrawal(agent, USDC))
    world.wait(moves.TIMELOCK)
    found["withdraw_bond"] = done(world.withdraw(agent, wallet)).compute_units
    found["slash_equivocation"] = done(moves.slash(world, agent, world.payer)).compute_units
    world.wait(moves.WINDOW)
    accounts = [world.token_account(key) for key in (world.payer.pubkey(), world.treasury.pubkey())]
    found["sweep_forfeited"] = done(moves.sweep(world, agent, *accounts)).compute_units
    revoke = build.revoke_gateway(network, gateway=vendor.gateway.pubkey(), authority=vendor.key)
    found["revoke_gateway"] = done(world.send(revoke, signers=(world.payer, vendor.authority))).compute_units
    return found


def paid(world: World, act: Callable[[], object]) -> int:
    """Lamports that the relayer is poorer after `act`."""
    before = world.svm.get_balance(world.relayer.pubkey()) or 0
    act()
    return before - (world.svm.get_balance(world.relayer.pubkey()) or 0)


def rent(length: int) -> int:
    return (length + ACCOUNT_OVERHEAD_BYTES) * LAMPORTS_PER_BYTE


def fees() -> dict[str, float]:
    """Lamports per channel, as the runtime takes them; signatures only, no priority fee."""
    world = World()
    done(world.initialize_bond())
    vendor = world.vendor()
    agents = [world.agent(USDC) for _ in range(5)]
    items = [world.item(agent, vendor.gateway, 1) for agent in agents]
    created = paid(world, lambda: done(world.settle(vendor, items[0])))
    assert created == 2 * LAMPORTS_PER_SIGNATURE + rent(CHANNEL_BYTES), created
    for item in items[1:]:
        done(world.settle(vendor, item))
    again = [world.item(agent, vendor.gateway, 9, create=False) for agent in agents]
    five = paid(world, lambda: done(world.settle(vendor, *again)))
    later = [world.item(agent, vendor.gateway, 20, create=False) for agent in agents]
    two = paid(world, lambda: done(world.settle(vendor, *later[:2])))
    one = paid(world, lambda: moves.settle_aggregated(world, agents[0], (vendor, 30)))
    return {
        "5 channels a transaction (lookup table)": five / 5,
        "2 channels a transaction": two / 2,
        "aggregated and distributed, 56 and 55 a transaction": one / AGGREGATED_CHANNELS
        + LAMPORTS_PER_SIGNATURE / DISTRIBUTED_CHANNELS,
    }


def main() -> None:
    print(
        f"{ARTIFACT.stat().st_size:,} bytes of program; rent of a channel {rent(CHANNEL_BYTES):,} lamports once,"
    )
    print(f"of an agent {rent(AGENT_BYTES):,}\n")
    runs = [costs(World()) for _ in range(WORLDS)]
    print(f"{'compute units':38}{'least':>9}{'median':>9}{'most':>9}")
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(f"{name:38}{min(values):>9,}{statistics.median_low(values):>9,}{max(values):>9,}")
    print("\nlamports per 1,000 payments, by payments per channel and settlement; + rent of new channels")
    for name, per_channel in fees().items():
        row = ""
        for payments in (10, 100, 1_000):
            channels = 1_000 // payments
            row += f"{channels * per_channel:>12,.0f} (+{channels * rent(CHANNEL_BYTES):,})"
        print(f"{name:52}{row}")


if __name__ == "__main__":
    main()
