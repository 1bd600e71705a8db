"""What counts as a signature: every way to show the program bytes that nobody verified.

The precompile verifies whatever its table points to. Here the precompile itself is satisfied, unless said otherwise,
and the program has to notice that it was about something else.
"""

import struct

import pytest
from solders.account import Account
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.sysvar import RENT
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.ed25519 import ED25519_PROGRAM_ID, attest
from machpay.chain.instructions import ChannelSettlement, discriminator
from machpay.chain.network import Network
from machpay.chain.tokens import TOKEN_ACCOUNT_LENGTH
from machpay.protocol.intents import Voucher, voucher_message
from tests.program.world import CONTEXT, LAMPORTS, USDC, Done, Refused, Vendor, World, done, refused

HERE = 0xFFFF
HEADER, ROW, KEY, SIGNATURE, MESSAGE = 2, 14, 32, 64, 60


class Scene:
    """An open channel with 100 due. `settle` is the genuine second instruction."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.vendor: Vendor = world.vendor()
        self.agent = world.agent(USDC)
        done(world.settle(self.vendor, world.item(self.agent, self.vendor.gateway, 50)))
        item = world.item(self.agent, self.vendor.gateway, 150, create=False)
        self.voucher = item.voucher
        self.attest, self.settle = world.settle_ixs(self.vendor, item)

    def try_with(self, *before: Instruction) -> Done | Refused:
        with self.world.nothing_moves():
            return self.world.send(*before, self.settle, signers=(self.world.relayer,))

    def attack(self, *before: Instruction) -> None:
        refused(self.try_with(*before), "InvalidSignature")


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


def block(signer: Keypair, message: bytes) -> bytes:
    return bytes(signer.pubkey()) + bytes(signer.sign_message(message)) + message


def row(signature: int, key: int, message: int, size: int = MESSAGE, index: int = HERE) -> bytes:
    return struct.pack("<7H", signature, index, key, index, message, size, index)


def precompile(data: bytes) -> Instruction:
    return Instruction(ED25519_PROGRAM_ID, data, [])


def test_the_genuine_pair_is_accepted(scene: Scene) -> None:
    done(scene.world.send(scene.attest, scene.settle, signers=(scene.world.relayer,)))


def test_without_a_signature_check_before_it_settlement_is_refused(scene: Scene) -> None:
    scene.attack()


def test_the_signature_check_must_stand_right_before(scene: Scene) -> None:
    between = attest([(scene.agent.pubkey(), scene.world.voucher(scene.agent, Pubkey.default(), 150))])
    scene.attack(scene.attest, between)


def test_a_signature_check_after_it_does_not_count(scene: Scene) -> None:
    with scene.world.nothing_moves():
        refused(
            scene.world.send(scene.settle, scene.attest, signers=(scene.world.relayer,)), "InvalidSignature"
        )


def test_forged_data_in_another_programs_instruction_does_not_count(scene: Scene) -> None:
    """SPL Token takes the first byte for InitializeAccount and never looks at what follows."""
    forged = Voucher(scene.voucher.channel, scene.voucher.cumulative, CONTEXT, bytes(64))
    data = bytes(attest([(scene.agent.pubkey(), forged)]).data)

    def in_token_program() -> Instruction:
        account = Keypair().pubkey()
        scene.world.svm.set_account(account, Account(LAMPORTS, bytes(TOKEN_ACCOUNT_LENGTH), TOKEN_PROGRAM_ID))
        others = (scene.world.network.mint, scene.agent.pubkey(), RENT)
        metas = [AccountMeta(account, False, True), *(AccountMeta(key, False, False) for key in others)]
        return Instruction(TOKEN_PROGRAM_ID, data, metas)

    done(scene.world.send(in_token_program()))
    scene.attack(in_token_program())


def test_one_check_serves_one_settlement_only_if_it_stands_before_it(scene: Scene) -> None:
    with scene.world.nothing_moves():
        outcome = scene.world.send(scene.attest, scene.settle, scene.settle, signers=(scene.world.relayer,))
        refused(outcome, "InvalidSignature")


def test_a_wrong_signature_fails_in_the_precompile(scene: Scene) -> None:
    forged = Voucher(scene.voucher.channel, scene.voucher.cumulative + 1, CONTEXT, scene.voucher.signature)
    outcome = scene.try_with(attest([(scene.agent.pubkey(), forged)]))
    assert isinstance(outcome, Refused)
    assert outcome.code is None or outcome.code < 0x100


def test_another_key_cannot_sign_for_the_agent(scene: Scene) -> None:
    stranger = Keypair()
    message = scene.voucher.message
    forged = Voucher(scene.voucher.channel, 150, CONTEXT, bytes(stranger.sign_message(message)))
    scene.attack(attest([(stranger.pubkey(), forged)]))


def test_a_voucher_of_another_channel_does_not_count(scene: Scene) -> None:
    other = scene.world.vendor()
    voucher = scene.world.voucher(scene.agent, other.gateway.pubkey(), 150)
    scene.attack(attest([(scene.agent.pubkey(), voucher)]))


@pytest.mark.parametrize("what", ["program", "mint", "domain"])
def test_a_voucher_of_another_network_does_not_count(scene: Scene, what: str) -> None:
    """The channel's address follows from all three, so the same agent and gateway elsewhere sign other bytes."""
    network = scene.world.network
    other = Keypair().pubkey()
    elsewhere = {
        "program": Network(other, network.mint, network.domain),
        "mint": Network(network.program_id, other, network.domain),
        "domain": Network(network.program_id, network.mint, type(network.domain)(bytes(other))),
    }[what]
    channel = elsewhere.channel(scene.agent.pubkey(), scene.vendor.gateway.pubkey())
    signature = bytes(scene.agent.sign_message(voucher_message(channel, 150, CONTEXT)))
    scene.attack(attest([(scene.agent.pubkey(), Voucher(channel, 150, CONTEXT, signature))]))


