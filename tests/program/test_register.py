"""register_vendor and register_gateway: who is paid where, and which gateway serves whom, once and for ever."""

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token.state import TokenAccountState

from machpay.chain import instructions as build
from machpay.chain.network import Network
from tests.program.world import LAMPORTS, NOW, Refused, World, done, refused


def test_a_vendor_is_recorded_with_payout_price_and_uri(world: World) -> None:
    authority = Keypair()
    payout = world.token_account(Keypair().pubkey())
    done(world.register_vendor(authority, payout, uri="https://vendor.example/machpay.json"))
    vendor = world.vendor_account(authority)
    assert vendor is not None
    _, bump = Pubkey.find_program_address([b"vendor", bytes(authority.pubkey())], world.network.program_id)
    assert (vendor.bump, vendor.authority, vendor.mint) == (bump, authority.pubkey(), world.network.mint)
    assert (vendor.payout, vendor.price_atomic) == (payout, 1_000)
    assert vendor.metadata_uri == "https://vendor.example/machpay.json"


@pytest.mark.parametrize("uri", ["", "u" * 128, "é" * 64])
def test_a_uri_of_up_to_128_bytes_is_kept(world: World, uri: str) -> None:
    authority = Keypair()
    done(world.register_vendor(authority, world.token_account(authority.pubkey()), uri=uri))
    vendor = world.vendor_account(authority)
    assert vendor is not None
    assert vendor.metadata_uri == uri


@pytest.mark.parametrize("uri", [b"u" * 129, b"\xff\xfe"], ids=["129 bytes", "not UTF-8"])
def test_a_longer_uri_or_one_that_is_no_text_is_refused(world: World, uri: bytes) -> None:
    authority = Keypair()
    ix = _vendor_ix(world, authority, world.token_account(authority.pubkey()))
    data = bytes(ix.data)[:16] + len(uri).to_bytes(4, "little") + uri
    refused(_send(world, Instruction(ix.program_id, data, ix.accounts), authority), "MetadataTooLong")
    assert world.vendor_account(authority) is None


def test_a_uri_shorter_than_it_says_is_refused(world: World) -> None:
    authority = Keypair()
    ix = _vendor_ix(world, authority, world.token_account(authority.pubkey()))
    data = bytes(ix.data)[:16] + (2**32 - 1).to_bytes(4, "little") + b"uri"
    refused(_send(world, Instruction(ix.program_id, data, ix.accounts), authority), "InvalidInstructionData")


def test_a_vendor_registers_once(world: World) -> None:
    vendor = world.vendor()
    with world.nothing_moves():
        refused(
            world.register_vendor(vendor.authority, vendor.payout, uri="https://other"), "AlreadyInitialized"
        )


def test_the_vault_is_no_payout_account(world: World) -> None:
    authority = Keypair()
    refused(world.register_vendor(authority, world.network.vault()), "InvalidPayoutAccount")
    refused(
        world.register_vendor(authority, world.token_account(world.network.bond())), "InvalidPayoutAccount"
    )
    assert world.vendor_account(authority) is None


def test_a_payout_account_must_be_live_and_of_the_mint(world: World) -> None:
    authority = Keypair()
    frozen = world.token_account(authority.pubkey(), state=TokenAccountState.Frozen)
    uninitialised = world.token_account(authority.pubkey(), state=TokenAccountState.Uninitialized)
    foreign = world.token_account(authority.pubkey(), mint=world.new_mint())
    not_spl = world.token_account(authority.pubkey(), program=world.network.program_id)
    for payout in (frozen, uninitialised, foreign, not_spl, world.network.mint, Keypair().pubkey()):
        refused(world.register_vendor(authority, payout), "InvalidPayoutAccount")
    assert world.vendor_account(authority) is None


