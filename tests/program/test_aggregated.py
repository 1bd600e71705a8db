"""settle_aggregated and distribute: one signature for many channels, one transfer for a vendor."""

import struct

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import instructions as build
from machpay.chain.ed25519 import ED25519_PROGRAM_ID, attest, attest_aggregate
from machpay.chain.network import Network
from machpay.protocol.aggregates import Aggregate, ChannelTotal
from machpay.protocol.errors import MalformedError
from machpay.protocol.intents import Voucher
from tests.program.moves import (
    CLAIM_DELAY,
    DAMAGES,
    U64_MAX,
    account_of,
    aggregate,
    aggregate_ixs,
    assert_balanced,
    channel_of,
    claim,
    claim_ixs,
    damage,
    distribute,
    execute,
    open_channels,
    settle_aggregated,
    slash,
    with_account,
)
from tests.program.test_events import keys, name
from tests.program.world import CONTEXT, USDC, Done, Refused, Vendor, World, done, refused

BOND_OFFSET, SETTLED_OFFSET, OWED_OFFSET = 112, 144, 152
RELAYER, BOND, AGENT, SYSVAR, EVENTS, PROGRAM, FIRST = range(7)
D_BOND, D_VAULT, D_VENDOR, D_PAYOUT, D_TOKEN, D_EVENTS, D_PROGRAM, D_FIRST = range(8)


