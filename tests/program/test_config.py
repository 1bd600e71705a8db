"""set_config and accept_admin: bounded, and without effect on what is already pending."""

import struct
from typing import Any

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import instructions as build
from machpay.chain.accounts import GlobalBond
from machpay.chain.instructions import ConfigChange
from tests.program.test_events import keys, name
from tests.program.world import NOW, USDC, Done, Refused, World, done, refused

DAY = 86_400
U64_MAX = 2**64 - 1


def change(world: World, by: Keypair | None = None, **changes: Any) -> Done | Refused:
    admin = by or world.admin
    ix = build.set_config(world.network, admin=admin.pubkey(), change=ConfigChange(**changes))
    return world.send(ix, signers=(world.payer, admin))


def accept(world: World, who: Keypair) -> Done | Refused:
    ix = build.accept_admin(world.network, pending_admin=who.pubkey())
    return world.send(ix, signers=(world.payer, who))


def differences(before: GlobalBond, after: GlobalBond) -> dict[str, Any]:
    values = [(field, getattr(before, field), getattr(after, field)) for field in before.__slots__]
    return {field: new for field, old, new in values if old != new}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("relayer", Pubkey(bytes([1] * 32))),
        ("treasury", Pubkey(bytes([2] * 32))),
        ("pending_admin", Pubkey(bytes([3] * 32))),
        ("min_bond", 1),
        ("timelock", 2 * DAY),
        ("claim_delay", 1),
        ("agent_bond_cap", USDC),
        ("agent_bond_cap", U64_MAX),
        ("reporter_bps", 0),
        ("reporter_bps", 5_000),
        ("deposits_paused", True),
        ("allow_list", True),
    ],
)
def test_one_value_changes_and_every_other_stays(world: World, field: str, value: Any) -> None:
    before = world.global_bond()
    done(change(world, **{field: value}))
    assert differences(before, world.global_bond()) == {field: value}


def test_all_values_change_at_once_and_the_event_has_them(world: World) -> None:
    relayer, treasury, successor = (Keypair().pubkey() for _ in range(3))
    outcome = change(
        world,
        pending_admin=successor,
        relayer=relayer,
        treasury=treasury,
        min_bond=5,
        timelock=120,
        claim_delay=60,
        agent_bond_cap=7,
        reporter_bps=9,
        deposits_paused=True,
        allow_list=True,
    )
    (event,) = done(outcome).events
    expected = keys(world.network.mint, world.admin, successor, relayer, treasury)
    assert event == name("ConfigChanged") + expected + struct.pack("<QqqQH??", 5, 120, 60, 7, 9, True, True)


def test_an_empty_change_changes_nothing(world: World) -> None:
    with world.nothing_moves():
        done(change(world))


