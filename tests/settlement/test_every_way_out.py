"""Every way out of a bond, on the real program: the ledger follows each of them, whoever's transaction it
was, and after each one the vault holds exactly what bonds, forfeited bonds and owed amounts add up to."""

from dataclasses import replace

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM_ID

from apps.ledger import chart
from apps.ledger.models import Transfer
from apps.ledger.selectors import balance, balances_by_owner, statement, trial_balance
from apps.payments.services.chain_mirror import BondMoved, DistributionSeen, apply_chain_snapshot
from apps.settlement.services.reconcile import reconcile
from devnet.offers import ATLAS, LEXICON
from machpay.chain import instructions as build
from machpay.chain import tokens
from machpay.protocol.aggregates import Aggregate, ChannelTotal
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce, nonce_unix_ms
from tests.settlement.conftest import BOND, Recon
from tests.support.chain import Payer

CLAIM_DELAY, TIMELOCK = 43_200, 86_400
REPORTER_BPS = 1_000
CLOSE_ACCOUNT = b"\x09"


@pytest.fixture(autouse=True)
def donated(recon: Recon) -> int:
    """What earlier tests gave to the vault: it stays there and is nobody's."""
    recon.catch_up()
    return recon.run(reconcile).surplus_atomic


# ---- moves


def send(recon: Recon, *steps: Instruction, signers: tuple[SigningKey, ...] = ()) -> None:
    """Confirmed, and final when this returns; the demo's admin pays the fee."""
    admin = recon.chain.keys.get("admin").keypair()
    keys = [key.keypair() for key in signers]
    recon.chain.call(lambda client: client.send_and_confirm(list(steps), admin, keys))
    recon.chain.wait_until_final()


def pass_time(recon: Recon, seconds: int) -> None:
    with recon.chain.control() as control:
        control.move_clock(seconds + 1)


def wallet_of(recon: Recon, owner: Pubkey) -> Pubkey:
    """The owner's associated token account, created if it is missing."""
    admin = recon.chain.keys.get("admin").public
    mint = recon.chain.network.mint
    send(recon, tokens.create_ata_idempotent(payer=admin, owner=owner, mint=mint))
    return tokens.associated_token_address(owner, mint)


def held(recon: Recon, token_account: Pubkey) -> int:
    return recon.chain.call(lambda client: client.token_balance(token_account, "finalized"))


def withdraw(recon: Recon, agent: SigningKey, amount: int) -> None:
    network = recon.chain.network
    send(recon, build.request_withdrawal(network, agent=agent.public, amount=amount), signers=(agent,))
    pass_time(recon, TIMELOCK)
    wallet = wallet_of(recon, agent.public)
    send(
        recon,
        build.withdraw_bond(network, agent=agent.public, destination=wallet),
        signers=(agent,),
    )


def slash(recon: Recon, first: Payer, second: Payer) -> SigningKey:
    """Prove that one agent signed one nonce for two gateways; returns the stranger who did."""
    reporter = SigningKey.generate()
    nonce = new_nonce()
    halves = []
    for payer in (first, second):
        intent = PaymentIntent(
            payer.channel, 1_000, nonce, 1_000, nonce_unix_ms(nonce) // 1000 + 60, bytes(32)
        )
        halves.append(build.SignedIntent(payer.gateway.public, intent, intent.sign(payer.agent)))
    steps = build.slash_equivocation(
        recon.chain.network,
        reporter=reporter.public,
        agent=first.agent.public,
        first=halves[0],
        second=halves[1],
    )
    send(recon, *steps, signers=(reporter,))
    return reporter


def sweep(recon: Recon, agent: SigningKey, reporter: SigningKey) -> None:
    treasury = recon.chain.keys.get("admin").public
    step = build.sweep_forfeited(
        recon.chain.network,
        agent=agent.public,
        reporter_token_account=wallet_of(recon, reporter.public),
        treasury_token_account=wallet_of(recon, treasury),
    )
    send(recon, step)


def new_vendor(recon: Recon) -> tuple[SigningKey, SigningKey, Pubkey]:
    """A vendor of this test alone, with its gateway and its payout account."""
    vendor, gateway = SigningKey.generate(), SigningKey.generate()
    network, admin = recon.chain.network, recon.chain.keys.get("admin").public
    payout = wallet_of(recon, vendor.public)
    send(
        recon,
        build.register_vendor(network, authority=vendor.public, payout=payout, price=1_000, payer=admin),
        build.register_gateway(network, gateway=gateway.public, authority=vendor.public, payer=admin),
        signers=(vendor, gateway),
    )
    return vendor, gateway, payout