class Scene:
    """An agent with a bond of 1 and a channel, 1 unit settled, with each of three vendors, ascending by address."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.agent = world.agent(USDC)
        vendors = [world.vendor() for _ in range(3)]
        channels = dict(zip(open_channels(world, self.agent, *vendors), vendors, strict=True))
        self.channels = sorted(channels, key=bytes)
        self.vendors: list[Vendor] = [channels[channel] for channel in self.channels]

    def totals(self, *cumulatives: int) -> list[tuple[Vendor, int]]:
        return list(zip(self.vendors, cumulatives, strict=False))

    def settle(self, *cumulatives: int) -> Done | Refused:
        return settle_aggregated(self.world, self.agent, *self.totals(*cumulatives))

    def ixs(self, *cumulatives: int) -> list[Instruction]:
        return aggregate_ixs(self.world, self.agent, self.totals(*cumulatives))

    def refuses(self, error: str, *ixs: Instruction) -> None:
        with self.world.nothing_moves():
            refused(self.world.send(*ixs, signers=(self.world.relayer,)), error)

    def state(self) -> list[tuple[int, int]]:
        """(settled, owed) of each channel."""
        found = [channel_of(self.world, self.agent, vendor) for vendor in self.vendors]
        return [(channel.settled, channel.owed) for channel in found]


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


# ---- settling


def test_one_signature_moves_every_channels_amount_to_owed(scene: Scene) -> None:
    vault = scene.world.vault()
    (event,) = done(scene.settle(101, 201, 301)).events
    assert scene.state() == [(101, 100), (201, 200), (301, 300)]
    account = account_of(scene.world, scene.agent)
    assert (account.bond, account.paid_total) == (USDC - 603, 603)
    assert scene.world.vault() == vault
    expected = name("Aggregated") + keys(scene.world.network.mint, scene.agent) + struct.pack("<I", 3)
    for channel, (settled, amount) in zip(scene.channels, scene.state(), strict=True):
        expected += bytes(channel) + struct.pack("<QQ", amount, settled)
    assert event == expected + struct.pack("<Q", 600)
    assert_balanced(scene.world)


def test_a_replay_moves_nothing(scene: Scene) -> None:
    done(scene.settle(101, 201, 301))
    with scene.world.nothing_moves():
        assert done(scene.settle(101, 201, 301)).events == []


def test_only_channels_with_something_due_move_and_are_recorded(scene: Scene) -> None:
    done(scene.world.settle(scene.vendors[1], scene.world.item(scene.agent, scene.vendors[1].gateway, 500)))
    (event,) = done(scene.settle(101, 400, 1)).events
    assert scene.state() == [(101, 100), (500, 0), (1, 0)]
    head = 8 + 64
    assert struct.unpack_from("<I", event, head) == (1,)
    assert event[head + 4 : head + 36] == bytes(scene.channels[0])
    assert len(event) == head + 4 + 48 + 8
    assert_balanced(scene.world)


def test_mixed_with_single_vouchers_every_amount_is_paid_once(scene: Scene) -> None:
    world, vendor = scene.world, scene.vendors[0]
    done(world.settle(vendor, world.item(scene.agent, vendor.gateway, 60)))
    done(scene.settle(101, 201, 301))
    done(world.settle(vendor, world.item(scene.agent, vendor.gateway, 90)))
    done(world.settle(vendor, world.item(scene.agent, vendor.gateway, 150)))
    done(scene.settle(101, 201, 301))
    assert scene.state() == [(150, 41), (201, 200), (301, 300)]
    assert world.tokens(vendor.payout) == 109
    assert_balanced(world)


def test_single_and_aggregated_settlement_fit_in_one_transaction(scene: Scene) -> None:
    world, vendor = scene.world, scene.vendors[0]
    single = world.settle_ixs(vendor, world.item(scene.agent, vendor.gateway, 60, create=False))
    done(world.send(*single, *scene.ixs(101), signers=(world.relayer,)))
    assert scene.state()[0] == (101, 41)
    assert world.tokens(vendor.payout) == 60


def test_an_older_aggregate_after_a_newer_one_moves_nothing(scene: Scene) -> None:
    done(scene.settle(101, 201, 301))
    with scene.world.nothing_moves():
        done(scene.settle(50, 201, 300))


def test_a_bond_that_just_covers_everything_is_emptied(scene: Scene) -> None:
    left = scene.world.bond_of(scene.agent)
    done(scene.settle(1 + left - 200, 101, 101))
    assert scene.world.bond_of(scene.agent) == 0
    assert_balanced(scene.world)


def test_one_unit_more_than_the_bond_fails_the_whole_transaction(scene: Scene) -> None:
    left = scene.world.bond_of(scene.agent)
    scene.refuses("InsufficientBond", *scene.ixs(1 + left - 199, 101, 101))
    scene.refuses("InsufficientBond", *scene.ixs(U64_MAX, U64_MAX, U64_MAX))


def test_a_slashed_agents_vendors_are_served_from_what_was_forfeited(scene: Scene) -> None:
    done(slash(scene.world, scene.agent, Keypair()))
    left = account_of(scene.world, scene.agent).forfeited
    done(scene.settle(1 + left - 10))
    account = account_of(scene.world, scene.agent)
    assert (account.forfeited, account.reporter_set_aside) == (10, 10)
    assert_balanced(scene.world)


def test_a_pending_claim_is_served_first(scene: Scene) -> None:
    vendor = scene.vendors[1]
    done(claim(scene.world, scene.agent, vendor, 401))
    done(scene.settle(101, 301))
    assert account_of(scene.world, scene.agent).open_claims == 100
    scene.world.wait(CLAIM_DELAY)
    done(execute(scene.world, scene.agent, vendor))
    assert scene.state()[1] == (401, 300)
    assert scene.world.tokens(vendor.payout) == 101
    assert_balanced(scene.world)


def test_amounts_reach_the_end_of_64_bits(scene: Scene) -> None:
    address = scene.world.network.agent_account(scene.agent.pubkey())
    scene.world.patch(address, BOND_OFFSET, struct.pack("<Q", U64_MAX))
    scene.world.patch(address, 208, bytes(8))  # paid_total
    done(scene.settle(U64_MAX))
    assert scene.state()[0] == (U64_MAX, U64_MAX - 1)
    assert account_of(scene.world, scene.agent).bond == 1


# ---- what it refuses


def test_nobody_but_the_relayer_settles_not_even_the_agent(scene: Scene) -> None:
    check, ix = scene.ixs(101, 201)
    for key in (scene.agent, scene.world.admin, scene.vendors[0].authority):
        with scene.world.nothing_moves():
            ix = with_account(ix, RELAYER, key.pubkey())
            refused(scene.world.send(check, ix, signers=(scene.world.payer, key)), "NotRelayer")


def test_the_relayer_must_sign(scene: Scene) -> None:
    check, ix = scene.ixs(101, 201)
    accounts = [AccountMeta(scene.world.relayer.pubkey(), False, False), *ix.accounts[1:]]
    with scene.world.nothing_moves():
        outcome = scene.world.send(check, Instruction(ix.program_id, bytes(ix.data), accounts))
        refused(outcome, "MissingSignature")


def _reordered(ix: Instruction, order: list[int], data_order: list[int]) -> Instruction:
    """The channels and the cumulatives, each in another order."""
    data = bytes(ix.data)
    parts = [data[8 + 8 * index : 16 + 8 * index] for index in data_order]
    accounts = [*ix.accounts[:FIRST], *(ix.accounts[FIRST + index] for index in order)]
    return Instruction(ix.program_id, data[:8] + b"".join(parts), accounts)


def test_channels_in_another_order_are_refused(scene: Scene) -> None:
    check, ix = scene.ixs(101, 201, 301)
    scene.refuses("ChannelsNotSorted", check, _reordered(ix, [1, 0, 2], [1, 0, 2]))
    scene.refuses("ChannelsNotSorted", check, _reordered(ix, [0, 2, 1], [0, 1, 2]))


def test_cumulatives_in_another_order_are_refused(scene: Scene) -> None:
    check, ix = scene.ixs(101, 201, 301)
    scene.refuses("InvalidSignature", check, _reordered(ix, [0, 1, 2], [1, 0, 2]))


def test_a_signature_over_another_order_is_refused(scene: Scene) -> None:
    """The agent signed the descending list; the program hashes the ascending one only."""
    _, ix = scene.ixs(101, 201)
    network, agent = scene.world.network, scene.agent
    totals = tuple(ChannelTotal(*pair) for pair in zip(scene.channels, (101, 201), strict=False))
    descending = aggregate(scene.world, agent, scene.totals(101, 201))
    object.__setattr__(descending, "totals", totals[::-1])
    check = attest_aggregate(descending, bytes(agent.sign_message(descending.message)))
    scene.refuses("InvalidSignature", check, ix)
    with pytest.raises(MalformedError, match="ascending"):
        Aggregate(network.domain, network.mint, agent.pubkey(), totals[::-1])


def test_a_channel_twice_is_refused(scene: Scene) -> None:
    check, ix = scene.ixs(101, 201)
    scene.refuses("ChannelsNotSorted", check, _reordered(ix, [0, 0], [0, 0]))


def test_leaving_out_or_adding_a_channel_is_refused(scene: Scene) -> None:
    check, ix = scene.ixs(101, 201, 301)
    scene.refuses("InvalidSignature", check, _reordered(ix, [0, 1], [0, 1]))
    check, _ = scene.ixs(101, 201)
    scene.refuses("InvalidSignature", check, ix)


def test_as_many_channels_as_cumulatives(scene: Scene) -> None:
    check, ix = scene.ixs(101, 201, 301)
    scene.refuses("WrongAccountCount", check, _reordered(ix, [0, 1], [0, 1, 2]))
    scene.refuses("WrongAccountCount", check, _reordered(ix, [0, 1, 2], [0, 1]))
    scene.refuses("InvalidInstructionData", check, _reordered(ix, [], []))
    cut = Instruction(ix.program_id, bytes(ix.data)[:-1], ix.accounts)
    scene.refuses("InvalidInstructionData", check, cut)


def test_a_changed_cumulative_is_refused(scene: Scene) -> None:
    check, ix = scene.ixs(101, 201)
    data = bytearray(bytes(ix.data))
    data[8] += 1
    scene.refuses("InvalidSignature", check, Instruction(ix.program_id, bytes(data), ix.accounts))


def test_another_key_cannot_sign_for_the_agent(scene: Scene) -> None:
    """A stranger's signature over the agent's very message, and over one that names the stranger as agent."""
    stranger = scene.world.agent(USDC)
    signed = aggregate(scene.world, scene.agent, scene.totals(101, 201))
    check, ix = scene.ixs(101, 201)
    forged = bytes(check.data)[:16] + bytes(stranger.pubkey())
    forged += bytes(stranger.sign_message(signed.message)) + signed.message
    scene.refuses("InvalidSignature", Instruction(ED25519_PROGRAM_ID, forged, []), ix)
    own = Aggregate(signed.domain, signed.mint, stranger.pubkey(), signed.totals)
    check = attest_aggregate(own, bytes(stranger.sign_message(own.message)))
    scene.refuses("InvalidSignature", check, ix)


def test_an_agent_cannot_settle_anothers_channel(scene: Scene) -> None:
    thief = scene.world.agent(USDC)
    network = scene.world.network
    own = Aggregate.of(network.domain, network.mint, thief.pubkey(), [ChannelTotal(scene.channels[0], 500)])
    ixs = build.settle_aggregated(
        network,
        relayer=scene.world.relayer.pubkey(),
        aggregate=own,
        signature=bytes(thief.sign_message(own.message)),
    )
    scene.refuses("WrongAgent", *ixs)


def test_a_missing_channel_is_refused(scene: Scene) -> None:
    vendor = scene.world.vendor()
    scene.refuses("WrongAccountOwner", *aggregate_ixs(scene.world, scene.agent, [(vendor, 100)]))


@pytest.mark.parametrize("what", ["program", "mint", "domain"])
def test_an_aggregate_of_another_network_is_refused(scene: Scene, what: str) -> None:
    network, other = scene.world.network, Keypair().pubkey()
    elsewhere = {
        "program": Network(other, network.mint, network.domain),
        "mint": Network(network.program_id, other, network.domain),
        "domain": Network(network.program_id, network.mint, type(network.domain)(bytes(other))),
    }[what]
    gateways = [vendor.gateway.pubkey() for vendor in scene.vendors[:2]]
    channels = [elsewhere.channel(scene.agent.pubkey(), gateway) for gateway in gateways]
    stray = Aggregate.of(
        elsewhere.domain,
        elsewhere.mint,
        scene.agent.pubkey(),
        [ChannelTotal(channel, 101) for channel in channels],
    )
    _, ix = scene.ixs(101, 101)
    check = attest_aggregate(stray, bytes(scene.agent.sign_message(stray.message)))
    scene.refuses("InvalidSignature", check, ix)
    if what != "program":
        with pytest.raises(ValueError, match="another cluster or mint"):
            build.settle_aggregated(
                network, relayer=scene.world.relayer.pubkey(), aggregate=stray, signature=bytes(64)
            )


@pytest.mark.parametrize(
    ("index", "what", "error"),
    [
        (BOND, "agent account", "WrongAccountKind"),
        (AGENT, "bond", "WrongAccountKind"),
        (AGENT, "other agent", "InvalidSignature"),
        (SYSVAR, "stranger", "WrongAddress"),
        (PROGRAM, "stranger", "WrongProgram"),
    ],
)
def test_every_account_is_checked(scene: Scene, index: int, what: str, error: str) -> None:
    network = scene.world.network
    addresses = {
        "agent account": network.agent_account(scene.agent.pubkey()),
        "other agent": network.agent_account(scene.world.agent(USDC).pubkey()),
        "bond": network.bond(),
        "stranger": Keypair().pubkey(),
    }
    check, ix = scene.ixs(101, 201, 301)
    scene.refuses(error, check, with_account(ix, index, addresses[what]))


def test_an_agent_account_is_no_channel(scene: Scene) -> None:
    """Signed for even by the agent itself."""
    network, agent = scene.world.network, scene.agent
    stray = Aggregate(
        network.domain,
        network.mint,
        agent.pubkey(),
        (ChannelTotal(network.vendor_account(scene.vendors[0].key), 5),),
    )
    ixs = build.settle_aggregated(
        network,
        relayer=scene.world.relayer.pubkey(),
        aggregate=stray,
        signature=bytes(agent.sign_message(stray.message)),
    )
    scene.refuses("WrongAccountKind", *ixs)


def test_without_a_check_right_before_it_is_refused(scene: Scene) -> None:
    check, ix = scene.ixs(101, 201)
    scene.refuses("InvalidSignature", ix)
    scene.refuses("InvalidSignature", ix, check)
    scene.refuses("InvalidSignature", check, ix, ix)


@pytest.mark.parametrize("field", [0, 1, 2, 3, 4, 6])
def test_a_check_of_another_form_is_refused(scene: Scene, field: int) -> None:
    """Each offset and each index of the table; the same bytes stand in the instruction before, so it verifies."""
    check, ix = scene.ixs(101, 201)
    data = bytearray(bytes(check.data))
    if field % 2 or field == 6:
        struct.pack_into("<H", data, 2 + 2 * field, 0)
        changed = Instruction(ED25519_PROGRAM_ID, bytes(data), [])
        scene.refuses("InvalidSignature", check, changed, ix)
    else:
        (offset,) = struct.unpack_from("<H", data, 2 + 2 * field)
        struct.pack_into("<H", data, 2 + 2 * field, offset + 132)
        changed = Instruction(ED25519_PROGRAM_ID, bytes(data + data[16:]), [])
        scene.refuses("InvalidSignature", changed, ix)


@pytest.mark.parametrize("prefix", [b"MP\x01I", b"MP\x02A", b"\0\0\0\0"])
def test_the_right_hash_under_another_type_is_refused(scene: Scene, prefix: bytes) -> None:
    check, ix = scene.ixs(101, 201)
    message = prefix + bytes(check.data)[-32:]
    data = bytes(check.data)[:48] + bytes(scene.agent.sign_message(message)) + message
    scene.refuses("InvalidSignature", Instruction(ED25519_PROGRAM_ID, data, []), ix)


# ---- neither voucher is ever the other


def test_a_single_voucher_is_no_aggregate(scene: Scene) -> None:
    _, ix = scene.ixs(101)
    voucher = scene.world.voucher(scene.agent, scene.vendors[0].gateway.pubkey(), 101)
    scene.refuses("InvalidSignature", attest([(scene.agent.pubkey(), voucher)]), ix)


def test_an_aggregate_cannot_be_claimed_or_settled_as_a_voucher(scene: Scene) -> None:
    world, vendor = scene.world, scene.vendors[0]
    check, _ = scene.ixs(101)
    _, claiming = claim_ixs(world, scene.agent, vendor, 101)
    with world.nothing_moves():
        refused(world.send(check, claiming, signers=(world.payer, vendor.gateway)), "InvalidSignature")
    _, settling = world.settle_ixs(vendor, world.item(scene.agent, vendor.gateway, 101, create=False))
    scene.refuses("InvalidSignature", check, settling)


def test_a_voucher_sized_message_of_the_aggregates_type_cannot_be_claimed(scene: Scene) -> None:
    world, vendor = scene.world, scene.vendors[0]
    _, claiming = claim_ixs(world, scene.agent, vendor, 101)
    genuine = world.voucher(scene.agent, vendor.gateway.pubkey(), 101)
    check = attest([(scene.agent.pubkey(), Voucher(genuine.channel, 101, CONTEXT, bytes(64)))])
    message = b"MP\x01A" + genuine.message[4:]
    data = bytes(check.data)[:48] + bytes(scene.agent.sign_message(message)) + message
    with world.nothing_moves():
        outcome = world.send(
            Instruction(ED25519_PROGRAM_ID, data, []), claiming, signers=(world.payer, vendor.gateway)
        )
        refused(outcome, "InvalidSignature")


# ---- distributing


def test_a_vendor_gets_what_its_channels_are_owed_in_one_transfer(world: World) -> None:
    vendor, agents = world.vendor(), [world.agent(USDC) for _ in range(3)]
    channels = []
    for index, agent in enumerate(agents):
        channels += open_channels(world, agent, vendor)
        done(settle_aggregated(world, agent, (vendor, 101 + 100 * index)))
    paid = world.tokens(vendor.payout)
    (event,) = done(distribute(world, vendor, *channels)).events
    assert world.tokens(vendor.payout) - paid == 600
    assert [channel_of(world, agent, vendor).owed for agent in agents] == [0, 0, 0]
    expected = (
        name("Distributed") + keys(world.network.mint, vendor.key, vendor.payout) + struct.pack("<I", 3)
    )
    for channel, amount in zip(channels, (100, 200, 300), strict=True):
        expected += bytes(channel) + struct.pack("<Q", amount)
    assert event == expected + struct.pack("<Q", 600)
    assert_balanced(world)
    with world.nothing_moves():
        assert done(distribute(world, vendor, *channels)).events == []


def test_a_channel_twice_is_paid_once_and_one_without_debt_skipped(scene: Scene) -> None:
    world, vendor, second = scene.world, scene.vendors[0], Keypair()
    done(world.register_gateway(vendor.authority, second))
    done(world.settle(vendor, world.item(scene.agent, second, 7)))
    idle = world.network.channel(scene.agent.pubkey(), second.pubkey())
    done(scene.settle(101))
    done(distribute(world, vendor, scene.channels[0], idle, scene.channels[0]))
    assert world.tokens(vendor.payout) == 1 + 7 + 100
    assert_balanced(world)


def test_what_settlement_and_claims_left_as_owed_is_distributed_too(scene: Scene) -> None:
    world, vendor = scene.world, scene.vendors[0]
    damage(world, vendor.payout, vendor.key, "frozen")
    done(world.settle(vendor, world.item(scene.agent, vendor.gateway, 51)))
    done(claim(world, scene.agent, vendor, 81))
    world.wait(CLAIM_DELAY)
    done(execute(world, scene.agent, vendor))
    assert scene.state()[0] == (81, 80)
    world.token_account(vendor.key, at=vendor.payout)
    done(distribute(world, vendor, scene.channels[0]))
    assert world.tokens(vendor.payout) == 80
    assert scene.state()[0] == (81, 0)


@pytest.mark.parametrize("how", DAMAGES)
def test_an_account_that_cannot_receive_is_refused_and_the_debt_stays(scene: Scene, how: str) -> None:
    done(scene.settle(101))
    damage(scene.world, scene.vendors[0].payout, scene.vendors[0].key, how)
    with scene.world.nothing_moves():
        refused(distribute(scene.world, scene.vendors[0], scene.channels[0]), "InvalidPayoutAccount")


def test_another_vendors_channel_is_refused(scene: Scene) -> None:
    done(scene.settle(101, 201))
    with scene.world.nothing_moves():
        refused(distribute(scene.world, scene.vendors[0], *scene.channels[:2]), "WrongVendor")


@pytest.mark.parametrize(
    ("index", "what", "error"),
    [
        (D_BOND, "channel", "WrongAccountKind"),
        (D_VAULT, "tokens", "WrongAddress"),
        (D_VENDOR, "bond", "WrongAccountKind"),
        (D_PAYOUT, "tokens", "WrongAddress"),
        (D_TOKEN, "bond", "WrongProgram"),
        (D_PROGRAM, "bond", "WrongProgram"),
        (D_FIRST, "bond", "WrongAccountKind"),
    ],
)
def test_every_account_of_a_distribution_is_checked(scene: Scene, index: int, what: str, error: str) -> None:
    done(scene.settle(101))
    world, vendor = scene.world, scene.vendors[0]
    addresses = {
        "channel": scene.channels[1],
        "tokens": world.token_account(world.network.bond(), USDC),
        "bond": world.network.bond(),
    }
    ix = build.distribute(world.network, vendor=vendor.key, payout=vendor.payout, channels=scene.channels[:1])
    with world.nothing_moves():
        refused(world.send(with_account(ix, index, addresses[what])), error)
        refused(world.send(Instruction(ix.program_id, bytes(ix.data), ix.accounts[:7])), "WrongAccountCount")
        longer = Instruction(ix.program_id, bytes(ix.data) + b"\0", ix.accounts)
        refused(world.send(longer), "InvalidInstructionData")


def test_a_sum_above_64_bits_is_refused_whole(scene: Scene) -> None:
    world, vendor, second = scene.world, scene.vendors[0], Keypair()
    done(world.register_gateway(vendor.authority, second))
    done(world.settle(vendor, world.item(scene.agent, second, 7)))
    other = world.network.channel(scene.agent.pubkey(), second.pubkey())
    world.patch(scene.channels[0], OWED_OFFSET, struct.pack("<Q", U64_MAX))
    world.patch(other, OWED_OFFSET, struct.pack("<Q", 1))
    with world.nothing_moves():
        refused(distribute(world, vendor, scene.channels[0], other), "Overflow")


def test_the_builder_takes_1_to_56_channels(scene: Scene) -> None:
    for count in (0, 57):
        with pytest.raises(ValueError, match="1 to 56"):
            distribute(scene.world, scene.vendors[0], *([Pubkey.default()] * count))
