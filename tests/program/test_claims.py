"""claim_cumulative and execute_claim: the way out that needs no relayer, and how slow it is."""

import struct

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import instructions as build
from machpay.chain.ed25519 import ED25519_PROGRAM_ID, attest
from machpay.chain.network import Network
from machpay.protocol.intents import Voucher, voucher_message
from tests.program.moves import (
    CLAIM_DELAY,
    DAMAGES,
    TIMELOCK,
    U64_MAX,
    account_of,
    assert_balanced,
    channel_of,
    claim,
    claim_ixs,
    damage,
    execute,
    execute_ix,
    open_claim,
    with_account,
)
from tests.program.test_events import keys, name
from tests.program.world import CONTEXT, NOW, USDC, Done, Refused, Vendor, World, done, refused

REVOKED, VENDOR_MINT, BOND_OFFSET = 10, 48, 112
CLAIMANT, PAYER, BOND, CHANNEL, AGENT, GATEWAY, VENDOR, SYSVAR, SYSTEM = range(9)
X_BOND, X_VAULT, X_VENDOR, X_PAYOUT, X_CHANNEL, X_AGENT, X_TOKEN = range(7)


class Scene:
    """One vendor, one agent with a bond of 1, a channel on which 100 are settled."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.vendor: Vendor = world.vendor()
        self.agent = world.agent(USDC)
        done(world.settle(self.vendor, world.item(self.agent, self.vendor.gateway, 100)))

    def claim(self, cumulative: int, *, by: Keypair | None = None) -> Done | Refused:
        return claim(self.world, self.agent, self.vendor, cumulative, by=by)

    def execute(self) -> Done | Refused:
        return execute(self.world, self.agent, self.vendor)

    def settle(self, cumulative: int) -> Done | Refused:
        item = self.world.item(self.agent, self.vendor.gateway, cumulative, create=False)
        return self.world.settle(self.vendor, item)

    def pending(self) -> tuple[int, int]:
        return open_claim(self.world, self.agent, self.vendor)

    def open_claims(self) -> int:
        return account_of(self.world, self.agent).open_claims

    def paid(self) -> int:
        return self.world.tokens(self.vendor.payout)

    def try_claim(self, *ixs: Instruction, by: Keypair | None = None) -> Done | Refused:
        with self.world.nothing_moves():
            return self.world.send(*ixs, signers=(self.world.payer, by or self.vendor.gateway))


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


# ---- claiming


@pytest.mark.parametrize("who", ["authority", "gateway"])
def test_vendor_and_gateway_may_claim_and_nothing_is_paid_yet(scene: Scene, who: str) -> None:
    vault = scene.world.vault()
    (event,) = done(scene.claim(400, by=getattr(scene.vendor, who))).events
    assert scene.pending() == (400, NOW + CLAIM_DELAY)
    assert (scene.open_claims(), scene.paid(), scene.world.vault()) == (300, 100, vault)
    assert scene.world.bond_of(scene.agent) == USDC - 100
    channel = scene.world.network.channel(scene.agent.pubkey(), scene.vendor.gateway.pubkey())
    assert event == name("ClaimRequested") + keys(
        channel, scene.world.network.mint, scene.agent, scene.vendor.gateway, scene.vendor.key
    ) + struct.pack("<QQq", 400, 300, NOW + CLAIM_DELAY)
    assert_balanced(scene.world)


def test_the_first_claim_creates_the_channel_at_the_payers_cost(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(USDC)
    ahead = 1_000_000  # lamports that a stranger sent to the address before
    world.svm.airdrop(world.network.channel(agent.pubkey(), vendor.gateway.pubkey()), ahead)
    before = world.svm.get_balance(world.payer.pubkey())
    opened, requested = done(claim(world, agent, vendor, 700)).events
    assert (opened[:8], requested[:8]) == (name("ChannelOpened"), name("ClaimRequested"))
    rent = world.svm.minimum_balance_for_rent_exemption(208) - ahead
    assert before is not None
    assert world.svm.get_balance(world.payer.pubkey()) == before - rent - 3 * 5_000
    channel = channel_of(world, agent, vendor)
    assert (channel.vendor, channel.settled, channel.claim_cumulative) == (vendor.key, 0, 700)
    world.wait(CLAIM_DELAY)
    done(execute(world, agent, vendor))
    assert world.tokens(vendor.payout) == 700
    assert_balanced(world)


@pytest.mark.parametrize("cumulative", [0, 99, 100])
def test_a_voucher_not_above_the_watermark_is_refused(scene: Scene, cumulative: int) -> None:
    with scene.world.nothing_moves():
        refused(scene.claim(cumulative), "NonceReplay")


def test_one_above_the_watermark_is_accepted(scene: Scene) -> None:
    done(scene.claim(101))
    assert (scene.pending()[0], scene.open_claims()) == (101, 1)


@pytest.mark.parametrize("cumulative", [399, 400])
def test_a_voucher_not_above_the_pending_claim_is_refused(scene: Scene, cumulative: int) -> None:
    done(scene.claim(400))
    scene.world.wait(10)
    with scene.world.nothing_moves():
        refused(scene.claim(cumulative), "NonceReplay")


def test_a_claim_raised_one_second_before_it_unlocks_waits_the_whole_delay_again(scene: Scene) -> None:
    done(scene.claim(400))
    scene.world.wait(CLAIM_DELAY - 1)
    done(scene.claim(401))
    assert scene.pending() == (401, NOW + 2 * CLAIM_DELAY - 1)
    assert scene.open_claims() == 301
    scene.world.wait(1)
    with scene.world.nothing_moves():
        refused(scene.execute(), "ClaimLocked")
    scene.world.wait(CLAIM_DELAY - 1)
    done(scene.execute())
    assert scene.paid() == 401


def test_an_unlocked_claim_that_is_raised_is_locked_again(scene: Scene) -> None:
    done(scene.claim(400))
    scene.world.wait(CLAIM_DELAY)
    done(scene.claim(500))
    with scene.world.nothing_moves():
        refused(scene.execute(), "ClaimLocked")


def test_a_revoked_gateway_claims_no_more_but_its_vendor_does(scene: Scene) -> None:
    scene.world.patch(scene.world.network.gateway_account(scene.vendor.gateway.pubkey()), REVOKED, b"\1")
    with scene.world.nothing_moves():
        refused(scene.claim(400), "NotClaimant")
    done(scene.claim(400, by=scene.vendor.authority))
    scene.world.wait(CLAIM_DELAY)
    done(scene.execute())
    assert scene.paid() == 400


def test_nobody_else_may_claim(scene: Scene) -> None:
    other = scene.world.vendor()
    for key in (scene.agent, other.authority, other.gateway, scene.world.relayer, scene.world.admin):
        with scene.world.nothing_moves():
            refused(scene.claim(400, by=key), "NotClaimant")


def test_the_claimant_must_sign(scene: Scene) -> None:
    check, ix = claim_ixs(scene.world, scene.agent, scene.vendor, 400)
    accounts = list(ix.accounts)
    accounts[CLAIMANT] = AccountMeta(accounts[CLAIMANT].pubkey, False, False)
    unsigned = Instruction(ix.program_id, bytes(ix.data), accounts)
    with scene.world.nothing_moves():
        refused(scene.world.send(check, unsigned), "MissingSignature")


def test_the_gateway_account_must_be_the_channels(scene: Scene) -> None:
    """A gateway of the same vendor that is not revoked must not vouch for the one that is."""
    second = Keypair()
    done(scene.world.register_gateway(scene.vendor.authority, second))
    check, ix = claim_ixs(scene.world, scene.agent, scene.vendor, 400)
    other = with_account(ix, GATEWAY, scene.world.network.gateway_account(second.pubkey()))
    refused(scene.try_claim(check, other), "WrongAddress")


@pytest.mark.parametrize(
    ("index", "what", "error"),
    [
        (BOND, "agent", "WrongAccountKind"),
        (CHANNEL, "other channel", "InvalidSignature"),
        (AGENT, "other agent", "WrongAgent"),
        (AGENT, "bond", "WrongAccountKind"),
        (AGENT, "stranger", "WrongAccountOwner"),
        (GATEWAY, "bond", "WrongAccountKind"),
        (GATEWAY, "stranger", "WrongAccountOwner"),
        (VENDOR, "other vendor", "WrongVendor"),
        (VENDOR, "bond", "WrongAccountKind"),
        (SYSVAR, "stranger", "WrongAddress"),
        (SYSTEM, "stranger", "WrongProgram"),
        (SYSTEM + 2, "stranger", "WrongProgram"),
    ],
)
def test_every_account_of_a_claim_is_checked(scene: Scene, index: int, what: str, error: str) -> None:
    other = scene.world.agent(USDC)
    done(scene.world.settle(scene.vendor, scene.world.item(other, scene.vendor.gateway, 1)))
    network = scene.world.network
    address = {
        "agent": network.agent_account(scene.agent.pubkey()),
        "other channel": network.channel(other.pubkey(), scene.vendor.gateway.pubkey()),
        "other agent": network.agent_account(other.pubkey()),
        "other vendor": network.vendor_account(scene.world.vendor().key),
        "bond": network.bond(),
        "stranger": other.pubkey(),
    }[what]
    check, ix = claim_ixs(scene.world, scene.agent, scene.vendor, 400)
    refused(scene.try_claim(check, with_account(ix, index, address)), error)


def test_a_vendor_that_is_paid_in_another_mint_cannot_claim(world: World) -> None:
    """It could never execute the claim, and a slashed agent could lock up the treasury's part with it."""
    vendor, agent = world.vendor(), world.agent(USDC)
    world.patch(world.network.vendor_account(vendor.key), VENDOR_MINT, bytes(world.new_mint()))
    with world.nothing_moves():
        refused(claim(world, agent, vendor, 700), "WrongMint")


