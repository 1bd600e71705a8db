"""slash_equivocation and sweep_forfeited: what proves a double signature, and in which order everybody is paid."""

import struct
from dataclasses import replace
from uuid import UUID

import pytest
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import instructions as build
from machpay.chain.ed25519 import ED25519_PROGRAM_ID, attest
from machpay.chain.network import Network
from machpay.protocol.intents import PaymentIntent, Voucher
from machpay.protocol.nonces import new_nonce
from tests.program.moves import (
    CLAIM_DELAY,
    DAMAGES,
    TIMELOCK,
    U64_MAX,
    WINDOW,
    account_of,
    aggregate_ixs,
    assert_balanced,
    claim,
    damage,
    execute,
    open_channels,
    proof,
    signed_intent,
    slash,
    sweep,
    with_account,
)
from tests.program.test_events import keys, name
from tests.program.world import NOW, USDC, Done, Refused, Vendor, World, done, refused

BOND_OFFSET, TREASURY_OFFSET = 112, 176
REPORTER, BOND, AGENT, SYSVAR, EVENTS, PROGRAM = range(6)
S_BOND, S_VAULT, S_AGENT, S_REPORTER, S_TREASURY, S_TOKEN = range(6)
# Of the proof's data: discriminator 8, nonce 16, then gateway 32, amount 8, deadline 8, request hash 32, twice.
NONCE, FIRST, SECOND, TERMS = 8, 24, 104, 32