def test_the_vendor_must_sign(world: World) -> None:
    authority = Keypair()
    ix = _vendor_ix(world, authority, world.token_account(authority.pubkey()))
    accounts = list(ix.accounts)
    accounts[1] = AccountMeta(authority.pubkey(), False, False)
    refused(world.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_lamports_sent_ahead_do_not_block_a_vendor_or_gateway(world: World) -> None:
    authority, gateway = Keypair(), Keypair()
    world.svm.airdrop(world.network.vendor_account(authority.pubkey()), LAMPORTS)
    world.svm.airdrop(world.network.gateway_account(gateway.pubkey()), 1)
    done(world.register_vendor(authority, world.token_account(authority.pubkey())))
    done(world.register_gateway(authority, gateway))
    assert world.gateway_account(gateway) is not None


def test_a_vendor_account_must_be_at_the_derived_address(world: World) -> None:
    authority = Keypair()
    ix = _vendor_ix(world, authority, world.token_account(authority.pubkey()))
    other = world.network.vendor_account(Keypair().pubkey())
    refused(_send(world, _with(ix, 0, other), authority), "WrongAddress")


def test_a_vendor_needs_an_existing_bond(bare: World) -> None:
    authority = Keypair()
    refused(bare.register_vendor(authority, bare.token_account(authority.pubkey())), "WrongAccountOwner")


@pytest.mark.parametrize("index", [5, 7], ids=["system_program", "program"])
def test_a_vendors_programs_must_be_the_real_ones(world: World, index: int) -> None:
    authority = Keypair()
    ix = _vendor_ix(world, authority, world.token_account(authority.pubkey()))
    refused(_send(world, _with(ix, index, build.UPGRADEABLE_LOADER_ID), authority), "WrongProgram")


def test_a_gateway_is_bound_to_its_vendor(world: World) -> None:
    vendor = world.vendor()
    account = world.gateway_account(vendor.gateway)
    assert account is not None
    _, bump = Pubkey.find_program_address(
        [b"gateway", bytes(vendor.gateway.pubkey())], world.network.program_id
    )
    assert (account.bump, account.gateway, account.vendor) == (bump, vendor.gateway.pubkey(), vendor.key)
    assert (account.registered_at, account.revoked, account.revoked_at) == (NOW, False, 0)


def test_a_vendor_may_have_several_gateways(world: World) -> None:
    vendor, second = world.vendor(), Keypair()
    done(world.register_gateway(vendor.authority, second))
    account = world.gateway_account(second)
    assert account is not None
    assert account.vendor == vendor.key


def test_a_used_gateway_key_is_never_assigned_again(world: World) -> None:
    first, second = world.vendor(), world.vendor()
    with world.nothing_moves():
        refused(world.register_gateway(second.authority, first.gateway), "AlreadyInitialized")
        refused(world.register_gateway(first.authority, first.gateway), "AlreadyInitialized")


@pytest.mark.parametrize("index", [1, 3], ids=["gateway", "vendor"])
def test_gateway_and_vendor_must_both_sign(world: World, index: int) -> None:
    vendor, gateway = world.vendor(), Keypair()
    ix = _gateway_ix(world, vendor.authority, gateway)
    accounts = list(ix.accounts)
    accounts[index] = AccountMeta(accounts[index].pubkey, False, False)
    other = vendor.authority if index == 1 else gateway
    refused(
        world.send(Instruction(ix.program_id, bytes(ix.data), accounts), signers=(world.payer, other)),
        "MissingSignature",
    )
    assert world.gateway_account(gateway) is None


def test_a_gateway_cannot_be_bound_to_anothers_vendor(world: World) -> None:
    victim, attacker, gateway = world.vendor(), world.vendor(), Keypair()
    ix = _gateway_ix(world, attacker.authority, gateway)
    forged = _with(ix, 2, world.network.vendor_account(victim.key))
    refused(world.send(forged, signers=(world.payer, gateway, attacker.authority)), "WrongVendor")


def test_a_gateway_needs_a_registered_vendor(world: World) -> None:
    refused(world.register_gateway(Keypair(), Keypair()), "WrongAccountOwner")


def test_another_account_of_the_program_is_no_vendor(world: World) -> None:
    vendor, gateway = world.vendor(), Keypair()
    ix = _gateway_ix(world, vendor.authority, gateway)
    forged = _with(ix, 2, world.network.gateway_account(vendor.gateway.pubkey()))
    refused(world.send(forged, signers=(world.payer, gateway, vendor.authority)), "WrongAccountKind")


def test_a_gateways_events_need_the_real_event_authority(world: World) -> None:
    vendor, gateway = world.vendor(), Keypair()
    ix = _gateway_ix(world, vendor.authority, gateway)
    forged = _with(ix, 6, Keypair().pubkey())
    refused(world.send(forged, signers=(world.payer, gateway, vendor.authority)), "WrongAddress")


def test_register_gateway_takes_no_arguments(world: World) -> None:
    vendor, gateway = world.vendor(), Keypair()
    ix = _gateway_ix(world, vendor.authority, gateway)
    longer = Instruction(ix.program_id, bytes(ix.data) + b"\0", ix.accounts)
    refused(world.send(longer, signers=(world.payer, gateway, vendor.authority)), "InvalidInstructionData")


def test_vendors_of_one_program_may_be_paid_in_different_mints(world: World) -> None:
    first = world.vendor()
    network = world.network
    world.network = Network(network.program_id, world.new_mint(), network.domain)
    done(world.initialize_bond())
    second = world.vendor()
    accounts = [world.vendor_account(vendor.authority) for vendor in (first, second)]
    assert [account.mint for account in accounts if account] == [network.mint, world.network.mint]


def test_a_payer_who_cannot_pay_the_rent_creates_nothing(world: World) -> None:
    poor, authority = Keypair(), Keypair()
    world.svm.airdrop(poor.pubkey(), 1_000_000)
    payout = world.token_account(authority.pubkey())
    ix = build.register_vendor(
        world.network, authority=authority.pubkey(), payout=payout, price=1, payer=poor.pubkey()
    )
    with world.nothing_moves():
        assert isinstance(world.send(ix, signers=(world.payer, poor, authority)), Refused)


def _vendor_ix(world: World, authority: Keypair, payout: Pubkey) -> Instruction:
    return build.register_vendor(
        world.network, authority=authority.pubkey(), payout=payout, price=1, payer=world.payer.pubkey()
    )


def _gateway_ix(world: World, authority: Keypair, gateway: Keypair) -> Instruction:
    return build.register_gateway(
        world.network, gateway=gateway.pubkey(), authority=authority.pubkey(), payer=world.payer.pubkey()
    )


def _with(ix: Instruction, index: int, address: Pubkey) -> Instruction:
    accounts = list(ix.accounts)
    accounts[index] = AccountMeta(address, accounts[index].is_signer, accounts[index].is_writable)
    return Instruction(ix.program_id, bytes(ix.data), accounts)


def _send(world: World, ix: Instruction, authority: Keypair):
    return world.send(ix, signers=(world.payer, authority))
