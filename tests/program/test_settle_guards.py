"""settle_cumulative: every account and argument it refuses. Nothing moves in any of these."""

import pytest
from solders.account import Account
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain import instructions as build
from machpay.chain.ed25519 import attest
from machpay.chain.network import Network
from tests.program.world import LAMPORTS, USDC, Done, Refused, Vendor, World, done, refused

RELAYER, BOND, VAULT, VENDOR, PAYOUT, TOKEN, SYSVAR, EVENTS, PROGRAM, CHANNEL, AGENT = range(11)


class Scene:
    """One vendor and one agent with an open channel; a settlement of 100 more is due."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.vendor: Vendor = world.vendor()
        self.agent = world.agent(USDC)
        done(world.settle(self.vendor, world.item(self.agent, self.vendor.gateway, 50)))
        self.attest, self.settle = world.settle_ixs(
            self.vendor, world.item(self.agent, self.vendor.gateway, 150, create=False)
        )

    def with_account(self, index: int, address: Pubkey) -> Done | Refused:
        accounts = list(self.settle.accounts)
        accounts[index] = AccountMeta(address, accounts[index].is_signer, accounts[index].is_writable)
        return self.with_accounts(accounts)

    def with_accounts(self, accounts: list[AccountMeta]) -> Done | Refused:
        return self.send(Instruction(self.settle.program_id, bytes(self.settle.data), accounts))

    def with_data(self, data: bytes) -> Done | Refused:
        return self.send(Instruction(self.settle.program_id, data, self.settle.accounts))

    def send(self, settle: Instruction) -> Done | Refused:
        with self.world.nothing_moves():
            return self.world.send(self.attest, settle, signers=(self.world.relayer,))


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


def test_the_unchanged_instruction_is_accepted(scene: Scene) -> None:
    done(scene.world.send(scene.attest, scene.settle, signers=(scene.world.relayer,)))
    assert scene.world.tokens(scene.vendor.payout) == 150


# ---- the relayer


def test_an_agent_cannot_settle_to_its_own_vendor_without_the_relayer(scene: Scene) -> None:
    accounts = list(scene.settle.accounts)
    accounts[RELAYER] = AccountMeta(scene.agent.pubkey(), True, True)
    with scene.world.nothing_moves():
        ix = Instruction(scene.settle.program_id, bytes(scene.settle.data), accounts)
        refused(scene.world.send(scene.attest, ix, signers=(scene.agent,)), "NotRelayer")


def test_the_relayer_named_without_a_signature_is_refused(scene: Scene) -> None:
    accounts = list(scene.settle.accounts)
    accounts[RELAYER] = AccountMeta(scene.world.relayer.pubkey(), False, True)
    with scene.world.nothing_moves():
        ix = Instruction(scene.settle.program_id, bytes(scene.settle.data), accounts)
        refused(scene.world.send(scene.attest, ix, signers=(scene.agent,)), "MissingSignature")


def test_the_admin_is_not_the_relayer(scene: Scene) -> None:
    accounts = list(scene.settle.accounts)
    accounts[RELAYER] = AccountMeta(scene.world.admin.pubkey(), True, True)
    with scene.world.nothing_moves():
        ix = Instruction(scene.settle.program_id, bytes(scene.settle.data), accounts)
        refused(scene.world.send(scene.attest, ix, signers=(scene.world.admin,)), "NotRelayer")


# ---- named accounts


def test_a_bond_account_of_another_program_is_refused(scene: Scene) -> None:
    forged = Keypair().pubkey()
    original = scene.world.data(scene.world.network.bond())
    assert original is not None
    scene.world.svm.set_account(forged, Account(LAMPORTS, original, TOKEN_PROGRAM_ID))
    refused(scene.with_account(BOND, forged), "WrongAccountOwner")


def test_another_kind_of_account_is_no_bond(scene: Scene) -> None:
    refused(
        scene.with_account(BOND, scene.world.network.agent_account(scene.agent.pubkey())), "WrongAccountKind"
    )


def test_another_account_is_not_the_vault(scene: Scene) -> None:
    other = scene.world.token_account(scene.world.network.bond(), USDC)
    refused(scene.with_account(VAULT, other), "WrongAddress")


def test_money_goes_to_the_vendors_recorded_account_only(scene: Scene) -> None:
    other = scene.world.token_account(scene.vendor.key)
    refused(scene.with_account(PAYOUT, other), "WrongAddress")


def test_another_vendor_cannot_be_paid_for_the_channel(scene: Scene) -> None:
    thief = scene.world.vendor()
    accounts = list(scene.settle.accounts)
    accounts[VENDOR] = AccountMeta(scene.world.network.vendor_account(thief.key), False, False)
    accounts[PAYOUT] = AccountMeta(thief.payout, False, True)
    refused(scene.with_accounts(accounts), "WrongVendor")


def test_a_gateway_account_is_no_vendor_account(scene: Scene) -> None:
    gateway = scene.world.network.gateway_account(scene.vendor.gateway.pubkey())
    refused(scene.with_account(VENDOR, gateway), "WrongAccountKind")


def test_the_token_program_must_be_the_real_one(scene: Scene) -> None:
    refused(scene.with_account(TOKEN, build.UPGRADEABLE_LOADER_ID), "WrongProgram")


def test_the_instructions_sysvar_must_be_the_real_one(scene: Scene) -> None:
    refused(scene.with_account(SYSVAR, Keypair().pubkey()), "WrongAddress")


def test_the_event_authority_must_be_the_real_one(scene: Scene) -> None:
    assert isinstance(scene.with_account(EVENTS, Keypair().pubkey()), Refused)


def test_the_program_must_be_this_one(scene: Scene) -> None:
    refused(scene.with_account(PROGRAM, TOKEN_PROGRAM_ID), "WrongProgram")


@pytest.mark.parametrize("index", [VAULT, PAYOUT, CHANNEL, AGENT])
def test_read_only_accounts_cannot_be_settled(scene: Scene, index: int) -> None:
    accounts = list(scene.settle.accounts)
    accounts[index] = AccountMeta(accounts[index].pubkey, False, False)
    assert isinstance(scene.with_accounts(accounts), Refused)


# ---- channels and agents


def test_an_agent_account_of_someone_else_is_refused(scene: Scene) -> None:
    victim = scene.world.agent(USDC)
    refused(scene.with_account(AGENT, scene.world.network.agent_account(victim.pubkey())), "WrongAgent")


def test_a_channel_in_place_of_the_agent_account_is_refused(scene: Scene) -> None:
    channel = scene.world.network.channel(scene.agent.pubkey(), scene.vendor.gateway.pubkey())
    assert isinstance(scene.with_account(AGENT, channel), Refused)


def test_a_channel_account_of_another_program_is_refused(scene: Scene) -> None:
    world, channel = scene.world, scene.settle.accounts[CHANNEL].pubkey
    data = world.data(channel)
    assert data is not None
    world.svm.set_account(channel, Account(LAMPORTS, data, TOKEN_PROGRAM_ID))
    refused(scene.with_account(CHANNEL, channel), "WrongAccountOwner")


def test_a_channel_of_a_later_layout_is_refused(scene: Scene) -> None:
    scene.world.patch(scene.settle.accounts[CHANNEL].pubkey, 8, b"\2")
    refused(scene.with_account(CHANNEL, scene.settle.accounts[CHANNEL].pubkey), "WrongAccountKind")


def test_a_missing_channel_must_be_flagged(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(USDC)
    with world.nothing_moves():
        refused(world.settle(vendor, world.item(agent, vendor.gateway, 10, create=False)), "ChannelMissing")


def test_channels_of_two_vendors_do_not_mix(world: World) -> None:
    first, second, agent = world.vendor(), world.vendor(), world.agent(USDC)
    done(world.settle(first, world.item(agent, first.gateway, 10)))
    done(world.settle(second, world.item(agent, second.gateway, 10)))
    items = [world.item(agent, vendor.gateway, 20, create=False) for vendor in (first, second)]
    with world.nothing_moves():
        refused(world.settle(first, *items), "WrongVendor")


def test_a_new_channel_needs_a_gateway_of_the_vendor(world: World) -> None:
    first, second, agent = world.vendor(), world.vendor(), world.agent(USDC)
    with world.nothing_moves():
        refused(world.settle(first, world.item(agent, second.gateway, 10)), "WrongVendor")


def test_an_unregistered_gateway_opens_no_channel(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(USDC)
    with world.nothing_moves():
        refused(world.settle(vendor, world.item(agent, Keypair(), 10)), "WrongAccountOwner")


def test_a_new_channel_must_be_at_the_derived_address(world: World) -> None:
    vendor, agent, other = world.vendor(), world.agent(USDC), world.agent(USDC)
    attestation, settle = world.settle_ixs(vendor, world.item(agent, vendor.gateway, 10))
    accounts = list(settle.accounts)
    accounts[AGENT] = AccountMeta(world.network.agent_account(other.pubkey()), False, True)
    with world.nothing_moves():
        ix = Instruction(settle.program_id, bytes(settle.data), accounts)
        refused(world.send(attestation, ix, signers=(world.relayer,)), "WrongAddress")


def test_a_new_channels_system_program_must_be_the_real_one(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(USDC)
    attestation, settle = world.settle_ixs(vendor, world.item(agent, vendor.gateway, 10))
    accounts = list(settle.accounts)
    accounts[11] = AccountMeta(TOKEN_PROGRAM_ID, False, False)
    ix = Instruction(settle.program_id, bytes(settle.data), accounts)
    refused(world.send(attestation, ix, signers=(world.relayer,)), "WrongProgram")


def test_an_agent_without_an_account_cannot_be_settled(world: World) -> None:
    vendor, agent = world.vendor(), world.agent()
    refused(world.settle(vendor, world.item(agent, vendor.gateway, 10)), "WrongAccountOwner")


def test_bonds_of_different_mints_do_not_mix(world: World) -> None:
    """The agent has a bond in both mints and the relayer is the same: each bond pays only its own vouchers."""
    vendor, agent = world.vendor(), world.agent(USDC)
    done(world.settle(vendor, world.item(agent, vendor.gateway, 10)))
    first = world.network
    world.network = Network(first.program_id, world.new_mint(), first.domain)
    done(world.initialize_bond())
    done(world.deposit(agent, USDC))
    attestation, settle = world.settle_ixs(vendor, world.item(agent, vendor.gateway, 20))

    accounts = list(settle.accounts)
    accounts[AGENT] = AccountMeta(first.agent_account(agent.pubkey()), False, True)
    for forged in (settle, Instruction(settle.program_id, bytes(settle.data), accounts)):
        with world.nothing_moves():
            refused(world.send(attestation, forged, signers=(world.relayer,)), "WrongMint")

    second, world.network = world.network, first
    old_voucher = attest([(agent.pubkey(), world.voucher(agent, vendor.gateway.pubkey(), 20))])
    world.network = second
    accounts = list(settle.accounts)
    accounts[VENDOR] = AccountMeta(first.vendor_account(vendor.key), False, False)
    accounts[CHANNEL] = AccountMeta(first.channel(agent.pubkey(), vendor.gateway.pubkey()), False, True)
    with world.nothing_moves():
        ix = Instruction(settle.program_id, bytes(settle.data), accounts)
        refused(world.send(old_voucher, ix, signers=(world.relayer,)), "WrongMint")


# ---- order and arguments


def test_channels_in_another_order_are_refused(world: World) -> None:
    vendor, items = _two(world)
    attestation, settle = _in_order(world, vendor, list(reversed(items)))
    with world.nothing_moves():
        refused(world.send(attestation, settle, signers=(world.relayer,)), "ChannelsNotSorted")


def test_a_channel_twice_is_refused(world: World) -> None:
    vendor, items = _two(world)
    attestation, settle = _in_order(world, vendor, [items[0], items[0]])
    with world.nothing_moves():
        refused(world.send(attestation, settle, signers=(world.relayer,)), "ChannelsNotSorted")


def test_the_builder_refuses_a_channel_twice_and_a_voucher_of_another_channel(world: World) -> None:
    vendor, items = _two(world)
    with pytest.raises(ValueError, match="given twice"):
        world.settle_ixs(vendor, items[0], items[0])
    swapped = build.ChannelSettlement(items[0].agent, items[0].gateway, items[1].voucher, 1)
    with pytest.raises(ValueError, match="another channel"):
        world.settle_ixs(vendor, swapped)
    with pytest.raises(ValueError, match="1 to 8"):
        world.settle_ixs(vendor)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("nothing", b""),
        ("no channel", b"\0"),
        ("a byte too few", b"\0" + bytes(7)),
        ("a byte too many", b"\0" + bytes(9)),
        ("a flag beyond the channels", b"\2" + bytes(8)),
        ("nine channels", b"\0" + bytes(72)),
    ],
)
def test_arguments_of_another_form_are_refused(scene: Scene, name: str, data: bytes) -> None:
    refused(scene.with_data(bytes(scene.settle.data)[:8] + data), "InvalidInstructionData")


def test_accounts_too_few_or_too_many_are_refused(scene: Scene) -> None:
    accounts = list(scene.settle.accounts)
    extra = AccountMeta(Keypair().pubkey(), False, False)
    for count in (0, 8, 9, 10):
        refused(scene.with_accounts(accounts[:count]), "WrongAccountCount")
    refused(scene.with_accounts([*accounts, extra]), "WrongAccountCount")


def test_a_flag_needs_exactly_its_gateway_accounts(scene: Scene) -> None:
    data = bytes(scene.settle.data)[:8] + b"\1" + bytes(scene.settle.data)[9:]
    gateway = AccountMeta(scene.world.network.gateway_account(scene.vendor.gateway.pubkey()), False, False)
    system = AccountMeta(Pubkey.default(), False, False)
    for tail in ([], [system], [gateway], [system, gateway, gateway]):
        ix = Instruction(scene.settle.program_id, data, [*scene.settle.accounts, *tail])
        refused(scene.send(ix), "WrongAccountCount")


def _two(world: World) -> tuple[Vendor, list[build.ChannelSettlement]]:
    """A vendor and two open channels, in the program's order."""
    vendor = world.vendor()
    agents = [world.agent(USDC) for _ in range(2)]
    done(world.settle(vendor, *(world.item(agent, vendor.gateway, 10) for agent in agents)))
    items = [world.item(agent, vendor.gateway, 20, create=False) for agent in agents]
    return vendor, sorted(items, key=lambda item: bytes(item.voucher.channel))


def _in_order(
    world: World, vendor: Vendor, items: list[build.ChannelSettlement]
) -> tuple[Instruction, Instruction]:
    """The two instructions with channels exactly as given, which the builder would not do."""
    _, settle = world.settle_ixs(vendor, items[0])
    accounts = list(settle.accounts)[:CHANNEL]
    data = bytes(settle.data)[:9]
    for item in items:
        accounts.append(AccountMeta(item.voucher.channel, False, True))
        accounts.append(AccountMeta(world.network.agent_account(item.agent), False, True))
        data += item.up_to.to_bytes(8, "little")
    attestation = attest([(item.agent, item.voucher) for item in items])
    return attestation, Instruction(settle.program_id, data, accounts)