class Scene:
    """An agent with a bond of 1, two vendors, a reporter, and token accounts for reporter and treasury."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.agent, self.reporter = world.agent(USDC), Keypair()
        self.first: Vendor = world.vendor()
        self.second: Vendor = world.vendor()
        self.to_reporter = world.token_account(self.reporter.pubkey())
        self.to_treasury = world.token_account(world.treasury.pubkey())
        self.nonce = new_nonce(world.now * 1000)

    def half(self, vendor: Vendor, **changes: object) -> build.SignedIntent:
        arguments = {"nonce": self.nonce, **changes}
        agent = arguments.pop("agent", self.agent)
        return signed_intent(self.world, agent, vendor.gateway.pubkey(), **arguments)  # type: ignore[arg-type]

    def genuine(self) -> list[Instruction]:
        return build.slash_equivocation(
            self.world.network,
            reporter=self.reporter.pubkey(),
            agent=self.agent.pubkey(),
            first=self.half(self.first),
            second=self.half(self.second),
        )

    def send(self, *ixs: Instruction) -> Done | Refused:
        return self.world.send(*ixs, signers=(self.world.payer, self.reporter))

    def refuses(self, error: str, *ixs: Instruction) -> None:
        with self.world.nothing_moves():
            refused(self.send(*ixs), error)

    def slash(self) -> Done:
        return done(slash(self.world, self.agent, self.reporter))

    def sweep(self) -> Done | Refused:
        return sweep(self.world, self.agent, self.to_reporter, self.to_treasury)

    def settle(self, vendor: Vendor, cumulative: int) -> Done | Refused:
        return self.world.settle(vendor, self.world.item(self.agent, vendor.gateway, cumulative))

    def swept(self) -> tuple[int, int]:
        return self.world.tokens(self.to_reporter), self.world.tokens(self.to_treasury)


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


def attestation(*signed: tuple[Keypair | Pubkey, build.SignedIntent]) -> Instruction:
    """The signature check of these halves, whoever is said to have signed them."""
    return attest(
        [
            (key.pubkey() if isinstance(key, Keypair) else key, half.intent.voucher(half.signature))
            for key, half in signed
        ]
    )


def patched(ix: Instruction, offset: int, value: bytes) -> Instruction:
    data = bytearray(bytes(ix.data))
    data[offset : offset + len(value)] = value
    return Instruction(ix.program_id, bytes(data), ix.accounts)


# ---- a genuine proof


def test_a_genuine_proof_forfeits_the_bond_and_pays_nobody_yet(scene: Scene) -> None:
    vault = scene.world.vault()
    (event,) = done(scene.send(*scene.genuine())).events
    account = account_of(scene.world, scene.agent)
    assert (account.slashed, account.bond, account.forfeited) == (True, 0, USDC)
    assert (account.reporter, account.reporter_set_aside) == (scene.reporter.pubkey(), USDC // 10)
    assert account.window_end == NOW + WINDOW
    assert scene.world.vault() == vault
    expected = keys(
        scene.world.network.mint, scene.agent, scene.reporter, scene.first.gateway, scene.second.gateway
    )
    assert event == name("AgentSlashed") + expected + struct.pack("<QQq", USDC, USDC // 10, NOW + WINDOW)
    assert_balanced(scene.world)


def test_gateways_of_one_vendor_are_two_channels(scene: Scene) -> None:
    second = Keypair()
    done(scene.world.register_gateway(scene.first.authority, second))
    ixs = proof(scene.world, scene.agent, scene.first.gateway.pubkey(), second.pubkey(), scene.reporter)
    done(scene.send(*ixs))
    assert account_of(scene.world, scene.agent).slashed


def test_a_pending_withdrawal_is_cancelled_and_no_other_accepted(scene: Scene) -> None:
    wallet = scene.world.token_account(scene.agent.pubkey())
    done(scene.world.request_withdrawal(scene.agent, USDC))
    scene.slash()
    account = account_of(scene.world, scene.agent)
    assert (account.pending_withdrawal, account.withdrawal_unlock) == (0, 0)
    scene.world.wait(WINDOW)
    with scene.world.nothing_moves():
        refused(scene.world.withdraw(scene.agent, wallet), "AgentSlashed")
        refused(scene.world.request_withdrawal(scene.agent, 1), "AgentSlashed")


def test_a_slashed_agent_takes_no_deposits(scene: Scene) -> None:
    scene.slash()
    before = account_of(scene.world, scene.agent)
    refused(scene.world.deposit(scene.agent, 5), "AgentSlashed")
    assert account_of(scene.world, scene.agent) == before


def test_an_agent_is_slashed_once_and_the_first_reporter_stays(scene: Scene) -> None:
    scene.slash()
    rival = Keypair()
    with scene.world.nothing_moves():
        refused(slash(scene.world, scene.agent, rival), "AgentSlashed")


def test_an_empty_bond_can_be_slashed_too(scene: Scene) -> None:
    done(scene.settle(scene.first, USDC))
    scene.slash()
    account = account_of(scene.world, scene.agent)
    assert (account.slashed, account.forfeited, account.reporter_set_aside) == (True, 0, 0)
    refused(scene.world.deposit(scene.agent, USDC), "AgentSlashed")


@pytest.mark.parametrize(
    ("bond", "bps", "set_aside"),
    [
        (9, 1_000, 0),
        (10, 1_000, 1),
        (19_999, 1, 1),
        (20_000, 1, 2),
        (USDC, 0, 0),
        (U64_MAX, 5_000, U64_MAX // 2),
        (U64_MAX, 4_999, U64_MAX * 4_999 // 10_000),
    ],
)
def test_the_reporters_share_is_rounded_down(scene: Scene, bond: int, bps: int, set_aside: int) -> None:
    scene.world.patch(scene.world.network.bond(), 14, struct.pack("<H", bps))
    address = scene.world.network.agent_account(scene.agent.pubkey())
    scene.world.patch(address, BOND_OFFSET, struct.pack("<Q", bond))
    scene.slash()
    account = account_of(scene.world, scene.agent)
    assert (account.forfeited, account.reporter_set_aside) == (bond, set_aside)


# ---- what proves nothing


def test_the_same_intent_twice_proves_nothing(scene: Scene) -> None:
    half = scene.half(scene.first)
    _, ix = scene.genuine()
    same = patched(ix, SECOND, bytes(ix.data)[FIRST : FIRST + 80])
    scene.refuses("SameChannel", attestation((scene.agent, half), (scene.agent, half)), same)


def test_two_intents_on_one_channel_prove_nothing(scene: Scene) -> None:
    """A retry with a higher total under the same nonce: foolish, but nobody else was promised the money."""
    halves = [scene.half(scene.first), scene.half(scene.first, cumulative=2_000)]
    _, ix = scene.genuine()
    same = patched(ix, SECOND, bytes(ix.data)[FIRST : FIRST + 80])
    scene.refuses("SameChannel", attestation(*((scene.agent, half) for half in halves)), same)


def test_one_channel_under_two_gateways_names_proves_nothing(scene: Scene) -> None:
    halves = [scene.half(scene.first), scene.half(scene.first, cumulative=2_000)]
    _, ix = scene.genuine()
    scene.refuses("WrongPreimage", attestation(*((scene.agent, half) for half in halves)), ix)


def test_two_nonces_prove_nothing(scene: Scene) -> None:
    _, ix = scene.genuine()
    other = scene.half(scene.second, nonce=UUID(int=scene.nonce.int ^ 1))
    check = attestation((scene.agent, scene.half(scene.first)), (scene.agent, other))
    scene.refuses("WrongPreimage", check, ix)


def test_two_agents_prove_nothing(scene: Scene) -> None:
    other = scene.world.agent(USDC)
    _, ix = scene.genuine()
    half = scene.half(scene.second, agent=other)
    scene.refuses("InvalidSignature", attestation((scene.agent, scene.half(scene.first)), (other, half)), ix)
    half = scene.half(scene.first, agent=other)
    scene.refuses("InvalidSignature", attestation((other, half), (scene.agent, scene.half(scene.second))), ix)


def test_another_agent_cannot_be_blamed(scene: Scene) -> None:
    """A genuine proof against one agent, pointed at another one's account."""
    victim = scene.world.agent(USDC)
    check, ix = scene.genuine()
    blamed = with_account(ix, AGENT, scene.world.network.agent_account(victim.pubkey()))
    scene.refuses("InvalidSignature", check, blamed)


