"""A market of agents, vendors and strangers for random tests, and what must hold after each of their transactions.

The market keeps its own books, from what people signed and from the clock: it never trusts the program's unlock times.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import events
from machpay.chain.accounts import AgentAccount, Batch, Channel, GatewayAccount, GlobalBond, decode_account
from machpay.chain.errors import PROGRAM_ERRORS
from machpay.chain.traces import recorded_events
from tests.program.world import USDC, Done, Refused, Vendor, World, done

SOURCE_BOND = 20 * USDC
SLASHING_WINDOW_TIMELOCKS = 2


@dataclass
class Buyer:
    """An agent, its owner's wallet, and what it signed so far: per channel, every cumulative, the highest last."""

    key: Keypair
    owner: Keypair
    wallet: Pubkey
    signed: dict[Pubkey, list[int]] = field(default_factory=dict)
    requested: tuple[int, int] | None = None
    window_end: int | None = None


@dataclass
class Shop:
    """A vendor with its gateways and every payout account it ever had; the last one is the current."""

    authority: Keypair
    gateways: list[Keypair]
    payouts: list[Pubkey]

    def route(self, gateway: Keypair) -> Vendor:
        return Vendor(self.authority, gateway, self.payouts[-1])


@dataclass(frozen=True)
class State:
    """Every account of the program and the vault, at one moment."""

    agents: dict[Pubkey, AgentAccount]
    channels: dict[Pubkey, Channel]
    gateways: dict[Pubkey, GatewayAccount]
    bond: GlobalBond
    batches: int
    vault: int


