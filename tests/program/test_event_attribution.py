"""Which bytes of a transaction are the program's events: judged by the invoke stack, whoever else writes the same."""

import base64
import struct
from dataclasses import replace

import pytest
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import instructions as build
from machpay.chain.errors import DecodeError
from machpay.chain.events import (
    ChannelOpened,
    Deposited,
    Settled,
    SettledChannel,
    Shortfall,
    VendorRegistered,
    decode_event,
    discriminator,
)
from machpay.chain.network import Network
from machpay.chain.traces import INSTRUCTION_TAG, Invocation, recorded_events
from tests.program.world import ARTIFACT, USDC, World, done

MEMO_PROGRAM = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")


def test_a_settlements_events_are_read_whole_and_in_order(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(USDC)
    item = world.item(agent, vendor.gateway, USDC + 30)
    outcome = done(world.settle(vendor, item))
    found = recorded_events(world.network, outcome.trace)
    channel, gateway, mint = item.voucher.channel, vendor.gateway.pubkey(), world.network.mint
    assert [record.event for record in found] == [
        ChannelOpened(channel, mint, agent.pubkey(), gateway, vendor.key),
        Shortfall(channel, agent.pubkey(), gateway, vendor.key, 30, USDC),
        Settled(
            mint,
            vendor.key,
            vendor.payout,
            (SettledChannel(channel, agent.pubkey(), gateway, USDC, USDC),),
            USDC,
            owed=False,
        ),
    ]
    # The settlement is the second instruction, after the signature check.
    assert [record.instruction for record in found] == [1, 1, 1]
    assert {record.caller.data[:8] for record in found} == {build.discriminator("settle_cumulative")}


def test_text_is_read_back(world: World) -> None:
    authority = Keypair()
    payout = world.token_account(authority.pubkey())
    outcome = done(world.register_vendor(authority, payout, uri="https://é"))
    (record,) = recorded_events(world.network, outcome.trace)
    expected = VendorRegistered(authority.pubkey(), world.network.mint, payout, 1_000, "https://é")
    assert record.event == expected


def test_the_same_bytes_recorded_by_another_program_are_not_ours(world: World) -> None:
    """An impostor deploys our very bytecode under its own id, and both are used in one transaction."""
    real = world.network
    impostor = Network(Keypair().pubkey(), world.new_mint(), real.domain)
    world.svm.add_program(impostor.program_id, ARTIFACT.read_bytes())
    world._name_upgrade_authority(impostor.program_id)
    world.network = impostor
    done(world.initialize_bond())
    agent = world.agent()
    ixs = []
    for network, amount in ((impostor, 9 * USDC), (real, 2 * USDC)):
        source = world.token_account(agent.pubkey(), amount, mint=network.mint)
        ixs.append(
            build.deposit_bond(
                network, agent=agent.pubkey(), source=source, amount=amount, owner=agent.pubkey()
            )
        )
    outcome = done(world.send(*ixs, signers=(agent,)))
    assert len(outcome.events) == 2
    key = agent.pubkey()
    (mine,) = recorded_events(real, outcome.trace)
    assert (mine.event, mine.instruction) == (Deposited(real.mint, key, key, key, 2 * USDC, 2 * USDC), 1)
    (theirs,) = recorded_events(impostor, outcome.trace)
    assert (theirs.event, theirs.instruction) == (
        Deposited(impostor.mint, key, key, key, 9 * USDC, 9 * USDC),
        0,
    )


def test_what_a_foreign_program_prints_is_no_event(world: World) -> None:
    agent = world.agent(USDC)
    (event,) = done(world.deposit(agent, USDC)).events
    printed = b"Program data: " + base64.b64encode(event)
    outcome = done(world.send(Instruction(MEMO_PROGRAM, printed, []), signers=(agent,)))
    assert any("Program data: " in line for line in outcome.logs)
    assert recorded_events(world.network, outcome.trace) == []


def test_the_tag_as_a_foreign_programs_data_is_no_event(world: World) -> None:
    """Another program takes any bytes as its data, also exactly ours."""
    agent = world.agent(USDC)
    genuine = done(world.deposit(agent, USDC))
    event = next(call for call in genuine.trace[0] if call.data.startswith(INSTRUCTION_TAG))
    foreign = replace(event, program_id=MEMO_PROGRAM)
    assert recorded_events(world.network, [[*genuine.trace[0][:1], foreign]]) == []


# ---- stacks that only a cluster with other programs has


@pytest.fixture
def network() -> Network:
    return World().network


def _event(network: Network, height: int, data: bytes | None = None) -> Invocation:
    body = discriminator("GatewayRevoked") + bytes(64) if data is None else data
    return Invocation(network.program_id, (network.event_authority(),), INSTRUCTION_TAG + body, height)


def _call(program: Pubkey, height: int) -> Invocation:
    return Invocation(program, (), b"anything", height)


def test_the_program_called_by_another_one_records_events_one_level_deeper(network: Network) -> None:
    wrapper = Keypair().pubkey()
    inner = replace(_call(network.program_id, 2), data=b"the wrapped instruction")
    trace = [
        [_call(MEMO_PROGRAM, 1)],
        [_call(wrapper, 1), inner, _event(network, 3), _call(wrapper, 2), _call(network.program_id, 3)],
    ]
    (record,) = recorded_events(network, trace)
    assert (record.instruction, record.caller) == (1, inner)


def test_a_call_with_the_tag_by_anybody_else_is_no_event(network: Network) -> None:
    wrapper = Keypair().pubkey()
    assert recorded_events(network, [[_event(network, 1)]]) == []
    assert recorded_events(network, [[_call(wrapper, 1), _event(network, 2)]]) == []
    # The program ran before, at the same height: it is not the caller any more.
    trace = [[_call(wrapper, 1), _call(network.program_id, 2), _event(network, 2)]]
    assert recorded_events(network, trace) == []


def test_a_call_without_the_event_authority_is_no_event(network: Network) -> None:
    ours = _call(network.program_id, 1)
    for accounts in ((), (Keypair().pubkey(),), (network.event_authority(), Keypair().pubkey())):
        assert recorded_events(network, [[ours, replace(_event(network, 2), accounts=accounts)]]) == []


@pytest.mark.parametrize("heights", [(2,), (1, 3), (1, 0), (0,)])
def test_a_stack_with_a_gap_is_refused(network: Network, heights: tuple[int, ...]) -> None:
    with pytest.raises(DecodeError, match="gap"):
        recorded_events(network, [[_call(network.program_id, height) for height in heights]])


def test_an_unknown_event_is_refused_and_not_skipped(network: Network) -> None:
    ours = _call(network.program_id, 1)
    with pytest.raises(DecodeError, match="not an event"):
        recorded_events(network, [[ours, _event(network, 2, b"12345678")]])


@pytest.mark.parametrize("length", [0, 63, 65])
def test_an_event_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(DecodeError):
        decode_event(discriminator("GatewayRevoked") + bytes(length))


def test_a_list_longer_than_the_event_is_refused() -> None:
    with pytest.raises(DecodeError, match="ends before"):
        decode_event(discriminator("Distributed") + bytes(96) + struct.pack("<I", 2**32 - 1))


def test_a_bool_that_is_none_and_text_that_is_none_are_refused() -> None:
    settled = discriminator("Settled") + bytes(96 + 4 + 8)
    with pytest.raises(DecodeError, match="bool"):
        decode_event(settled + b"\2")
    vendor = discriminator("VendorUpdated") + bytes(96 + 8)
    with pytest.raises(DecodeError, match="UTF-8"):
        decode_event(vendor + struct.pack("<I", 1) + b"\xff")