def test_a_claim_takes_no_arguments_and_no_further_accounts(scene: Scene) -> None:
    check, ix = claim_ixs(scene.world, scene.agent, scene.vendor, 400)
    longer = Instruction(ix.program_id, bytes(ix.data) + b"\0", ix.accounts)
    refused(scene.try_claim(check, longer), "InvalidInstructionData")
    more = Instruction(ix.program_id, bytes(ix.data), [*ix.accounts, ix.accounts[0]])
    refused(scene.try_claim(check, more), "WrongAccountCount")


def test_an_agent_without_a_bond_cannot_be_claimed_on(world: World) -> None:
    vendor, agent = world.vendor(), world.agent()
    with world.nothing_moves():
        refused(claim(world, agent, vendor, 700), "WrongAccountOwner")


def test_a_channel_cannot_be_opened_elsewhere_than_at_its_address(world: World) -> None:
    """A voucher for an address the agent made up: the channel's own seeds decide."""
    vendor, agent, made_up = world.vendor(), world.agent(USDC), Keypair().pubkey()
    message = voucher_message(made_up, 500, CONTEXT)
    voucher = Voucher(made_up, 500, CONTEXT, bytes(agent.sign_message(message)))
    _, ix = claim_ixs(world, agent, vendor, 500)
    with world.nothing_moves():
        outcome = world.send(
            attest([(agent.pubkey(), voucher)]),
            with_account(ix, CHANNEL, made_up),
            signers=(world.payer, vendor.gateway),
        )
        refused(outcome, "WrongAddress")


