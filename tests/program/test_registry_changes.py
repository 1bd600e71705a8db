"""update_vendor and revoke_gateway: a payout account moves, a key is given up; channels keep paying the same vendor."""

import struct

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token.state import TokenAccountState

from machpay.chain import instructions as build
from machpay.chain.network import Network
from tests.program.test_events import keys, name
from tests.program.world import NOW, USDC, Done, Refused, Vendor, World, done, refused


def update(
    world: World,
    vendor: Vendor,
    *,
    payout: Pubkey | None = None,
    price: int = 2_000,
    uri: str = "https://new.example",
) -> Done | Refused:
    ix = build.update_vendor(
        world.network, authority=vendor.key, payout=payout or vendor.payout, price=price, metadata_uri=uri
    )
    return world.send(ix, signers=(world.payer, vendor.authority))


def revoke(world: World, gateway: Keypair, by: Keypair) -> Done | Refused:
    ix = build.revoke_gateway(world.network, gateway=gateway.pubkey(), authority=by.pubkey())
    return world.send(ix, signers=(world.payer, by))


# ---- update_vendor


def test_a_vendor_changes_payout_price_and_uri(world: World) -> None:
    vendor = world.vendor()
    payout = world.token_account(Keypair().pubkey())
    (event,) = done(update(world, vendor, payout=payout, price=7, uri="é")).events
    account = world.vendor_account(vendor.authority)
    assert account is not None
    assert (account.authority, account.mint) == (vendor.key, world.network.mint)
    assert (account.payout, account.price_atomic, account.metadata_uri) == (payout, 7, "é")
    assert (
        event
        == name("VendorUpdated")
        + keys(vendor.key, world.network.mint, payout)
        + struct.pack("<QI", 7, 2)
        + "é".encode()
    )


def test_a_shorter_uri_leaves_nothing_of_the_longer_one(world: World) -> None:
    vendor = world.vendor()
    done(update(world, vendor, uri="u" * 128))
    done(update(world, vendor, uri="v"))
    data = world.data(world.network.vendor_account(vendor.key))
    assert data is not None
    assert data[120:248] == b"v".ljust(128, b"\0")


@pytest.mark.parametrize("uri", [b"u" * 129, b"\xff\xfe"], ids=["129 bytes", "not UTF-8"])
def test_a_longer_uri_or_one_that_is_no_text_is_refused(world: World, uri: bytes) -> None:
    vendor = world.vendor()
    ix = _update_ix(world, vendor)
    data = bytes(ix.data)[:16] + struct.pack("<I", len(uri)) + uri
    with world.nothing_moves():
        refused(_vendor_sends(world, vendor, data, list(ix.accounts)), "MetadataTooLong")