def test_an_agents_voucher_for_anothers_channel_proves_nothing(scene: Scene) -> None:
    other = scene.world.agent(USDC)
    stray = scene.half(scene.second, agent=other)
    signed = replace(stray, signature=bytes(scene.agent.sign_message(stray.intent.message)))
    _, ix = scene.genuine()
    check = attestation((scene.agent, scene.half(scene.first)), (scene.agent, signed))
    scene.refuses("WrongPreimage", check, ix)


def test_a_forged_half_is_refused(scene: Scene) -> None:
    _, ix = scene.genuine()
    half = scene.half(scene.second)
    forged = replace(half, signature=bytes(scene.reporter.sign_message(half.intent.message)))
    with scene.world.nothing_moves():
        # The precompile itself refuses the agent's name under another key's signature ...
        outcome = scene.send(attestation((scene.agent, scene.half(scene.first)), (scene.agent, forged)), ix)
        assert isinstance(outcome, Refused)
        assert outcome.code is None or outcome.code < 0x100
    # ... and under its own name the reporter is not the agent.
    check = attestation((scene.agent, scene.half(scene.first)), (scene.reporter, forged))
    scene.refuses("InvalidSignature", check, ix)


@pytest.mark.parametrize("half", [FIRST, SECOND], ids=["first", "second"])
@pytest.mark.parametrize("field", [0, TERMS, TERMS + 8, TERMS + 16, TERMS + 47])
def test_every_field_of_a_preimage_must_be_right(scene: Scene, half: int, field: int) -> None:
    """Gateway, amount, deadline, first and last byte of the request hash."""
    check, ix = scene.genuine()
    changed = bytes([bytes(ix.data)[half + field] ^ 1])
    scene.refuses("WrongPreimage", check, patched(ix, half + field, changed))


@pytest.mark.parametrize("byte", [0, 15])
def test_the_nonce_must_be_the_one_of_both(scene: Scene, byte: int) -> None:
    check, ix = scene.genuine()
    changed = bytes([bytes(ix.data)[NONCE + byte] ^ 1])
    scene.refuses("WrongPreimage", check, patched(ix, NONCE + byte, changed))


@pytest.mark.parametrize("byte", [0, 1, 8, 15])
@pytest.mark.parametrize("half", [0, 1], ids=["first", "second"])
def test_every_byte_of_a_context_must_follow(scene: Scene, half: int, byte: int) -> None:
    """The agent signed a context that is one bit from the payment's: it signed another payment."""
    _, ix = scene.genuine()
    vouchers = []
    for index, vendor in enumerate((scene.first, scene.second)):
        context = bytearray(scene.half(vendor).intent.context)
        if index == half:
            context[byte] ^= 1
        voucher = scene.world.voucher(scene.agent, vendor.gateway.pubkey(), 1_000, bytes(context))
        vouchers.append((scene.agent.pubkey(), voucher))
    scene.refuses("WrongPreimage", attest(vouchers), ix)