class Market:
    """The people, their money, and the rules that no transaction may break."""

    def __init__(self, rng: random.Random, *, buyers: int, shops: int) -> None:
        self.rng = rng
        self.world = World()
        done(self.world.initialize_bond())
        self.stranger = self.world.agent()
        self.treasury_account = self.world.token_account(self.world.treasury.pubkey())
        self.reporter = self.world.agent()
        self.reporter_account = self.world.token_account(self.reporter.pubkey())
        self.shops = [self._open_shop() for _ in range(shops)]
        self.claims: dict[Pubkey, tuple[int, int]] = {}
        self.donated = 0
        self.history: list[tuple[list[Instruction], tuple[Keypair, ...]]] = []
        self.succeeded: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.buyers = [self._new_buyer() for _ in range(buyers)]
        self.state = self.read()

    def _open_shop(self) -> Shop:
        vendor, second = self.world.vendor(), Keypair.from_seed(self.rng.randbytes(32))
        done(self.world.register_gateway(vendor.authority, second))
        return Shop(vendor.authority, [vendor.gateway, second], [vendor.payout])

    def _new_buyer(self) -> Buyer:
        key, owner = self.world.agent(), self.world.agent()
        done(self.world.deposit(key, SOURCE_BOND, owner=owner.pubkey()))
        return Buyer(key, owner, self.world.token_account(owner.pubkey()))

    # ---- choosing

    def buyer(self) -> Buyer:
        return self.rng.choice(self.buyers)

    def shop(self) -> Shop:
        return self.rng.choice(self.shops)

    def channel(self, buyer: Buyer, gateway: Keypair) -> Pubkey:
        return self.world.network.channel(buyer.key.pubkey(), gateway.pubkey())

    # ---- acting

    def sign(self, buyer: Buyer, gateway: Keypair, amount: int) -> None:
        """The agent authorises `amount` more; vouchers are made when somebody uses one."""
        totals = buyer.signed.setdefault(self.channel(buyer, gateway), [0])
        totals.append(totals[-1] + amount)

    def send(self, name: str, ixs: Sequence[Instruction], *signers: Keypair) -> Done | Refused:
        """Send, and check everything that must hold afterwards."""
        before = self.state
        outcome = self.world.send(*ixs, signers=signers)
        self.state = self.read()
        self.check_sums()
        if isinstance(outcome, Refused):
            assert self.state == before, f"{name} was refused and changed something"
            code = PROGRAM_ERRORS.get(outcome.code or 0)
            self.refusals[code.name if code else "runtime"] += 1
            return outcome
        self.succeeded[name] += 1
        recorded = [record.event for record in recorded_events(self.world.network, outcome.trace)]
        assert len(recorded) == len(outcome.events)
        self._note(recorded)
        self._check_one_way(before)
        fast = any(key.pubkey() == before.bond.relayer for key in signers)
        self._check_speed(before, fast=fast)
        self._check_events(before, recorded)
        return outcome

    def donate(self, amount: int) -> None:
        """A stranger sends tokens straight to the vault."""
        vault = self.world.network.vault()
        self.world.patch(vault, 64, (self.world.vault() + amount).to_bytes(8, "little"))
        self.donated += amount
        self.state = self.read()
        self.check_sums()

    # ---- looking

    def read(self) -> State:
        agents, channels, gateways, bonds, batches = {}, {}, {}, [], 0
        for address, account in self.world.svm.get_program_accounts(self.world.network.program_id):
            decoded = decode_account(bytes(account.data))
            match decoded:
                case AgentAccount():
                    agents[decoded.agent] = decoded
                case Channel():
                    channels[address] = decoded
                case GatewayAccount():
                    gateways[decoded.gateway] = decoded
                case GlobalBond():
                    bonds.append(decoded)
                case Batch():
                    batches += 1
        (bond,) = bonds
        return State(agents, channels, gateways, bond, batches, self.world.vault())

    def _note(self, recorded: list[events.Event]) -> None:
        """Keep what was announced and when it may happen, by this market's own clock."""
        now, bond = self.world.now, self.state.bond
        by_key = {buyer.key.pubkey(): buyer for buyer in self.buyers}
        for event in recorded:
            match event:
                case events.WithdrawalRequested():
                    by_key[event.agent].requested = (event.amount, now + bond.timelock)
                case events.WithdrawalCancelled():
                    by_key[event.agent].requested = None
                case events.ClaimRequested():
                    self.claims[event.channel] = (event.cumulative, now + bond.claim_delay)
                case events.AgentSlashed():
                    slashed = by_key[event.agent]
                    assert slashed.window_end is None, "slashed twice"
                    slashed.requested = None
                    slashed.window_end = now + SLASHING_WINDOW_TIMELOCKS * bond.timelock

    # ---- what must hold

    def check_sums(self) -> None:
        """The vault holds what accounts say, and everybody received what accounts say."""
        state, world = self.state, self.world
        agents, channels = state.agents.values(), state.channels.values()
        held = sum(agent.bond + agent.forfeited for agent in agents) + sum(c.owed for c in channels)
        assert state.vault == held + self.donated
        for agent in agents:
            left = agent.deposited_total - agent.paid_total - agent.withdrawn_total - agent.swept_total
            assert agent.bond + agent.forfeited == left
            assert agent.reporter_set_aside <= agent.forfeited
            assert not (agent.slashed and (agent.bond or agent.pending_withdrawal))
            own = [channel for channel in channels if channel.agent == agent.agent]
            assert agent.paid_total == sum(channel.settled for channel in own)
            assert agent.open_claims == sum(max(c.claim_cumulative - c.settled, 0) for c in own)
        for buyer in self.buyers:
            account = state.agents[buyer.key.pubkey()]
            assert world.tokens(buyer.wallet) == account.withdrawn_total
            for address, channel in state.channels.items():
                if channel.agent == account.agent:
                    highest = buyer.signed.get(address, [0])[-1]
                    assert max(channel.settled, channel.claim_cumulative) <= highest, "more than was signed"
        for shop in self.shops:
            received = sum(world.tokens(payout) for payout in shop.payouts)
            key = shop.authority.pubkey()
            assert received == sum(c.settled - c.owed for c in channels if c.vendor == key)
        swept = world.tokens(self.reporter_account) + world.tokens(self.treasury_account)
        assert swept == sum(agent.swept_total for agent in agents)
        assert state.batches == state.bond.batch_sequence

    def _check_one_way(self, before: State) -> None:
        """What never falls, and what never changes back."""
        after = self.state
        for address, channel in before.channels.items():
            now = after.channels[address]
            assert now.settled >= channel.settled
            assert (now.agent, now.gateway, now.vendor) == (channel.agent, channel.gateway, channel.vendor)
        for key, agent in before.agents.items():
            then, now_agent = agent, after.agents[key]
            for name in ("deposited_total", "paid_total", "withdrawn_total", "swept_total", "slashed"):
                assert getattr(now_agent, name) >= getattr(then, name), name
            assert now_agent.owner == then.owner
        for key, gateway in before.gateways.items():
            assert after.gateways[key].revoked >= gateway.revoked
            assert after.gateways[key].vendor == gateway.vendor

    def _check_speed(self, before: State, *, fast: bool) -> None:
        """Without the relayer, money leaves a bond only after it was announced long enough."""
        now = self.world.now
        for buyer in self.buyers:
            key = buyer.key.pubkey()
            then, account = before.agents[key], self.state.agents[key]
            withdrawn = account.withdrawn_total - then.withdrawn_total
            if withdrawn:
                assert buyer.requested is not None, "withdrawn without a request"
                amount, unlock = buyer.requested
                assert withdrawn <= amount
                assert now >= unlock
                assert account.bond >= account.open_claims
                assert account.bond == 0 or account.bond >= self.state.bond.min_bond
                buyer.requested = None
            if account.swept_total > then.swept_total:
                assert buyer.window_end is not None
                assert now >= buyer.window_end
        if fast:
            return
        windows = {buyer.key.pubkey(): buyer.window_end for buyer in self.buyers}
        for address, channel in self.state.channels.items():
            old = before.channels.get(address)
            if channel.settled > (old.settled if old else 0):
                assert address in self.claims, "paid without relayer and claim"
                cumulative, unlock = self.claims[address]
                assert channel.settled <= cumulative
                assert now >= unlock
                assert now >= (windows[channel.agent] or 0)

    def _check_events(self, before: State, recorded: list[events.Event]) -> None:
        """Whoever reads only events comes to the same sums."""
        told: Counter[str] = Counter()
        for event in recorded:
            match event:
                case events.Deposited():
                    told["deposited_total"] += event.amount
                case events.Settled() | events.Aggregated():
                    assert event.total == sum(channel.amount for channel in event.channels)
                    told["paid_total"] += event.total
                case events.ClaimExecuted():
                    told["paid_total"] += event.amount
                case events.Withdrawn():
                    told["withdrawn_total"] += event.amount
                case events.ForfeitedSwept():
                    told["swept_total"] += event.to_reporter + event.to_treasury
        for name in ("deposited_total", "paid_total", "withdrawn_total", "swept_total"):
            moved = sum(
                getattr(account, name) - (getattr(before.agents[key], name) if key in before.agents else 0)
                for key, account in self.state.agents.items()
            )
            assert told[name] == moved, name