# ---- signatures


def test_without_the_agents_signature_there_is_no_claim(scene: Scene) -> None:
    check, ix = claim_ixs(scene.world, scene.agent, scene.vendor, 400)
    refused(scene.try_claim(ix), "InvalidSignature")
    refused(scene.try_claim(ix, check), "InvalidSignature")
    between = attest([(scene.agent.pubkey(), scene.world.voucher(scene.agent, Pubkey.default(), 400))])
    refused(scene.try_claim(check, between, ix), "InvalidSignature")


def test_the_vendors_own_signature_is_not_the_agents(scene: Scene) -> None:
    _, ix = claim_ixs(scene.world, scene.agent, scene.vendor, 400)
    channel = scene.world.network.channel(scene.agent.pubkey(), scene.vendor.gateway.pubkey())
    forger = scene.vendor.gateway
    message = voucher_message(channel, 400, CONTEXT)
    forged = attest([(forger.pubkey(), Voucher(channel, 400, CONTEXT, bytes(forger.sign_message(message))))])
    refused(scene.try_claim(forged, ix), "InvalidSignature")


def test_two_vouchers_in_one_check_are_refused(scene: Scene) -> None:
    _, ix = claim_ixs(scene.world, scene.agent, scene.vendor, 400)
    voucher = scene.world.voucher(scene.agent, scene.vendor.gateway.pubkey(), 400)
    refused(scene.try_claim(attest([(scene.agent.pubkey(), voucher)] * 2), ix), "InvalidSignature")


