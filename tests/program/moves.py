"""The moves of claims, slashing and aggregated settlement on a `World`, and the sums that hold after each of them."""

from collections.abc import Sequence
from uuid import UUID

from solders.account import Account
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token.state import TokenAccountState

from machpay.chain import instructions as build
from machpay.chain.accounts import AgentAccount, Channel, decode_account
from machpay.protocol.aggregates import Aggregate, ChannelTotal
from machpay.protocol.intents import PaymentIntent, Voucher
from machpay.protocol.nonces import new_nonce
from tests.program.world import Done, Refused, Vendor, World

U64_MAX = 2**64 - 1
TIMELOCK, CLAIM_DELAY = 86_400, 43_200
WINDOW = 2 * TIMELOCK
TOKEN_ACCOUNT_LENGTH = 165


def with_account(ix: Instruction, index: int, address: Pubkey) -> Instruction:
    """The instruction with another account at this place, flags as before."""
    accounts = list(ix.accounts)
    accounts[index] = AccountMeta(address, accounts[index].is_signer, accounts[index].is_writable)
    return Instruction(ix.program_id, bytes(ix.data), accounts)


# ---- claims


def claim_ixs(
    world: World,
    agent: Keypair,
    vendor: Vendor,
    cumulative: int,
    *,
    by: Keypair | None = None,
    voucher: Voucher | None = None,
) -> list[Instruction]:
    return build.claim_cumulative(
        world.network,
        claimant=(by or vendor.gateway).pubkey(),
        vendor=vendor.key,
        agent=agent.pubkey(),
        gateway=vendor.gateway.pubkey(),
        voucher=voucher or world.voucher(agent, vendor.gateway.pubkey(), cumulative),
        payer=world.payer.pubkey(),
    )


def claim(
    world: World, agent: Keypair, vendor: Vendor, cumulative: int, *, by: Keypair | None = None
) -> Done | Refused:
    """Claim with a fresh voucher; the gateway signs unless another key is named, the payer pays."""
    ixs = claim_ixs(world, agent, vendor, cumulative, by=by)
    return world.send(*ixs, signers=(world.payer, by or vendor.gateway))


def execute_ix(world: World, agent: Keypair, vendor: Vendor) -> Instruction:
    return build.execute_claim(
        world.network,
        vendor=vendor.key,
        payout=vendor.payout,
        agent=agent.pubkey(),
        gateway=vendor.gateway.pubkey(),
    )


def execute(world: World, agent: Keypair, vendor: Vendor) -> Done | Refused:
    return world.send(execute_ix(world, agent, vendor))


def open_claim(world: World, agent: Keypair, vendor: Vendor) -> tuple[int, int]:
    """(claim_cumulative, claim_unlock) of the channel."""
    channel = world.channel(agent, vendor.gateway)
    assert channel is not None
    return channel.claim_cumulative, channel.claim_unlock


# ---- slashing


def signed_intent(
    world: World,
    agent: Keypair,
    gateway: Pubkey,
    *,
    nonce: UUID,
    cumulative: int = 1_000,
    amount: int = 1_000,
) -> build.SignedIntent:
    channel = world.network.channel(agent.pubkey(), gateway)
    intent = PaymentIntent(channel, cumulative, nonce, amount, world.now + 60, b"r" * 32)
    return build.SignedIntent(gateway, intent, bytes(agent.sign_message(intent.message)))


def proof(
    world: World, agent: Keypair, first: Pubkey, second: Pubkey, reporter: Keypair
) -> list[Instruction]:
    """The two instructions of a genuine proof that `agent` signed one nonce for both gateways."""
    nonce = new_nonce(world.now * 1000)
    return build.slash_equivocation(
        world.network,
        reporter=reporter.pubkey(),
        agent=agent.pubkey(),
        first=signed_intent(world, agent, first, nonce=nonce),
        second=signed_intent(world, agent, second, nonce=nonce),
    )


def slash(world: World, agent: Keypair, reporter: Keypair) -> Done | Refused:
    """Slash with a genuine proof over two gateways; they need not be registered."""
    ixs = proof(world, agent, Keypair().pubkey(), Keypair().pubkey(), reporter)
    return world.send(*ixs, signers=(world.payer, reporter))