def test_the_new_payout_account_is_paid_from_then_on(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(USDC)
    done(world.settle(vendor, world.item(agent, vendor.gateway, 100)))
    payout = world.token_account(vendor.key)
    done(update(world, vendor, payout=payout))
    with world.nothing_moves():
        refused(world.settle(vendor, world.item(agent, vendor.gateway, 300)), "WrongAddress")
    moved = Vendor(vendor.authority, vendor.gateway, payout)
    done(world.settle(moved, world.item(agent, vendor.gateway, 300)))
    assert (world.tokens(vendor.payout), world.tokens(payout)) == (100, 200)


def test_only_the_vendor_updates_itself(world: World) -> None:
    vendor, thief = world.vendor(), world.vendor()
    ix = build.update_vendor(
        world.network, authority=thief.key, payout=thief.payout, price=1, metadata_uri=""
    )
    accounts = list(ix.accounts)
    accounts[0] = AccountMeta(world.network.vendor_account(vendor.key), False, True)
    with world.nothing_moves():
        refused(_vendor_sends(world, thief, bytes(ix.data), accounts), "WrongVendor")


def test_an_update_needs_the_vendors_signature(world: World) -> None:
    vendor = world.vendor()
    ix = _update_ix(world, vendor)
    accounts = list(ix.accounts)
    accounts[1] = AccountMeta(vendor.key, False, False)
    with world.nothing_moves():
        refused(world.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_a_new_payout_account_must_be_live_of_the_mint_and_not_the_vaults(world: World) -> None:
    vendor = world.vendor()
    bad = [
        world.token_account(vendor.key, state=TokenAccountState.Frozen),
        world.token_account(vendor.key, mint=world.new_mint()),
        world.token_account(vendor.key, program=world.network.program_id),
        world.token_account(world.network.bond()),
        world.network.vault(),
        world.network.mint,
        Keypair().pubkey(),
    ]
    with world.nothing_moves():
        for payout in bad:
            refused(update(world, vendor, payout=payout), "InvalidPayoutAccount")


def test_a_vendor_whose_payout_account_is_frozen_can_still_change_its_price(world: World) -> None:
    vendor = world.vendor()
    world.token_account(vendor.key, state=TokenAccountState.Frozen, at=vendor.payout)
    done(update(world, vendor, price=9))
    account = world.vendor_account(vendor.authority)
    assert account is not None
    assert (account.price_atomic, account.payout) == (9, vendor.payout)


def test_a_vendor_keeps_its_mint(world: World) -> None:
    vendor, network = world.vendor(), world.network
    world.network = Network(network.program_id, world.new_mint(), network.domain)
    done(world.initialize_bond())
    payout = world.token_account(vendor.key)
    with world.nothing_moves():
        refused(update(world, vendor, payout=payout), "WrongMint")


def test_updates_take_exactly_their_accounts_and_arguments(world: World) -> None:
    vendor = world.vendor()
    ix = _update_ix(world, vendor)
    data, accounts = bytes(ix.data), list(ix.accounts)
    gateway = AccountMeta(world.network.gateway_account(vendor.gateway.pubkey()), False, True)
    program = AccountMeta(world.network.mint, False, False)
    with world.nothing_moves():
        refused(_vendor_sends(world, vendor, data + b"\0", accounts), "InvalidInstructionData")
        refused(_vendor_sends(world, vendor, data[:-1], accounts), "InvalidInstructionData")
        refused(_vendor_sends(world, vendor, data, accounts[:-1]), "WrongAccountCount")
        refused(_vendor_sends(world, vendor, data, [gateway, *accounts[1:]]), "WrongAccountKind")
        refused(_vendor_sends(world, vendor, data, [*accounts[:5], program]), "WrongProgram")
        swapped = [*accounts[:2], program, *accounts[3:]]
        refused(_vendor_sends(world, vendor, data, swapped), "WrongAccountOwner")


# ---- revoke_gateway


def test_a_gateway_is_revoked_with_its_time(world: World) -> None:
    vendor = world.vendor()
    world.wait(60)
    (event,) = done(revoke(world, vendor.gateway, vendor.authority)).events
    account = world.gateway_account(vendor.gateway)
    assert account is not None
    assert (account.revoked, account.registered_at, account.revoked_at) == (True, NOW, NOW + 60)
    assert account.vendor == vendor.key
    assert event == name("GatewayRevoked") + keys(vendor.gateway, vendor.key)


def test_revocation_is_one_way(world: World) -> None:
    vendor, other = world.vendor(), world.vendor()
    done(revoke(world, vendor.gateway, vendor.authority))
    with world.nothing_moves():
        refused(revoke(world, vendor.gateway, vendor.authority), "GatewayRevoked")
        refused(world.register_gateway(vendor.authority, vendor.gateway), "AlreadyInitialized")
        refused(world.register_gateway(other.authority, vendor.gateway), "AlreadyInitialized")


def test_only_the_gateways_vendor_revokes_it(world: World) -> None:
    vendor, other = world.vendor(), world.vendor()
    with world.nothing_moves():
        for key in (other.authority, vendor.gateway, world.admin, world.relayer):
            refused(revoke(world, vendor.gateway, key), "WrongVendor")


def test_a_revocation_needs_the_vendors_signature(world: World) -> None:
    vendor = world.vendor()
    ix = build.revoke_gateway(world.network, gateway=vendor.gateway.pubkey(), authority=vendor.key)
    accounts = list(ix.accounts)
    accounts[1] = AccountMeta(vendor.key, False, False)
    with world.nothing_moves():
        refused(world.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_a_revoked_gateways_channels_keep_paying_the_same_vendor(world: World) -> None:
    vendor, old, new = world.vendor(), world.agent(USDC), world.agent(USDC)
    done(world.settle(vendor, world.item(old, vendor.gateway, 100)))
    done(revoke(world, vendor.gateway, vendor.authority))
    done(world.settle(vendor, world.item(old, vendor.gateway, 300, create=False)))
    done(world.settle(vendor, world.item(new, vendor.gateway, 50)))
    assert world.tokens(vendor.payout) == 350


def test_an_unregistered_gateway_cannot_be_revoked(world: World) -> None:
    vendor = world.vendor()
    with world.nothing_moves():
        refused(revoke(world, Keypair(), vendor.authority), "WrongAccountOwner")


def test_revocations_take_exactly_their_accounts_and_arguments(world: World) -> None:
    vendor = world.vendor()
    ix = build.revoke_gateway(world.network, gateway=vendor.gateway.pubkey(), authority=vendor.key)
    data, accounts = bytes(ix.data), list(ix.accounts)
    itself = AccountMeta(world.network.vendor_account(vendor.key), False, True)
    mint = AccountMeta(world.network.mint, False, False)
    with world.nothing_moves():
        refused(_vendor_sends(world, vendor, data + b"\0", accounts), "InvalidInstructionData")
        refused(_vendor_sends(world, vendor, data, accounts[:-1]), "WrongAccountCount")
        refused(_vendor_sends(world, vendor, data, [itself, *accounts[1:]]), "WrongAccountKind")
        refused(_vendor_sends(world, vendor, data, [*accounts[:2], mint, accounts[3]]), "WrongAddress")
        refused(_vendor_sends(world, vendor, data, [*accounts[:3], mint]), "WrongProgram")


def _update_ix(world: World, vendor: Vendor) -> Instruction:
    return build.update_vendor(
        world.network, authority=vendor.key, payout=vendor.payout, price=5, metadata_uri="uri"
    )


def _vendor_sends(world: World, vendor: Vendor, data: bytes, accounts: list[AccountMeta]) -> Done | Refused:
    ix = Instruction(world.network.program_id, data, accounts)
    return world.send(ix, signers=(world.payer, vendor.authority))