@pytest.mark.parametrize("field", [1, 3, 6], ids=["signature", "key", "message"])
def test_a_check_that_points_into_another_instruction_is_refused(scene: Scene, field: int) -> None:
    check, ix = claim_ixs(scene.world, scene.agent, scene.vendor, 400)
    data = bytearray(bytes(check.data))
    struct.pack_into("<H", data, 2 + 2 * field, 0)
    refused(scene.try_claim(check, Instruction(ED25519_PROGRAM_ID, bytes(data), []), ix), "InvalidSignature")


@pytest.mark.parametrize("what", ["program", "mint", "domain"])
def test_a_voucher_of_another_network_cannot_be_claimed(scene: Scene, what: str) -> None:
    network, other = scene.world.network, Keypair().pubkey()
    elsewhere = {
        "program": Network(other, network.mint, network.domain),
        "mint": Network(network.program_id, other, network.domain),
        "domain": Network(network.program_id, network.mint, type(network.domain)(bytes(other))),
    }[what]
    channel = elsewhere.channel(scene.agent.pubkey(), scene.vendor.gateway.pubkey())
    signature = bytes(scene.agent.sign_message(voucher_message(channel, 400, CONTEXT)))
    _, ix = claim_ixs(scene.world, scene.agent, scene.vendor, 400)
    check = attest([(scene.agent.pubkey(), Voucher(channel, 400, CONTEXT, signature))])
    refused(scene.try_claim(check, ix), "InvalidSignature")


def test_the_builder_refuses_a_voucher_of_another_channel(scene: Scene) -> None:
    other = scene.world.vendor()
    voucher = scene.world.voucher(scene.agent, other.gateway.pubkey(), 400)
    with pytest.raises(ValueError, match="another channel"):
        claim_ixs(scene.world, scene.agent, scene.vendor, 400, voucher=voucher)


# ---- executing


def test_one_second_before_the_delay_is_over_execution_is_refused(scene: Scene) -> None:
    done(scene.claim(400))
    scene.world.wait(CLAIM_DELAY - 1)
    with scene.world.nothing_moves():
        refused(scene.execute(), "ClaimLocked")


def test_once_the_delay_is_over_anybody_executes(scene: Scene) -> None:
    done(scene.claim(400))
    scene.world.wait(CLAIM_DELAY)
    stranger = scene.world.agent()
    ix = execute_ix(scene.world, scene.agent, scene.vendor)
    (event,) = done(scene.world.send(ix, signers=(stranger,))).events
    assert (scene.paid(), scene.pending(), scene.open_claims()) == (400, (0, 0), 0)
    account = account_of(scene.world, scene.agent)
    assert (account.bond, account.paid_total) == (USDC - 400, 400)
    channel = scene.world.network.channel(scene.agent.pubkey(), scene.vendor.gateway.pubkey())
    mint, vendor = scene.world.network.mint, scene.vendor
    expected = keys(channel, mint, scene.agent, vendor.gateway, vendor.key, vendor.payout)
    assert event == name("ClaimExecuted") + expected + struct.pack("<QQ?", 300, 400, False)
    assert_balanced(scene.world)


def test_a_claim_is_executed_once(scene: Scene) -> None:
    done(scene.claim(400))
    scene.world.wait(CLAIM_DELAY)
    done(scene.execute())
    with scene.world.nothing_moves():
        refused(scene.execute(), "NoClaimPending")
        refused(scene.claim(400), "NonceReplay")


def test_without_a_claim_there_is_nothing_to_execute(scene: Scene) -> None:
    with scene.world.nothing_moves():
        refused(scene.execute(), "NoClaimPending")


def test_a_changed_claim_delay_does_not_move_a_pending_claim(scene: Scene) -> None:
    done(scene.claim(400))
    scene.world.patch(scene.world.network.bond(), 256, struct.pack("<q", 1))
    with scene.world.nothing_moves():
        refused(scene.execute(), "ClaimLocked")
    assert scene.pending() == (400, NOW + CLAIM_DELAY)