def test_halves_in_another_order_than_their_preimages_are_refused(scene: Scene) -> None:
    _, ix = scene.genuine()
    check = attestation((scene.agent, scene.half(scene.second)), (scene.agent, scene.half(scene.first)))
    scene.refuses("WrongPreimage", check, ix)


@pytest.mark.parametrize("what", ["program", "mint", "domain"])
def test_a_half_from_another_network_proves_nothing(scene: Scene, what: str) -> None:
    """Signing the same nonce on a test cluster and here is no double promise of this bond."""
    network, other = scene.world.network, Keypair().pubkey()
    elsewhere = {
        "program": Network(other, network.mint, network.domain),
        "mint": Network(network.program_id, other, network.domain),
        "domain": Network(network.program_id, network.mint, Hash(bytes(other))),
    }[what]
    here = scene.half(scene.second)
    channel = elsewhere.channel(scene.agent.pubkey(), scene.second.gateway.pubkey())
    fields = (here.intent.cumulative, here.intent.nonce, here.intent.amount, here.intent.deadline)
    intent = PaymentIntent(channel, *fields, here.intent.request_hash)
    stray = replace(here, intent=intent, signature=bytes(scene.agent.sign_message(intent.message)))
    _, ix = scene.genuine()
    scene.refuses(
        "WrongPreimage", attestation((scene.agent, scene.half(scene.first)), (scene.agent, stray)), ix
    )


def test_aggregated_vouchers_prove_nothing(scene: Scene) -> None:
    """Two of them, signed by the agent: another size, so the check has not the form the proof needs."""
    open_channels(scene.world, scene.agent, scene.first, scene.second)
    check, _ = aggregate_ixs(scene.world, scene.agent, [(scene.first, 50)])
    _, ix = scene.genuine()
    scene.refuses("InvalidSignature", check, ix)
    block = bytes(check.data)[16:]
    rows = b"".join(
        struct.pack("<7H", key + 32, 0xFFFF, key, 0xFFFF, key + 96, 36, 0xFFFF)
        for key in (30, 30 + len(block))
    )
    two = Instruction(ED25519_PROGRAM_ID, b"\2\0" + rows + block + block, [])
    scene.refuses("InvalidSignature", two, ix)


def test_a_message_of_another_type_proves_nothing(scene: Scene) -> None:
    """Sixty bytes that the agent signed, with the prefix of an aggregate."""
    check, ix = scene.genuine()
    data = bytearray(bytes(check.data))
    start = 2 + 2 * 14 + 96
    message = b"MP\x01A" + bytes(data[start + 4 : start + 60])
    data[start : start + 60] = message
    data[start - 64 : start] = bytes(scene.agent.sign_message(message))
    scene.refuses("InvalidSignature", Instruction(ED25519_PROGRAM_ID, bytes(data), []), ix)


def test_one_signature_or_three_are_refused(scene: Scene) -> None:
    _, ix = scene.genuine()
    first, second = scene.half(scene.first), scene.half(scene.second)
    scene.refuses("InvalidSignature", ix)
    scene.refuses("InvalidSignature", attestation((scene.agent, first)), ix)
    three = attestation((scene.agent, first), (scene.agent, second), (scene.agent, second))
    scene.refuses("InvalidSignature", three, ix)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("field", [1, 3, 6], ids=["signature", "key", "message"])
def test_a_check_that_points_into_another_instruction_is_refused(scene: Scene, row: int, field: int) -> None:
    check, ix = scene.genuine()
    data = bytearray(bytes(check.data))
    struct.pack_into("<H", data, 2 + 14 * row + 2 * field, 0)
    scene.refuses("InvalidSignature", check, Instruction(ED25519_PROGRAM_ID, bytes(data), []), ix)


@pytest.mark.parametrize(
    ("index", "what", "error"),
    [
        (BOND, "agent account", "WrongAccountKind"),
        (AGENT, "bond", "WrongAccountKind"),
        (AGENT, "stranger", "WrongAccountOwner"),
        (SYSVAR, "stranger", "WrongAddress"),
        (PROGRAM, "stranger", "WrongProgram"),
    ],
)
def test_every_account_of_a_proof_is_checked(scene: Scene, index: int, what: str, error: str) -> None:
    check, ix = scene.genuine()
    address = {
        "agent account": scene.world.network.agent_account(scene.agent.pubkey()),
        "bond": scene.world.network.bond(),
        "stranger": scene.reporter.pubkey(),
    }[what]
    scene.refuses(error, check, with_account(ix, index, address))