@pytest.mark.parametrize("prefix", [b"MP\x01R", b"MP\x01A", b"MP\x02I", b"mp\x01I", b"\0\0\0\0"])
def test_another_message_of_the_protocol_is_no_voucher(scene: Scene, prefix: bytes) -> None:
    message = prefix + scene.voucher.message[4:]
    body = HEADER + ROW
    data = bytes([1, 0]) + row(body + KEY, body, body + KEY + SIGNATURE) + block(scene.agent, message)
    scene.attack(precompile(data))


def test_a_table_pointing_into_another_instruction_is_refused(scene: Scene) -> None:
    """The attacker's own signature sits in instruction 0; instruction 1 shows the program the victim's key and a
    voucher nobody signed, while its table has the precompile verify instruction 0."""
    attacker = Keypair()
    own = attest([(attacker.pubkey(), _voucher(attacker, scene.voucher.channel, 1))])
    body = HEADER + ROW
    forged_message = voucher_message(scene.voucher.channel, USDC, CONTEXT)
    forged = bytes(scene.agent.pubkey()) + bytes(64) + forged_message
    table = row(body + KEY, body, body + KEY + SIGNATURE, index=0)
    scene.attack(own, precompile(bytes([1, 0]) + table + forged))


@pytest.mark.parametrize("field", [1, 3, 6], ids=["signature", "key", "message"])
def test_each_index_alone_must_mean_this_instruction(scene: Scene, field: int) -> None:
    """Instruction 0 holds the same bytes at the same offsets, so the precompile verifies; the program refuses."""
    data = bytearray(bytes(scene.attest.data))
    struct.pack_into("<H", data, HEADER + 2 * field, 0)
    scene.attack(scene.attest, precompile(bytes(data)))


def test_the_own_index_written_out_is_refused_too(scene: Scene) -> None:
    body = HEADER + ROW
    data = bytes([1, 0]) + row(body + KEY, body, body + KEY + SIGNATURE, index=0) + _body(scene)
    scene.attack(precompile(data))