def close(recon: Recon, token_account: Pubkey, owner: SigningKey) -> None:
    admin = recon.chain.keys.get("admin").public
    accounts = [
        AccountMeta(token_account, False, True),
        AccountMeta(admin, False, True),
        AccountMeta(owner.public, True, False),
    ]
    send(recon, Instruction(TOKEN_PROGRAM_ID, CLOSE_ACCOUNT, accounts), signers=(owner,))


# ---- what must hold


def assert_term_by_term(recon: Recon, donated: int) -> None:
    """Every term of the vault, on chain and in the books, once everything is final and applied."""
    network, mint = recon.chain.network, recon.mint
    snapshot = recon.chain.call(lambda client: client.program_accounts("finalized"))
    agents = {str(agent): account for agent, account in snapshot.agents.items()}

    def nonzero(amounts: dict[str, int]) -> dict[str, int]:
        return {owner: amount for owner, amount in amounts.items() if amount}

    def books(kind: chart.AccountKind) -> dict[str, int]:
        return nonzero(balances_by_owner(kind, mint))

    assert books(chart.AccountKind.BOND) == nonzero({a: account.bond for a, account in agents.items()})
    assert books(chart.AccountKind.FORFEITED) == nonzero(
        {a: account.forfeited for a, account in agents.items()}
    )
    assert books(chart.AccountKind.WITHDRAWN) == nonzero(
        {a: account.withdrawn_total for a, account in agents.items()}
    )
    assert books(chart.AccountKind.SWEPT) == nonzero(
        {a: account.swept_total for a, account in agents.items()}
    )
    owed: dict[str, int] = {}
    paid: dict[str, int] = {}
    for channel in snapshot.channels.values():
        vendor = str(channel.vendor)
        owed[vendor] = owed.get(vendor, 0) + channel.owed
        paid[vendor] = paid.get(vendor, 0) + channel.settled - channel.owed
    assert books(chart.AccountKind.OWED) == nonzero(owed)
    assert books(chart.AccountKind.SETTLED) == nonzero(paid)
    in_books = sum(
        sum(books(kind).values())
        for kind in (chart.AccountKind.BOND, chart.AccountKind.FORFEITED, chart.AccountKind.OWED)
    )
    assert held(recon, network.vault()) == in_books + donated
    assert [book.total_atomic for book in trial_balance()] == [0]


def kinds(account: object) -> list[tuple[str, int]]:
    return [(line.kind, line.amount_atomic) for line in statement(account)]  # type: ignore[arg-type]


def assert_repeating_posts_nothing(recon: Recon) -> None:
    before = Transfer.objects.count()
    snapshot = recon.chain.call(lambda client: client.program_accounts("finalized"))
    apply_chain_snapshot(replace(snapshot, slot=snapshot.slot + 1))
    assert Transfer.objects.count() == before


# ---- each way out


def test_a_withdrawal_leaves_the_bond_for_the_owner(recon: Recon, donated: int) -> None:
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()

    withdraw(recon, agent, 20_000_000)
    applied = recon.sync()

    assert applied.withdrawals == [BondMoved(agent.pubkey, 20_000_000)]
    assert kinds(chart.bond(agent.pubkey, recon.mint)) == [("deposit", BOND), ("withdraw", -20_000_000)]
    assert kinds(chart.withdrawn(agent.pubkey, recon.mint)) == [("withdraw", 20_000_000)]
    assert_term_by_term(recon, donated)
    assert_repeating_posts_nothing(recon)

    withdraw(recon, agent, 30_000_000)
    recon.sync()
    assert recon.bond(agent) == 0
    assert balance(chart.withdrawn(agent.pubkey, recon.mint)) == BOND
    assert_term_by_term(recon, donated)