def test_the_reporter_must_sign(scene: Scene) -> None:
    check, ix = scene.genuine()
    accounts = list(ix.accounts)
    accounts[REPORTER] = AccountMeta(accounts[REPORTER].pubkey, False, False)
    with scene.world.nothing_moves():
        outcome = scene.world.send(check, Instruction(ix.program_id, bytes(ix.data), accounts))
        refused(outcome, "MissingSignature")


@pytest.mark.parametrize("cut", [1, 80])
def test_arguments_of_another_length_are_refused(scene: Scene, cut: int) -> None:
    check, ix = scene.genuine()
    scene.refuses(
        "InvalidInstructionData", check, Instruction(ix.program_id, bytes(ix.data)[:-cut], ix.accounts)
    )
    longer = Instruction(ix.program_id, bytes(ix.data) + bytes(cut), ix.accounts)
    scene.refuses("InvalidInstructionData", check, longer)


def test_the_builder_refuses_what_is_no_equivocation(scene: Scene) -> None:
    first, second = scene.half(scene.first), scene.half(scene.second)
    cases = [
        (first, first, "one gateway"),
        (first, scene.half(scene.second, nonce=new_nonce()), "different nonces"),
        (first, replace(second, gateway=Keypair().pubkey()), "another channel"),
    ]
    for one, two, message in cases:
        with pytest.raises(ValueError, match=message):
            build.slash_equivocation(
                scene.world.network,
                reporter=scene.reporter.pubkey(),
                agent=scene.agent.pubkey(),
                first=one,
                second=two,
            )


# ---- the slashing window: vendors first


def test_in_the_window_the_relayer_settles_from_the_set_aside_too(scene: Scene) -> None:
    scene.slash()
    done(scene.settle(scene.first, 950_000))
    account = account_of(scene.world, scene.agent)
    assert (account.forfeited, account.reporter_set_aside) == (50_000, 50_000)
    done(scene.settle(scene.second, 80_000))
    account = account_of(scene.world, scene.agent)
    assert (account.forfeited, account.reporter_set_aside) == (0, 0)
    assert (scene.world.tokens(scene.first.payout), scene.world.tokens(scene.second.payout)) == (
        950_000,
        50_000,
    )
    scene.world.wait(WINDOW)
    with scene.world.nothing_moves():
        refused(scene.sweep(), "NothingToSweep")
    assert_balanced(scene.world)


def test_in_the_window_no_claim_is_executed_and_nothing_swept(scene: Scene) -> None:
    done(claim(scene.world, scene.agent, scene.first, 500_000))
    scene.world.wait(CLAIM_DELAY)
    scene.slash()
    scene.world.wait(WINDOW - 1)
    with scene.world.nothing_moves():
        refused(execute(scene.world, scene.agent, scene.first), "SlashingWindowOpen")
        refused(scene.sweep(), "SlashingWindowOpen")


def test_at_the_windows_end_claims_execute_and_the_sweep_leaves_what_they_ask_for(scene: Scene) -> None:
    done(claim(scene.world, scene.agent, scene.first, 500_000))
    scene.slash()
    scene.world.wait(WINDOW)
    (event,) = done(scene.sweep()).events
    assert scene.swept() == (100_000, 400_000)
    mint, treasury = scene.world.network.mint, scene.world.treasury
    assert event == name("ForfeitedSwept") + keys(mint, scene.agent, scene.reporter, treasury) + struct.pack(
        "<QQQ", 100_000, 400_000, 500_000
    )
    assert_balanced(scene.world)
    done(execute(scene.world, scene.agent, scene.first))
    assert scene.world.tokens(scene.first.payout) == 500_000
    account = account_of(scene.world, scene.agent)
    assert (account.forfeited, account.open_claims, account.swept_total) == (0, 0, 500_000)
    with scene.world.nothing_moves():
        refused(scene.sweep(), "NothingToSweep")
    assert_balanced(scene.world)