def sweep(world: World, agent: Keypair, to_reporter: Pubkey, to_treasury: Pubkey) -> Done | Refused:
    return world.send(
        build.sweep_forfeited(
            world.network,
            agent=agent.pubkey(),
            reporter_token_account=to_reporter,
            treasury_token_account=to_treasury,
        )
    )


# ---- aggregated settlement


def aggregate(world: World, agent: Keypair, totals: Sequence[tuple[Vendor, int]]) -> Aggregate:
    """The agent's aggregate over its channels with these vendors' gateways."""
    channels = [
        ChannelTotal(world.network.channel(agent.pubkey(), vendor.gateway.pubkey()), cumulative)
        for vendor, cumulative in totals
    ]
    return Aggregate.of(world.network.domain, world.network.mint, agent.pubkey(), channels)


def aggregate_ixs(world: World, agent: Keypair, totals: Sequence[tuple[Vendor, int]]) -> list[Instruction]:
    signed = aggregate(world, agent, totals)
    signature = bytes(agent.sign_message(signed.message))
    return build.settle_aggregated(
        world.network, relayer=world.relayer.pubkey(), aggregate=signed, signature=signature
    )


def settle_aggregated(world: World, agent: Keypair, *totals: tuple[Vendor, int]) -> Done | Refused:
    return world.send(*aggregate_ixs(world, agent, totals), signers=(world.relayer,))


def distribute(world: World, vendor: Vendor, *channels: Pubkey) -> Done | Refused:
    ix = build.distribute(world.network, vendor=vendor.key, payout=vendor.payout, channels=channels)
    return world.send(ix)


def open_channels(world: World, agent: Keypair, *vendors: Vendor) -> list[Pubkey]:
    """Open the agent's channel with each vendor by settling one unit. Returns the addresses."""
    for vendor in vendors:
        outcome = world.settle(vendor, world.item(agent, vendor.gateway, 1))
        assert isinstance(outcome, Done), outcome
    return [world.network.channel(agent.pubkey(), vendor.gateway.pubkey()) for vendor in vendors]


# ---- sums


def assert_balanced(world: World) -> None:
    """The vault holds what bonds, forfeited bonds and channels claim of it, and every sum has its parts."""
    accounts = [
        decode_account(bytes(account.data))
        for _, account in world.svm.get_program_accounts(world.network.program_id)
        if len(account.data) != TOKEN_ACCOUNT_LENGTH  # a damaged payout account
    ]
    agents = [account for account in accounts if isinstance(account, AgentAccount)]
    channels = [account for account in accounts if isinstance(account, Channel)]
    assert world.vault() == sum(a.bond + a.forfeited for a in agents) + sum(c.owed for c in channels)
    for agent in agents:
        left = agent.deposited_total - agent.paid_total - agent.withdrawn_total - agent.swept_total
        assert agent.bond + agent.forfeited == left
        assert agent.reporter_set_aside <= agent.forfeited
        own = [channel for channel in channels if channel.agent == agent.agent]
        assert agent.paid_total == sum(channel.settled for channel in own)
        asked = sum(max(channel.claim_cumulative - channel.settled, 0) for channel in own)
        assert agent.open_claims == min(asked, U64_MAX)


def account_of(world: World, agent: Keypair) -> AgentAccount:
    account = world.agent_account(agent)
    assert account is not None
    return account


def channel_of(world: World, agent: Keypair, vendor: Vendor) -> Channel:
    channel = world.channel(agent, vendor.gateway)
    assert channel is not None
    return channel


DAMAGES = ["closed", "frozen", "another mint", "another program"]


def damage(world: World, token_account: Pubkey, owner: Pubkey, how: str) -> None:
    """Make a token account unable to receive, in one of the ways of `DAMAGES`."""
    if how == "closed":
        world.svm.set_account(token_account, Account(0, b"", Pubkey.default()))
    elif how == "frozen":
        world.token_account(owner, state=TokenAccountState.Frozen, at=token_account)
    elif how == "another mint":
        world.token_account(owner, mint=world.new_mint(), at=token_account)
    else:
        world.token_account(owner, program=world.network.program_id, at=token_account)