def test_deposit_settlement_and_withdrawal_between_two_looks_are_all_posted(
    recon: Recon, donated: int
) -> None:
    (payer,) = recon.payers(1, LEXICON)
    payment = payer.pay(7_000)
    recon.deliver(payment)

    recon.chain.top_up(payer.agent, 5_000_000)
    recon.settle_elsewhere(payer, payment, up_to=7_000)
    withdraw(recon, payer.agent, 10_000_000)
    recon.sync()

    assert kinds(chart.bond(payer.agent.pubkey, recon.mint)) == [
        ("deposit", BOND),
        ("deposit", 5_000_000),
        ("withdraw", -10_000_000),
        ("settle", -7_000),
    ]
    assert_term_by_term(recon, donated)


def test_a_vendors_claim_without_the_relayer_is_posted_as_claimed(recon: Recon, donated: int) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))
    # The gateway holds a voucher over more than it ever told the relayer.
    payment = payer.pay(4_000)
    vendor = recon.chain.keys.get(f"vendor-{LEXICON.vendor}")
    network, admin = recon.chain.network, recon.chain.keys.get("admin").public
    steps = build.claim_cumulative(
        network,
        claimant=vendor.public,
        vendor=vendor.public,
        agent=payer.agent.public,
        gateway=payer.gateway.public,
        voucher=payment.voucher,
        payer=admin,
    )
    send(recon, *steps, signers=(vendor,))
    recon.sync()
    assert recon.channel(payer).claim_cumulative_atomic == 5_000
    assert recon.settled(payer) == balance(chart.settled(str(payer.vendor), payer.gateway.pubkey, recon.mint))
    assert recon.bond(payer.agent) == BOND
    assert_term_by_term(recon, donated)

    pass_time(recon, CLAIM_DELAY)
    payout = tokens.associated_token_address(payer.vendor, network.mint)
    send(
        recon,
        build.execute_claim(
            network,
            vendor=payer.vendor,
            payout=payout,
            agent=payer.agent.public,
            gateway=payer.gateway.public,
        ),
    )
    (seen,) = recon.sync().settled

    assert (seen.amount_atomic, seen.claimed_atomic, seen.owed_atomic) == (5_000, 4_000, 0)
    assert kinds(chart.spent_unsettled(payer.agent.pubkey, recon.mint)) == [
        ("charge", -1_000),
        ("claimed", -4_000),
        ("settle", 5_000),
    ]
    assert recon.bond(payer.agent) == BOND - 5_000
    assert_term_by_term(recon, donated)
    assert_repeating_posts_nothing(recon)
    # The charges that the claim stood for arrive at last: nothing is counted twice.
    recon.deliver(payment)
    assert recon.liability(payer.agent) == 0
    assert recon.statuses(payer) == ["SETTLED", "SETTLED"]


def test_a_slash_settlement_in_the_window_and_a_sweep(recon: Recon, donated: int) -> None:
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()
    first, second = recon.chain.payer(agent, LEXICON), recon.chain.payer(agent, ATLAS)
    recon.deliver(first.pay(3_000_000))

    reporter = slash(recon, first, second)
    applied = recon.sync()

    assert applied.slashed == [BondMoved(agent.pubkey, BOND)]
    assert recon.bond(agent) == 0
    assert kinds(chart.forfeited(agent.pubkey, recon.mint)) == [("slash", BOND)]
    assert_term_by_term(recon, donated)
    assert_repeating_posts_nothing(recon)

    # Vendors come first: recon pays what was served out of what was forfeited.
    assert len(recon.settle()) == 1
    recon.rest()
    assert recon.statuses(first) == ["SLASHED"]
    assert recon.liability(agent) == 0
    assert kinds(chart.forfeited(agent.pubkey, recon.mint)) == [("slash", BOND), ("settle", -3_000_000)]
    assert_term_by_term(recon, donated)

    pass_time(recon, 2 * TIMELOCK)
    sweep(recon, agent, reporter)
    applied = recon.sync()

    assert applied.swept == [BondMoved(agent.pubkey, BOND - 3_000_000)]
    assert balance(chart.forfeited(agent.pubkey, recon.mint)) == 0
    assert kinds(chart.swept(agent.pubkey, recon.mint)) == [("sweep", BOND - 3_000_000)]
    assert held(recon, wallet_of(recon, reporter.public)) == BOND * REPORTER_BPS // 10_000
    assert_term_by_term(recon, donated)
    assert_repeating_posts_nothing(recon)