def test_a_claim_made_in_the_window_waits_for_its_own_delay_too(scene: Scene) -> None:
    scene.slash()
    scene.world.wait(WINDOW - 1)
    done(claim(scene.world, scene.agent, scene.first, 500_000))
    scene.world.wait(1)
    with scene.world.nothing_moves():
        refused(execute(scene.world, scene.agent, scene.first), "ClaimLocked")
    done(scene.sweep())
    assert scene.swept() == (100_000, 400_000)
    scene.world.wait(CLAIM_DELAY - 1)
    done(execute(scene.world, scene.agent, scene.first))
    assert scene.world.tokens(scene.first.payout) == 500_000


def test_claims_leave_the_set_aside_to_the_reporter(scene: Scene) -> None:
    done(claim(scene.world, scene.agent, scene.first, 2 * USDC))
    scene.slash()
    scene.world.wait(WINDOW)
    done(execute(scene.world, scene.agent, scene.first))
    assert scene.world.tokens(scene.first.payout) == 900_000
    with scene.world.nothing_moves():
        refused(execute(scene.world, scene.agent, scene.first), "InsufficientBond")
    done(scene.sweep())
    assert scene.swept() == (100_000, 0)
    assert account_of(scene.world, scene.agent).open_claims == 1_100_000
    assert_balanced(scene.world)


def test_vendors_served_by_relayer_and_claims_come_before_reporter_and_treasury(scene: Scene) -> None:
    done(claim(scene.world, scene.agent, scene.second, 300_000))
    scene.slash()
    done(scene.settle(scene.first, 600_000))
    scene.world.wait(WINDOW)
    done(scene.sweep())
    assert scene.swept() == (100_000, 0)
    done(execute(scene.world, scene.agent, scene.second))
    assert (scene.world.tokens(scene.first.payout), scene.world.tokens(scene.second.payout)) == (
        600_000,
        300_000,
    )
    assert_balanced(scene.world)


def test_the_relayer_still_settles_after_the_window_until_it_is_swept(scene: Scene) -> None:
    scene.slash()
    scene.world.wait(WINDOW + 1)
    done(scene.settle(scene.first, 950_000))
    done(scene.sweep())
    assert scene.swept() == (50_000, 0)
    done(scene.settle(scene.first, 960_000))
    assert scene.world.tokens(scene.first.payout) == 950_000
    assert_balanced(scene.world)


def test_slashing_oneself_is_slower_than_leaving_and_pays_no_more(world: World) -> None:
    """The agent's own vendor claims everything and its own second key reports it."""
    scene = Scene(world)
    own = scene.first
    done(claim(world, scene.agent, own, USDC))
    done(slash(world, scene.agent, scene.reporter))
    world.wait(TIMELOCK)  # where a withdrawal would be out
    with world.nothing_moves():
        refused(execute(world, scene.agent, own), "SlashingWindowOpen")
        refused(scene.sweep(), "SlashingWindowOpen")
    done(scene.settle(scene.second, 700_000))  # the honest vendor is paid first
    world.wait(WINDOW - TIMELOCK)
    done(execute(world, scene.agent, own))
    done(scene.sweep())
    assert world.tokens(scene.second.payout) == 700_000
    assert world.tokens(own.payout) + sum(scene.swept()) == 300_000


# ---- sweeping


def test_a_sweep_at_the_windows_end_pays_reporter_and_treasury_once(scene: Scene) -> None:
    scene.slash()
    scene.world.wait(WINDOW)
    done(scene.sweep())
    assert scene.swept() == (100_000, 900_000)
    account = account_of(scene.world, scene.agent)
    assert (account.forfeited, account.reporter_set_aside, account.swept_total) == (0, 0, USDC)
    assert account.slashed
    with scene.world.nothing_moves():
        refused(scene.sweep(), "NothingToSweep")
    assert_balanced(scene.world)