def test_what_the_bond_does_not_cover_stays_open_until_a_deposit(scene: Scene) -> None:
    done(scene.claim(USDC + 50))
    scene.world.wait(CLAIM_DELAY)
    shortfall, executed = done(scene.execute()).events
    assert shortfall[:8] == name("Shortfall")
    assert shortfall[-16:] == struct.pack("<QQ", 50, USDC)
    assert executed[-17:] == struct.pack("<QQ?", USDC - 100, USDC, False)
    assert (scene.paid(), scene.open_claims()) == (USDC, 50)
    assert scene.pending() == (USDC + 50, NOW + CLAIM_DELAY)
    with scene.world.nothing_moves():
        refused(scene.execute(), "InsufficientBond")
    done(scene.world.deposit(scene.agent, 30))
    done(scene.execute())
    done(scene.world.deposit(scene.agent, 100))
    done(scene.execute())
    assert (scene.paid(), scene.open_claims(), scene.pending()) == (USDC + 50, 0, (0, 0))
    assert scene.world.bond_of(scene.agent) == 80
    assert_balanced(scene.world)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_payout_account_that_cannot_receive_gets_it_owed(scene: Scene, how: str) -> None:
    done(scene.claim(400))
    scene.world.wait(CLAIM_DELAY)
    damage(scene.world, scene.vendor.payout, scene.vendor.key, how)
    before = scene.world.svm.get_account(scene.vendor.payout)
    (event,) = done(scene.execute()).events
    assert event[-1:] == b"\1"
    channel = channel_of(scene.world, scene.agent, scene.vendor)
    assert (channel.settled, channel.owed, channel.claim_cumulative) == (400, 300, 0)
    assert scene.world.svm.get_account(scene.vendor.payout) == before
    assert_balanced(scene.world)


@pytest.mark.parametrize(
    ("index", "what", "error"),
    [
        (X_BOND, "agent account", "WrongAccountKind"),
        (X_VAULT, "foreign tokens", "WrongAddress"),
        (X_VENDOR, "other vendor", "WrongAddress"),
        (X_VENDOR, "bond", "WrongAccountKind"),
        (X_PAYOUT, "foreign tokens", "WrongAddress"),
        (X_CHANNEL, "agent account", "WrongAccountKind"),
        (X_CHANNEL, "missing", "WrongAccountOwner"),
        (X_AGENT, "other agent", "WrongAgent"),
        (X_TOKEN, "missing", "WrongProgram"),
    ],
)
def test_every_account_of_an_execution_is_checked(scene: Scene, index: int, what: str, error: str) -> None:
    done(scene.claim(400))
    scene.world.wait(CLAIM_DELAY)
    network = scene.world.network
    addresses = {
        "agent account": network.agent_account(scene.agent.pubkey()),
        "other agent": network.agent_account(scene.world.agent(USDC).pubkey()),
        "other vendor": network.vendor_account(scene.world.vendor().key),
        "foreign tokens": scene.world.token_account(network.bond(), USDC),
        "bond": network.bond(),
        "missing": Keypair().pubkey(),
    }
    ix = with_account(execute_ix(scene.world, scene.agent, scene.vendor), index, addresses[what])
    with scene.world.nothing_moves():
        refused(scene.world.send(ix), error)


def test_another_vendor_cannot_collect_the_claim(scene: Scene) -> None:
    done(scene.claim(400))
    scene.world.wait(CLAIM_DELAY)
    thief = scene.world.vendor()
    ix = execute_ix(scene.world, scene.agent, scene.vendor)
    ix = with_account(ix, X_VENDOR, scene.world.network.vendor_account(thief.key))
    ix = with_account(ix, X_PAYOUT, thief.payout)
    with scene.world.nothing_moves():
        refused(scene.world.send(ix), "WrongVendor")


# ---- claims against settlement and withdrawal


@pytest.mark.parametrize(
    ("settled", "claim_left", "open_left"), [(250, 400, 150), (399, 400, 1), (400, 0, 0), (450, 0, 0)]
)
def test_settlement_meanwhile_is_not_paid_again(
    scene: Scene, settled: int, claim_left: int, open_left: int
) -> None:
    done(scene.claim(400))
    done(scene.settle(settled))
    assert (scene.pending()[0], scene.open_claims()) == (claim_left, open_left)
    scene.world.wait(CLAIM_DELAY)
    if open_left:
        done(scene.execute())
    else:
        refused(scene.execute(), "NoClaimPending")
    assert scene.paid() == max(settled, 400)
    assert_balanced(scene.world)