@pytest.mark.parametrize("field", [0, 2, 4], ids=["signature", "key", "message"])
def test_each_offset_must_be_exact(scene: Scene, field: int) -> None:
    """The table points at a second, genuine copy behind the one the program would read."""
    body, second = HEADER + ROW, HEADER + ROW + KEY + SIGNATURE + MESSAGE
    offsets = [body + KEY, body, body + KEY + SIGNATURE]
    offsets[field // 2] += second - body
    table = row(*offsets)
    scene.attack(precompile(bytes([1, 0]) + table + _body(scene) + _body(scene)))


def test_a_genuine_copy_behind_forged_bytes_is_refused(scene: Scene) -> None:
    body = HEADER + ROW
    second = body + KEY + SIGNATURE + MESSAGE
    forged = bytes(scene.agent.pubkey()) + bytes(64) + voucher_message(scene.voucher.channel, USDC, CONTEXT)
    table = row(second + KEY, second, second + KEY + SIGNATURE)
    scene.attack(precompile(bytes([1, 0]) + table + forged + _body(scene)))


@pytest.mark.parametrize("extra", [1, 14, 156])
def test_bytes_behind_the_last_message_are_refused(scene: Scene, extra: int) -> None:
    scene.attack(precompile(bytes(scene.attest.data) + bytes(extra)))


def test_shifted_by_one_byte_everything_is_refused(scene: Scene) -> None:
    body = HEADER + ROW + 1
    data = bytes([1, 0]) + row(body + KEY, body, body + KEY + SIGNATURE) + b"\0" + _body(scene)
    scene.attack(precompile(data))


@pytest.mark.parametrize("size", [59, 61])
def test_a_message_of_another_size_is_refused(scene: Scene, size: int) -> None:
    message = (scene.voucher.message + b"\0")[:size]
    body = HEADER + ROW
    data = bytes([1, 0]) + row(body + KEY, body, body + KEY + SIGNATURE, size) + block(scene.agent, message)
    scene.attack(precompile(data))


def test_a_message_verified_only_in_part_is_refused(scene: Scene) -> None:
    """The agent signed 59 bytes; the 60th, part of the context, is the attacker's."""
    body = HEADER + ROW
    table = row(body + KEY, body, body + KEY + SIGNATURE, 59)
    part = scene.voucher.message[:59]
    data = bytes([1, 0]) + table + block(scene.agent, part) + b"\0"
    scene.attack(precompile(data))


def test_more_signatures_than_channels_are_refused(scene: Scene) -> None:
    pair = [(scene.agent.pubkey(), scene.voucher)] * 2
    scene.attack(attest(pair))


def test_fewer_signatures_than_channels_are_refused(world: World) -> None:
    vendor, agents = world.vendor(), [world.agent(USDC) for _ in range(2)]
    items = [world.item(agent, vendor.gateway, 10) for agent in agents]
    _, settle = world.settle_ixs(vendor, *items)
    one = attest([(items[0].agent, items[0].voucher)])
    with world.nothing_moves():
        refused(world.send(one, settle, signers=(world.relayer,)), "InvalidSignature")


def test_vouchers_in_another_order_than_channels_are_refused(world: World) -> None:
    vendor, agents = world.vendor(), [world.agent(USDC) for _ in range(2)]
    items = [world.item(agent, vendor.gateway, 10) for agent in agents]
    _, settle = world.settle_ixs(vendor, *items)
    ordered = sorted(items, key=lambda item: bytes(item.voucher.channel), reverse=True)
    swapped = attest([(item.agent, item.voucher) for item in ordered])
    with world.nothing_moves():
        refused(world.send(swapped, settle, signers=(world.relayer,)), "InvalidSignature")


def test_a_nonzero_padding_byte_is_refused(scene: Scene) -> None:
    data = bytearray(bytes(scene.attest.data))
    data[1] = 1
    scene.attack(precompile(bytes(data)))


@pytest.mark.parametrize("forged", [0, 1], ids=["first row", "second row"])
def test_a_row_that_has_another_key_verified_is_refused(world: World, forged: int) -> None:
    """An agent signs its neighbour's voucher and has its own key verified, one block further. Nothing else is off."""
    vendor, items = _neighbours(world, [Keypair(), Keypair()])
    thief, (victim, voucher) = items[1 - forged][0], items[forged]
    signature = bytes(thief.sign_message(voucher.message))
    items[forged] = (victim, Voucher(voucher.channel, voucher.cumulative, CONTEXT, signature))
    _attack_as_a_pair(world, vendor, items, patch=(forged, 2, 1 - forged))


@pytest.mark.parametrize("forged", [0, 1], ids=["first row", "second row"])
def test_a_row_that_has_another_message_verified_is_refused(world: World, forged: int) -> None:
    """One agent, two channels: the signature shown with the forged voucher is the one of the other voucher."""
    agent = Keypair()
    vendor, items = _neighbours(world, [agent, agent])
    (_, signed), (_, voucher) = items[1 - forged], items[forged]
    items[forged] = (agent, Voucher(voucher.channel, voucher.cumulative, CONTEXT, signed.signature))
    _attack_as_a_pair(world, vendor, items, patch=(forged, 4, 1 - forged))


def test_a_block_beyond_the_count_is_refused(world: World) -> None:
    """The precompile verifies as many as the first byte says and passes over the rest, however many channels follow."""
    vendor, items = _neighbours(world, [Keypair(), Keypair()])
    victim, voucher = items[1]
    items[1] = (victim, Voucher(voucher.channel, voucher.cumulative, CONTEXT, bytes(64)))
    _attack_as_a_pair(world, vendor, items, count=1)


def test_a_count_of_zero_signatures_is_refused(scene: Scene) -> None:
    """The runtime accepts the two bytes 0, 0: it has nothing to verify."""
    scene.attack(precompile(bytes(2)))


def test_an_address_owned_by_a_gateway_cannot_sign_as_the_agent(scene: Scene) -> None:
    gateway = scene.vendor.gateway
    signature = bytes(gateway.sign_message(scene.voucher.message))
    scene.attack(attest([(gateway.pubkey(), Voucher(scene.voucher.channel, 150, CONTEXT, signature))]))


def _body(scene: Scene) -> bytes:
    return bytes(scene.agent.pubkey()) + scene.voucher.signature + scene.voucher.message


def _voucher(signer: Keypair, channel: Pubkey, cumulative: int) -> Voucher:
    message = voucher_message(channel, cumulative, CONTEXT)
    return Voucher(channel, cumulative, CONTEXT, bytes(signer.sign_message(message)))


def _neighbours(world: World, agents: list[Keypair]) -> tuple[Vendor, list[tuple[Keypair, Voucher]]]:
    """A vendor, and for each agent an open channel with a gateway of its own and a voucher over 100 more, in the
    program's order."""
    vendor, items = world.vendor(), []
    for agent in agents:
        gateway = Keypair()
        done(world.register_gateway(vendor.authority, gateway))
        world.svm.airdrop(agent.pubkey(), LAMPORTS)
        done(world.deposit(agent, USDC))
        done(world.settle(vendor, world.item(agent, gateway, 50)))
        items.append((agent, world.voucher(agent, gateway.pubkey(), 150)))
    return vendor, sorted(items, key=lambda item: bytes(item[1].channel))


def _attack_as_a_pair(
    world: World,
    vendor: Vendor,
    items: list[tuple[Keypair, Voucher]],
    *,
    patch: tuple[int, int, int] | None = None,
    count: int = 2,
) -> None:
    """Settle both vouchers, the check having exactly the length it must. `patch` (row, field, block) points one offset
    into the other block. The precompile alone is satisfied."""
    data = bytearray(bytes(attest([(agent.pubkey(), voucher) for agent, voucher in items]).data))
    data[0] = count
    if patch is not None:
        at, field, block_index = patch
        inside = {2: 0, 4: KEY + SIGNATURE}[field]
        offset = HEADER + 2 * ROW + block_index * (KEY + SIGNATURE + MESSAGE) + inside
        struct.pack_into("<H", data, HEADER + at * ROW + 2 * field, offset)
    check = precompile(bytes(data))
    done(world.send(check, signers=(world.relayer,)))
    accounts = [*world.settle_ixs(vendor, _single(world, vendor))[1].accounts[:9]]
    for agent, voucher in items:
        accounts.append(AccountMeta(voucher.channel, False, True))
        accounts.append(AccountMeta(world.network.agent_account(agent.pubkey()), False, True))
    arguments = discriminator("settle_cumulative") + b"\0" + struct.pack("<QQ", 150, 150)
    with world.nothing_moves():
        settle = Instruction(world.network.program_id, arguments, accounts)
        refused(world.send(check, settle, signers=(world.relayer,)), "InvalidSignature")


def _single(world: World, vendor: Vendor) -> ChannelSettlement:
    """Any settlement of the vendor's, for the accounts that all of them begin with."""
    return world.item(Keypair(), vendor.gateway, 1, create=False)