@pytest.mark.parametrize(
    "changes",
    [
        {"timelock": 60, "claim_delay": 30},
        {"timelock": 30 * DAY},
        {"claim_delay": DAY // 2},
        {"timelock": 61, "claim_delay": 30},
    ],
)
def test_times_at_their_bounds_are_accepted(world: World, changes: dict[str, int]) -> None:
    done(change(world, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"timelock": 59, "claim_delay": 1},
        {"timelock": 30 * DAY + 1},
        {"timelock": -1},
        {"timelock": 2**63 - 1},
        {"timelock": -(2**63)},
        {"claim_delay": 0},
        {"claim_delay": -1},
        {"claim_delay": DAY // 2 + 1},
        {"timelock": DAY - 1},
        {"reporter_bps": 5_001},
        {"reporter_bps": 65_535},
        {"agent_bond_cap": USDC - 1},
        {"min_bond": 0},
        {"relayer": Pubkey.default()},
        {"treasury": Pubkey.default()},
    ],
    ids=str,
)
def test_one_past_a_bound_is_refused(world: World, changes: dict[str, Any]) -> None:
    with world.nothing_moves():
        refused(change(world, **changes), "InvalidConfig")


def test_the_minimum_bond_can_only_be_lowered(world: World) -> None:
    done(change(world, min_bond=USDC))
    done(change(world, min_bond=USDC - 1))
    with world.nothing_moves():
        refused(change(world, min_bond=USDC), "InvalidConfig")


def test_only_the_admin_changes_the_configuration(world: World) -> None:
    with world.nothing_moves():
        for key in (world.relayer, world.upgrade_authority, world.agent(), world.treasury):
            refused(change(world, key, timelock=2 * DAY), "NotAdmin")


def test_a_change_needs_the_admins_signature(world: World) -> None:
    ix = build.set_config(world.network, admin=world.admin.pubkey(), change=ConfigChange(allow_list=True))
    accounts = list(ix.accounts)
    accounts[1] = AccountMeta(world.admin.pubkey(), False, False)
    with world.nothing_moves():
        refused(world.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_accounts_and_arguments_must_have_their_form(world: World) -> None:
    ix = build.set_config(world.network, admin=world.admin.pubkey(), change=ConfigChange(allow_list=True))
    data = bytes(ix.data)
    tag_of_two = data[:8] + b"\2" + data[9:]
    with world.nothing_moves():
        for changed in (data + b"\0", data[:-1], data[:8], tag_of_two):
            refused(_admin_sends(world, changed, list(ix.accounts)), "InvalidInstructionData")
        refused(_admin_sends(world, data, list(ix.accounts)[:-1]), "WrongAccountCount")
        refused(_admin_sends(world, data, [*ix.accounts, ix.accounts[3]]), "WrongAccountCount")
        vault = AccountMeta(world.network.vault(), False, True)
        refused(_admin_sends(world, data, [vault, *ix.accounts[1:]]), "WrongAccountOwner")
        program = AccountMeta(world.network.vault(), False, False)
        refused(_admin_sends(world, data, [*ix.accounts[:3], program]), "WrongProgram")
        assert isinstance(_admin_sends(world, data, [*ix.accounts[:2], program, ix.accounts[3]]), Refused)


def test_another_kind_of_account_is_no_bond(world: World) -> None:
    agent = world.agent(USDC)
    ix = build.set_config(world.network, admin=world.admin.pubkey(), change=ConfigChange(allow_list=True))
    account = AccountMeta(world.network.agent_account(agent.pubkey()), False, True)
    with world.nothing_moves():
        refused(_admin_sends(world, bytes(ix.data), [account, *ix.accounts[1:]]), "WrongAccountKind")


# ---- handing over


def test_a_new_admin_takes_two_steps(world: World) -> None:
    successor = Keypair()
    done(change(world, pending_admin=successor.pubkey()))
    with world.nothing_moves():
        refused(change(world, successor, allow_list=True), "NotAdmin")
    done(change(world, timelock=2 * DAY))
    (event,) = done(accept(world, successor)).events
    bond = world.global_bond()
    assert (bond.admin, bond.pending_admin) == (successor.pubkey(), None)
    assert event[8 : 8 + 96] == keys(world.network.mint, successor, Pubkey.default())
    refused(change(world, allow_list=True), "NotAdmin")
    done(change(world, successor, allow_list=True))
    refused(accept(world, successor), "NotPendingAdmin")


def test_only_the_proposed_wallet_accepts(world: World) -> None:
    done(change(world, pending_admin=Keypair().pubkey()))
    with world.nothing_moves():
        for key in (world.admin, world.relayer, world.agent()):
            refused(accept(world, key), "NotPendingAdmin")


def test_acceptance_needs_the_signature_of_the_proposed(world: World) -> None:
    successor = Keypair()
    done(change(world, pending_admin=successor.pubkey()))
    ix = build.accept_admin(world.network, pending_admin=successor.pubkey())
    accounts = list(ix.accounts)
    accounts[1] = AccountMeta(successor.pubkey(), False, False)
    with world.nothing_moves():
        refused(world.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_without_a_proposal_nobody_accepts(world: World) -> None:
    with world.nothing_moves():
        refused(accept(world, world.agent()), "NotPendingAdmin")
    ix = build.accept_admin(world.network, pending_admin=Pubkey.default())
    accounts = list(ix.accounts)
    accounts[1] = AccountMeta(Pubkey.default(), False, False)
    refused(world.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_a_proposal_can_be_taken_back_and_replaced(world: World) -> None:
    first, second = Keypair(), Keypair()
    done(change(world, pending_admin=first.pubkey()))
    done(change(world, pending_admin=Pubkey.default()))
    assert world.global_bond().pending_admin is None
    refused(accept(world, first), "NotPendingAdmin")
    done(change(world, pending_admin=first.pubkey()))
    done(change(world, pending_admin=second.pubkey()))
    refused(accept(world, first), "NotPendingAdmin")
    done(accept(world, second))


# ---- what it does, and what it never does


def test_a_rotated_relayer_settles_and_the_old_one_does_not(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(USDC)
    old, new = world.relayer, Keypair()
    world.svm.airdrop(new.pubkey(), 10**10)
    done(change(world, relayer=new.pubkey()))
    with world.nothing_moves():
        refused(world.settle(vendor, world.item(agent, vendor.gateway, 10)), "NotRelayer")
    world.relayer = new
    done(world.settle(vendor, world.item(agent, vendor.gateway, 10)))
    world.relayer = old
    refused(world.settle(vendor, world.item(agent, vendor.gateway, 20)), "NotRelayer")


def test_paused_deposits_stop_neither_settlement_nor_withdrawal(world: World) -> None:
    vendor, agent = world.vendor(), world.agent(3 * USDC)
    done(change(world, deposits_paused=True))
    refused(world.deposit(agent, USDC), "DepositsPaused")
    refused(world.deposit(world.agent(), USDC), "DepositsPaused")
    done(world.settle(vendor, world.item(agent, vendor.gateway, USDC)))
    done(world.request_withdrawal(agent, 2 * USDC))
    world.wait(DAY)
    done(world.withdraw(agent, world.token_account(agent.pubkey())))
    done(change(world, deposits_paused=False))
    done(world.deposit(agent, USDC))


def test_a_lower_cap_takes_nothing_from_larger_bonds(world: World) -> None:
    agent = world.agent(5 * USDC)
    done(change(world, agent_bond_cap=2 * USDC))
    assert world.bond_of(agent) == 5 * USDC
    refused(world.deposit(agent, 1), "AboveBondCap")
    newcomer = world.agent(2 * USDC)
    refused(world.deposit(newcomer, 1), "AboveBondCap")
    done(change(world, agent_bond_cap=0))
    done(world.deposit(newcomer, 1))


def test_a_switched_allow_list_asks_newcomers_only(world: World) -> None:
    agent = world.agent(USDC)
    done(change(world, allow_list=True))
    done(world.deposit(agent, 1))
    refused(world.deposit(world.agent(), USDC), "ApprovalRequired")
    done(change(world, allow_list=False))
    done(world.deposit(world.agent(), USDC))


@pytest.mark.parametrize("timelock", [60, 30 * DAY])
def test_a_pending_withdrawal_keeps_its_unlock_time(world: World, timelock: int) -> None:
    agent = world.agent(5 * USDC)
    wallet = world.token_account(agent.pubkey())
    done(world.request_withdrawal(agent, 4 * USDC))
    done(change(world, timelock=timelock, claim_delay=30))
    account = world.agent_account(agent)
    assert account is not None
    assert (account.pending_withdrawal, account.withdrawal_unlock) == (4 * USDC, NOW + DAY)
    world.wait(DAY - 1)
    refused(world.withdraw(agent, wallet), "WithdrawalLocked")
    world.wait(1)
    done(world.withdraw(agent, wallet))
    assert world.tokens(wallet) == 4 * USDC


def test_new_requests_follow_the_new_timelock(world: World) -> None:
    agent = world.agent(5 * USDC)
    done(change(world, timelock=100, claim_delay=50))
    done(world.request_withdrawal(agent, 4 * USDC))
    account = world.agent_account(agent)
    assert account is not None
    assert account.withdrawal_unlock == NOW + 100


def _admin_sends(world: World, data: bytes, accounts: list[AccountMeta]) -> Done | Refused:
    ix = Instruction(world.network.program_id, data, accounts)
    return world.send(ix, signers=(world.payer, world.admin))