def test_slash_and_sweep_that_nobody_watched_end_in_the_same_books(recon: Recon, donated: int) -> None:
    """Recon was away from the deposit on: one look at the accounts is enough."""
    agent = recon.chain.new_agent(bond_atomic=BOND)
    first, second = recon.chain.payer(agent, LEXICON), recon.chain.payer(agent, ATLAS)
    recon.settle_elsewhere(first, first.pay(2_000_000), up_to=2_000_000)
    withdraw(recon, agent, 8_000_000)
    reporter = slash(recon, first, second)
    recon.settle_elsewhere(second, second.pay(1_000_000), up_to=1_000_000)
    pass_time(recon, 2 * TIMELOCK)
    sweep(recon, agent, reporter)

    recon.sync()

    assert (recon.bond(agent), recon.liability(agent)) == (0, 0)
    assert balance(chart.withdrawn(agent.pubkey, recon.mint)) == 8_000_000
    assert balance(chart.swept(agent.pubkey, recon.mint)) == BOND - 11_000_000
    assert_term_by_term(recon, donated)
    assert_repeating_posts_nothing(recon)


def test_a_closed_payout_account_is_owed_until_it_is_distributed(recon: Recon, donated: int) -> None:
    vendor, gateway, payout = new_vendor(recon)
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()
    network = recon.chain.network
    payer = Payer(agent, gateway, vendor.public, network.channel(agent.public, gateway.public))
    close(recon, payout, vendor)
    recon.deliver(payer.pay(9_000))

    assert len(recon.settle()) == 1
    recon.rest()

    owed = chart.owed(vendor.pubkey, gateway.pubkey, recon.mint)
    assert recon.statuses(payer) == ["SETTLED"]
    assert (recon.bond(agent), recon.settled(payer), balance(owed)) == (BOND - 9_000, 0, 9_000)
    assert recon.channel(payer).owed_atomic == 9_000
    assert_term_by_term(recon, donated)
    assert_repeating_posts_nothing(recon)

    assert wallet_of(recon, vendor.public) == payout
    step = build.distribute(network, vendor=vendor.public, payout=payout, channels=[payer.channel])
    send(recon, step)
    applied = recon.sync()

    assert applied.settled == []
    assert applied.distributed == [DistributionSeen(str(payer.channel), gateway.pubkey, vendor.pubkey, 9_000)]
    assert held(recon, payout) == 9_000
    assert (recon.settled(payer), balance(owed)) == (9_000, 0)
    assert kinds(owed) == [("settle", 9_000), ("distribute", -9_000)]
    assert_term_by_term(recon, donated)
    assert_repeating_posts_nothing(recon)


@pytest.mark.parametrize("watched", [True, False], ids=["seen apart", "seen at once"])
def test_aggregated_settlement_is_owed_and_then_distributed(
    recon: Recon, donated: int, watched: bool
) -> None:
    (payer,) = recon.payers(1, LEXICON)
    first = payer.pay(1_000)
    recon.deliver(first, payer.pay(2_000))
    recon.settle_elsewhere(payer, first, up_to=1_000)
    recon.catch_up()
    settled_before = recon.settled(payer)
    network = recon.chain.network
    relayer = recon.chain.keys.get("relayer")
    aggregate = Aggregate.of(
        network.domain, network.mint, payer.agent.public, [ChannelTotal(payer.channel, 3_000)]
    )
    steps = build.settle_aggregated(
        network, relayer=relayer.public, aggregate=aggregate, signature=aggregate.sign(payer.agent)
    )
    send(recon, *steps, signers=(relayer,))
    owed = chart.owed(str(payer.vendor), payer.gateway.pubkey, recon.mint)
    if watched:
        recon.sync()
        assert (balance(owed), recon.settled(payer)) == (2_000, settled_before)
        assert recon.statuses(payer) == ["SETTLED", "SETTLED"]
        assert_term_by_term(recon, donated)

    payout = tokens.associated_token_address(payer.vendor, network.mint)
    send(recon, build.distribute(network, vendor=payer.vendor, payout=payout, channels=[payer.channel]))
    recon.sync()

    assert (balance(owed), recon.settled(payer)) == (0, settled_before + 2_000)
    assert recon.bond(payer.agent) == BOND - 3_000
    assert recon.liability(payer.agent) == 0
    assert_term_by_term(recon, donated)
    assert_repeating_posts_nothing(recon)