def test_an_agent_that_is_not_slashed_is_not_swept(scene: Scene) -> None:
    scene.world.wait(WINDOW)
    with scene.world.nothing_moves():
        refused(scene.sweep(), "NotSlashed")


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("who", ["reporter", "treasury"])
def test_an_account_that_cannot_receive_blocks_nobody_else_and_can_be_paid_later(
    scene: Scene, who: str, how: str
) -> None:
    owner = scene.reporter.pubkey() if who == "reporter" else scene.world.treasury.pubkey()
    address = scene.to_reporter if who == "reporter" else scene.to_treasury
    scene.slash()
    scene.world.wait(WINDOW)
    damage(scene.world, address, owner, how)
    done(scene.sweep())
    other = scene.to_treasury if who == "reporter" else scene.to_reporter
    assert scene.world.tokens(other) == (900_000 if who == "reporter" else 100_000)
    assert_balanced(scene.world)
    scene.world.token_account(owner, at=address)
    done(scene.sweep())
    assert scene.swept() == (100_000, 900_000)
    assert account_of(scene.world, scene.agent).forfeited == 0


def test_the_treasury_may_report_and_is_paid_both_parts_into_one_account(world: World) -> None:
    agent, account = world.agent(USDC), world.token_account(world.treasury.pubkey())
    done(slash(world, agent, world.treasury))
    world.wait(WINDOW)
    done(sweep(world, agent, account, account))
    assert world.tokens(account) == USDC
    assert_balanced(world)


def test_nobody_elses_account_is_paid(scene: Scene) -> None:
    scene.slash()
    scene.world.wait(WINDOW)
    thief = scene.world.token_account(Keypair().pubkey())
    with scene.world.nothing_moves():
        refused(sweep(scene.world, scene.agent, thief, scene.to_treasury), "InvalidPayoutAccount")
        refused(sweep(scene.world, scene.agent, scene.to_reporter, thief), "InvalidPayoutAccount")
        refused(sweep(scene.world, scene.agent, scene.to_treasury, scene.to_treasury), "InvalidPayoutAccount")
        vault = scene.world.network.vault()
        refused(sweep(scene.world, scene.agent, vault, scene.to_treasury), "InvalidPayoutAccount")


def test_the_vault_is_not_paid_even_where_the_bond_itself_is_named_treasury(scene: Scene) -> None:
    """A transfer to itself would turn the treasury's part into a surplus nobody owns."""
    scene.slash()
    scene.world.wait(WINDOW)
    scene.world.patch(scene.world.network.bond(), TREASURY_OFFSET, bytes(scene.world.network.bond()))
    with scene.world.nothing_moves():
        outcome = sweep(scene.world, scene.agent, scene.to_reporter, scene.world.network.vault())
        refused(outcome, "InvalidPayoutAccount")


@pytest.mark.parametrize(
    ("index", "what", "error"),
    [
        (S_BOND, "agent account", "WrongAccountKind"),
        (S_VAULT, "tokens", "WrongAddress"),
        (S_AGENT, "bond", "WrongAccountKind"),
        (S_TOKEN, "bond", "WrongProgram"),
    ],
)
def test_every_account_of_a_sweep_is_checked(scene: Scene, index: int, what: str, error: str) -> None:
    scene.slash()
    scene.world.wait(WINDOW)
    network = scene.world.network
    ix = build.sweep_forfeited(
        network,
        agent=scene.agent.pubkey(),
        reporter_token_account=scene.to_reporter,
        treasury_token_account=scene.to_treasury,
    )
    address = {
        "agent account": network.agent_account(scene.agent.pubkey()),
        "tokens": scene.world.token_account(network.bond(), USDC),
        "bond": network.bond(),
    }[what]
    with scene.world.nothing_moves():
        refused(scene.world.send(with_account(ix, index, address)), error)


def test_the_voucher_of_a_proof_still_pays_its_vendor(scene: Scene) -> None:
    """Both halves are vouchers like any other: proving the equivocation must not cost the two vendors."""
    first, second = scene.half(scene.first, cumulative=40_000), scene.half(scene.second, cumulative=60_000)
    ixs = build.slash_equivocation(
        scene.world.network,
        reporter=scene.reporter.pubkey(),
        agent=scene.agent.pubkey(),
        first=first,
        second=second,
    )
    done(scene.send(*ixs))
    for vendor, half in ((scene.first, first), (scene.second, second)):
        voucher: Voucher = half.intent.voucher(half.signature)
        item = build.ChannelSettlement(
            scene.agent.pubkey(), vendor.gateway.pubkey(), voucher, up_to=voucher.cumulative, create=True
        )
        done(scene.world.settle(vendor, item))
    assert (scene.world.tokens(scene.first.payout), scene.world.tokens(scene.second.payout)) == (
        40_000,
        60_000,
    )
