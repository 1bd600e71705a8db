"""Events: what is recorded, byte by byte, and that nobody else can record any."""

import hashlib
import struct

from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token.state import TokenAccountState

from tests.program.world import USDC, World, done, refused

EVENT_TAG = bytes.fromhex("e445a52e51cb9a1d")


def name(event: str) -> bytes:
    return hashlib.sha256(f"event:{event}".encode()).digest()[:8]


def keys(*values: Pubkey | Keypair) -> bytes:
    return b"".join(bytes(value.pubkey() if isinstance(value, Keypair) else value) for value in values)


def test_initialize_bond_records_the_whole_configuration(bare: World) -> None:
    (event,) = done(bare.initialize_bond(agent_bond_cap=5 * USDC)).events
    none = Pubkey.default()
    expected = keys(bare.network.mint, bare.admin, none, bare.relayer, bare.treasury)
    expected += struct.pack("<QqqQH??", USDC, 86_400, 43_200, 5 * USDC, 1_000, False, False)
    assert event == name("ConfigChanged") + expected


def test_deposit_records_who_paid_and_the_new_bond(world: World) -> None:
    agent = world.agent(USDC)
    (event,) = done(world.deposit(agent, 7)).events
    expected = keys(world.network.mint, agent, agent, agent) + struct.pack("<QQ", 7, USDC + 7)
    assert event == name("Deposited") + expected


def test_registrations_record_what_was_registered(world: World) -> None:
    authority, gateway = Keypair(), Keypair()
    payout = world.token_account(authority.pubkey())
    (vendor_event,) = done(world.register_vendor(authority, payout, uri="https://é")).events
    uri = "https://é".encode()
    expected = keys(authority, world.network.mint, payout) + struct.pack("<QI", 1_000, len(uri)) + uri
    assert vendor_event == name("VendorRegistered") + expected
    (gateway_event,) = done(world.register_gateway(authority, gateway)).events
    assert gateway_event == name("GatewayRegistered") + keys(gateway, authority)


def test_settlement_records_new_channels_then_one_event_with_every_channel_paid(world: World) -> None:
    vendor = world.vendor()
    agents = sorted(
        (world.agent(USDC) for _ in range(3)),
        key=lambda agent: bytes(world.network.channel(agent.pubkey(), vendor.gateway.pubkey())),
    )
    done(world.settle(vendor, world.item(agents[1], vendor.gateway, 500)))
    items = [
        world.item(agents[0], vendor.gateway, 100),
        world.item(agents[1], vendor.gateway, 400, create=False),  # stale: skipped
    ]
    opened, settled = done(world.settle(vendor, *items)).events
    assert opened == name("ChannelOpened") + keys(
        items[0].voucher.channel, world.network.mint, agents[0], vendor.gateway, vendor.key
    )
    assert settled == _settled(world, vendor, [(items[0].voucher.channel, agents[0], 100, 100)], owed=False)

    items = [world.item(agent, vendor.gateway, 600, create=agent is agents[2]) for agent in agents[1:]]
    _, settled = done(world.settle(vendor, *items)).events
    expected = [
        (items[0].voucher.channel, agents[1], 100, 600),
        (items[1].voucher.channel, agents[2], 600, 600),
    ]
    assert settled == _settled(world, vendor, expected, owed=False)


def test_what_is_owed_is_recorded_as_owed(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(USDC)
    world.token_account(vendor.key, state=TokenAccountState.Frozen, at=vendor.payout)
    item = world.item(agent, vendor.gateway, 100)
    _, settled = done(world.settle(vendor, item)).events
    assert settled == _settled(world, vendor, [(item.voucher.channel, agent, 100, 100)], owed=True)


def test_a_shortfall_records_what_was_missing(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(USDC)
    item = world.item(agent, vendor.gateway, USDC + 30)
    _, shortfall, settled = done(world.settle(vendor, item)).events
    expected = keys(item.voucher.channel, agent, vendor.gateway, vendor.key) + struct.pack("<QQ", 30, USDC)
    assert shortfall == name("Shortfall") + expected
    assert settled == _settled(world, vendor, [(item.voucher.channel, agent, USDC, USDC)], owed=False)


def test_nobody_else_can_record_events(world: World) -> None:
    data = EVENT_TAG + name("Deposited") + bytes(100)
    stranger = world.agent()
    authority = world.network.event_authority()
    forged = Instruction(world.network.program_id, data, [AccountMeta(stranger.pubkey(), True, False)])
    refused(world.send(forged, signers=(stranger,)), "WrongAddress")
    forged = Instruction(world.network.program_id, data, [AccountMeta(authority, False, False)])
    refused(world.send(forged), "MissingSignature")
    refused(world.send(Instruction(world.network.program_id, data, [])), "WrongAccountCount")


def _settled(world: World, vendor, channels: list[tuple[Pubkey, Keypair, int, int]], *, owed: bool) -> bytes:
    expected = name("Settled") + keys(world.network.mint, vendor.key, vendor.payout)
    expected += struct.pack("<I", len(channels))
    for channel, agent, amount, settled in channels:
        expected += keys(channel, agent, vendor.gateway) + struct.pack("<QQ", amount, settled)
    return expected + struct.pack("<Q?", sum(amount for _, _, amount, _ in channels), owed)