def test_a_higher_claim_after_a_partial_settlement_counts_the_rest_only(scene: Scene) -> None:
    done(scene.claim(400))
    done(scene.settle(250))
    done(scene.claim(600))
    assert scene.open_claims() == 350
    assert_balanced(scene.world)


def test_settlement_after_the_execution_pays_only_what_is_above(scene: Scene) -> None:
    done(scene.claim(400))
    scene.world.wait(CLAIM_DELAY)
    done(scene.execute())
    done(scene.settle(420))
    assert scene.paid() == 420


def test_a_withdrawal_leaves_what_claims_ask_for(scene: Scene) -> None:
    """Requested before the claim: the claim still gets its money, because the withdrawal leaves it."""
    wallet = scene.world.token_account(scene.agent.pubkey())
    done(scene.world.request_withdrawal(scene.agent, USDC - 100))
    scene.world.wait(TIMELOCK - 1)
    done(scene.claim(700_000))
    scene.world.wait(1)
    with scene.world.nothing_moves():
        refused(scene.world.withdraw(scene.agent, wallet), "InsufficientBond")
    scene.world.wait(CLAIM_DELAY)
    done(scene.execute())
    assert scene.paid() == 700_000
    done(scene.world.withdraw(scene.agent, wallet))
    assert (scene.world.tokens(wallet), scene.world.bond_of(scene.agent)) == (300_000, 0)
    assert_balanced(scene.world)


def test_claims_of_two_vendors_add_up_and_the_first_executed_is_served_first(scene: Scene) -> None:
    other = scene.world.vendor()
    done(scene.claim(600_100))
    done(claim(scene.world, scene.agent, other, 700_000))
    assert scene.open_claims() == 1_300_000
    scene.world.wait(CLAIM_DELAY)
    done(execute(scene.world, scene.agent, other))
    done(scene.execute())
    assert (scene.world.tokens(other.payout), scene.paid()) == (700_000, 299_900 + 100)
    assert scene.open_claims() == 300_100
    assert_balanced(scene.world)


# ---- an agent against everybody else


def test_an_agents_own_vendor_is_paid_no_sooner_than_the_delay(world: World) -> None:
    """Self-dealing: without the relayer the only way is the slow one, and it can be seen coming."""
    agent = world.agent(USDC)
    own = world.vendor()
    items = [world.item(agent, own.gateway, USDC)]
    settle = build.settle_cumulative(
        world.network, relayer=agent.pubkey(), vendor=own.key, payout=own.payout, channels=items
    )
    with world.nothing_moves():
        refused(world.send(*settle, signers=(agent,)), "NotRelayer")
    done(claim(world, agent, own, USDC))
    with world.nothing_moves():
        refused(execute(world, agent, own), "ClaimLocked")
    honest = world.vendor()
    done(world.settle(honest, world.item(agent, honest.gateway, 900_000)))
    world.wait(CLAIM_DELAY)
    done(execute(world, agent, own))
    assert (world.tokens(honest.payout), world.tokens(own.payout)) == (900_000, 100_000)


def test_signing_more_than_exists_does_not_keep_another_vendor_from_claiming(world: World) -> None:
    agent, first, second, honest = world.agent(USDC), world.vendor(), world.vendor(), world.vendor()
    done(claim(world, agent, first, U64_MAX))
    done(claim(world, agent, second, U64_MAX))
    done(claim(world, agent, honest, 5_000))
    assert account_of(world, agent).open_claims == U64_MAX
    done(world.settle(first, world.item(agent, first.gateway, 10, create=False)))
    assert account_of(world, agent).open_claims == U64_MAX
    world.wait(CLAIM_DELAY)
    done(execute(world, agent, honest))
    assert world.tokens(honest.payout) == 5_000
    assert account_of(world, agent).open_claims == U64_MAX


def test_a_claim_of_the_largest_amount_is_counted_and_paid(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(USDC)
    world.patch(world.network.agent_account(agent.pubkey()), BOND_OFFSET, struct.pack("<Q", U64_MAX))
    world.token_account(world.network.bond(), U64_MAX, at=world.network.vault())
    done(claim(world, agent, vendor, U64_MAX - 1))
    assert account_of(world, agent).open_claims == U64_MAX - 1
    world.wait(CLAIM_DELAY)
    done(execute(world, agent, vendor))
    assert (world.tokens(vendor.payout), account_of(world, agent).open_claims) == (U64_MAX - 1, 0)
