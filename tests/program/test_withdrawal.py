"""request_withdrawal, cancel_withdrawal and withdraw_bond: the agent's way out, announced a timelock ahead."""

import struct

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token.state import TokenAccountState

from machpay.chain import instructions as build
from machpay.chain.network import Network
from tests.program.test_events import keys, name
from tests.program.world import NOW, USDC, Done, Refused, World, done, refused

TIMELOCK = 86_400
U64_MAX = 2**64 - 1
SLASHED, BOND, OPEN_CLAIMS, WITHDRAWN_TOTAL = 10, 112, 120, 216


class Saver:
    """An agent with a bond of 10, whose owner is another wallet with a token account."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.agent, self.owner = world.agent(), world.agent()
        done(world.deposit(self.agent, 10 * USDC, owner=self.owner.pubkey()))
        self.wallet = world.token_account(self.owner.pubkey())

    @property
    def address(self) -> Pubkey:
        return self.world.network.agent_account(self.agent.pubkey())

    def pending(self) -> tuple[int, int]:
        account = self.world.agent_account(self.agent)
        assert account is not None
        return account.pending_withdrawal, account.withdrawal_unlock

    def bond(self) -> int:
        return self.world.bond_of(self.agent)


@pytest.fixture
def saver(world: World) -> Saver:
    return Saver(world)


# ---- requesting


@pytest.mark.parametrize("who", ["agent", "owner"])
def test_agent_and_owner_may_request(saver: Saver, who: str) -> None:
    (event,) = done(saver.world.request_withdrawal(saver.agent, 4 * USDC, by=getattr(saver, who))).events
    assert saver.pending() == (4 * USDC, NOW + TIMELOCK)
    assert (saver.bond(), saver.world.vault()) == (10 * USDC, 10 * USDC)
    assert event == name("WithdrawalRequested") + keys(
        saver.world.network.mint, saver.agent, saver.owner
    ) + struct.pack("<Qq", 4 * USDC, NOW + TIMELOCK)


def test_a_stranger_may_not_request(saver: Saver) -> None:
    with saver.world.nothing_moves():
        refused(saver.world.request_withdrawal(saver.agent, USDC, by=saver.world.agent()), "NotAgentOrOwner")


def test_a_request_needs_a_signature(saver: Saver) -> None:
    ix = build.request_withdrawal(saver.world.network, agent=saver.agent.pubkey(), amount=USDC)
    accounts = list(ix.accounts)
    accounts[2] = AccountMeta(saver.agent.pubkey(), False, False)
    with saver.world.nothing_moves():
        refused(saver.world.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_the_whole_bond_may_be_requested_and_not_one_more(saver: Saver) -> None:
    refused(saver.world.request_withdrawal(saver.agent, 10 * USDC + 1), "InsufficientBond")
    refused(saver.world.request_withdrawal(saver.agent, U64_MAX), "InsufficientBond")
    done(saver.world.request_withdrawal(saver.agent, 10 * USDC))


def test_what_stays_behind_must_reach_the_minimum(saver: Saver) -> None:
    refused(saver.world.request_withdrawal(saver.agent, 9 * USDC + 1), "BelowMinimumBond")
    refused(saver.world.request_withdrawal(saver.agent, 10 * USDC - 1), "BelowMinimumBond")
    assert saver.pending() == (0, 0)
    done(saver.world.request_withdrawal(saver.agent, 9 * USDC))


def test_nothing_is_not_a_withdrawal(saver: Saver) -> None:
    refused(saver.world.request_withdrawal(saver.agent, 0), "ZeroAmount")


def test_a_second_request_is_refused_while_one_is_pending(saver: Saver) -> None:
    done(saver.world.request_withdrawal(saver.agent, USDC))
    with saver.world.nothing_moves():
        refused(saver.world.request_withdrawal(saver.agent, USDC), "WithdrawalPending")


def test_a_slashed_agent_cannot_request(saver: Saver) -> None:
    saver.world.patch(saver.address, SLASHED, b"\1")
    with saver.world.nothing_moves():
        refused(saver.world.request_withdrawal(saver.agent, USDC), "AgentSlashed")


def test_a_request_against_another_agents_account_is_refused(saver: Saver) -> None:
    thief = saver.world.agent(5 * USDC)
    ix = build.request_withdrawal(saver.world.network, agent=thief.pubkey(), amount=USDC)
    with saver.world.nothing_moves():
        refused(saver.world.send(_with(ix, 0, saver.address), signers=(thief,)), "NotAgentOrOwner")


def test_an_account_of_another_kind_is_no_agent_account(saver: Saver) -> None:
    vendor = saver.world.vendor()
    ix = build.request_withdrawal(saver.world.network, agent=saver.agent.pubkey(), amount=USDC)
    for address, error in (
        (saver.world.network.vendor_account(vendor.key), "WrongAccountKind"),
        (saver.wallet, "WrongAccountOwner"),
        (saver.world.network.agent_account(Keypair().pubkey()), "WrongAccountOwner"),
    ):
        refused(saver.world.send(_with(ix, 0, address), signers=(saver.agent,)), error)


def test_the_bond_of_another_mint_is_refused(saver: Saver) -> None:
    world, network = saver.world, saver.world.network
    done(world.request_withdrawal(saver.agent, USDC))
    world.network = Network(network.program_id, world.new_mint(), network.domain)
    done(world.initialize_bond())
    other_bond, other_vault = world.network.bond(), world.network.vault()
    world.network = network
    world.wait(TIMELOCK)
    request = build.request_withdrawal(network, agent=saver.agent.pubkey(), amount=USDC)
    cancel = build.cancel_withdrawal(network, agent=saver.agent.pubkey(), owner=saver.owner.pubkey())
    withdraw = build.withdraw_bond(network, agent=saver.agent.pubkey(), destination=saver.wallet)
    with world.nothing_moves():
        refused(world.send(_with(request, 1, other_bond), signers=(saver.agent,)), "WrongMint")
        refused(world.send(_with(cancel, 1, other_bond), signers=(saver.owner,)), "WrongMint")
        moved = _with(_with(withdraw, 1, other_bond), 2, other_vault)
        refused(world.send(moved, signers=(saver.agent,)), "WrongMint")


# ---- cancelling


def test_the_owner_cancels(saver: Saver) -> None:
    done(saver.world.request_withdrawal(saver.agent, 4 * USDC))
    (event,) = done(saver.world.cancel_withdrawal(saver.agent, by=saver.owner)).events
    assert saver.pending() == (0, 0)
    assert event == name("WithdrawalCancelled") + keys(
        saver.world.network.mint, saver.agent, saver.owner
    ) + struct.pack("<Q", 4 * USDC)
    saver.world.wait(TIMELOCK)
    refused(saver.world.withdraw(saver.agent, saver.wallet), "NoWithdrawalPending")


def test_only_the_owner_cancels(saver: Saver) -> None:
    done(saver.world.request_withdrawal(saver.agent, 4 * USDC))
    with saver.world.nothing_moves():
        refused(saver.world.cancel_withdrawal(saver.agent, by=saver.agent), "NotOwner")
        refused(saver.world.cancel_withdrawal(saver.agent, by=saver.world.admin), "NotOwner")


def test_a_cancellation_needs_a_signature(saver: Saver) -> None:
    done(saver.world.request_withdrawal(saver.agent, USDC))
    ix = build.cancel_withdrawal(saver.world.network, agent=saver.agent.pubkey(), owner=saver.owner.pubkey())
    accounts = list(ix.accounts)
    accounts[2] = AccountMeta(saver.owner.pubkey(), False, False)
    with saver.world.nothing_moves():
        refused(saver.world.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_there_must_be_something_to_cancel(saver: Saver) -> None:
    refused(saver.world.cancel_withdrawal(saver.agent, by=saver.owner), "NoWithdrawalPending")


def test_cancelling_and_requesting_again_starts_the_timelock_anew(saver: Saver) -> None:
    done(saver.world.request_withdrawal(saver.agent, USDC))
    saver.world.wait(TIMELOCK - 1)
    done(saver.world.cancel_withdrawal(saver.agent, by=saver.owner))
    done(saver.world.request_withdrawal(saver.agent, USDC))
    assert saver.pending() == (USDC, NOW + 2 * TIMELOCK - 1)
    saver.world.wait(TIMELOCK - 1)
    refused(saver.world.withdraw(saver.agent, saver.wallet), "WithdrawalLocked")


# ---- executing


@pytest.mark.parametrize("who", ["agent", "owner"])
def test_at_the_unlock_time_the_owner_is_paid(saver: Saver, who: str) -> None:
    world = saver.world
    done(world.request_withdrawal(saver.agent, 4 * USDC))
    world.wait(TIMELOCK)
    (event,) = done(world.withdraw(saver.agent, saver.wallet, by=getattr(saver, who))).events
    assert (world.tokens(saver.wallet), world.vault()) == (4 * USDC, 6 * USDC)
    assert event == name("Withdrawn") + keys(
        world.network.mint, saver.agent, saver.owner, saver.wallet
    ) + struct.pack("<QQ", 4 * USDC, 6 * USDC)
    account = world.agent_account(saver.agent)
    assert account is not None
    assert (account.bond, account.withdrawn_total, account.deposited_total) == (6 * USDC, 4 * USDC, 10 * USDC)
    assert saver.pending() == (0, 0)


def test_one_second_before_the_unlock_time_nothing_leaves(saver: Saver) -> None:
    done(saver.world.request_withdrawal(saver.agent, 4 * USDC))
    saver.world.wait(TIMELOCK - 1)
    with saver.world.nothing_moves():
        refused(saver.world.withdraw(saver.agent, saver.wallet), "WithdrawalLocked")


def test_one_request_pays_once(saver: Saver) -> None:
    done(saver.world.request_withdrawal(saver.agent, 4 * USDC))
    saver.world.wait(TIMELOCK)
    done(saver.world.withdraw(saver.agent, saver.wallet))
    with saver.world.nothing_moves():
        refused(saver.world.withdraw(saver.agent, saver.wallet), "NoWithdrawalPending")


def test_without_a_request_nothing_leaves(saver: Saver) -> None:
    with saver.world.nothing_moves():
        refused(saver.world.withdraw(saver.agent, saver.wallet), "NoWithdrawalPending")


def test_a_stranger_may_not_execute(saver: Saver) -> None:
    done(saver.world.request_withdrawal(saver.agent, 4 * USDC))
    saver.world.wait(TIMELOCK)
    with saver.world.nothing_moves():
        refused(saver.world.withdraw(saver.agent, saver.wallet, by=saver.world.agent()), "NotAgentOrOwner")


def test_an_execution_needs_a_signature(saver: Saver) -> None:
    done(saver.world.request_withdrawal(saver.agent, USDC))
    saver.world.wait(TIMELOCK)
    ix = build.withdraw_bond(saver.world.network, agent=saver.agent.pubkey(), destination=saver.wallet)
    accounts = list(ix.accounts)
    accounts[4] = AccountMeta(saver.agent.pubkey(), False, False)
    with saver.world.nothing_moves():
        refused(saver.world.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_money_goes_to_the_owner_only(saver: Saver) -> None:
    """Not even to the agent key that signs: whoever steals it gets nothing."""
    world = saver.world
    done(world.request_withdrawal(saver.agent, 4 * USDC))
    world.wait(TIMELOCK)
    thieves = (saver.agent.pubkey(), Keypair().pubkey(), world.network.bond())
    accounts = [world.token_account(thief) for thief in thieves]
    with world.nothing_moves():
        for account in accounts:
            refused(world.withdraw(saver.agent, account), "OwnerMismatch")


def test_the_destination_must_be_able_to_receive(saver: Saver) -> None:
    world, owner = saver.world, saver.owner.pubkey()
    done(world.request_withdrawal(saver.agent, 4 * USDC))
    world.wait(TIMELOCK)
    frozen = world.token_account(owner, state=TokenAccountState.Frozen)
    foreign = world.token_account(owner, mint=world.new_mint())
    not_spl = world.token_account(owner, program=world.network.program_id)
    with world.nothing_moves():
        for destination in (frozen, foreign, not_spl, world.network.mint, Keypair().pubkey(), owner):
            refused(world.withdraw(saver.agent, destination), "InvalidPayoutAccount")


def test_the_vault_is_no_destination_even_where_the_bond_was_named_owner(world: World) -> None:
    agent = world.agent()
    done(world.deposit(agent, 5 * USDC, owner=world.network.bond()))
    done(world.request_withdrawal(agent, USDC))
    world.wait(TIMELOCK)
    with world.nothing_moves():
        refused(world.withdraw(agent, world.network.vault()), "InvalidPayoutAccount")


@pytest.mark.parametrize(
    ("index", "error"),
    [(1, "WrongAccountOwner"), (2, "WrongAddress"), (5, "WrongProgram"), (7, "WrongProgram")],
)
def test_the_other_accounts_must_be_the_real_ones(saver: Saver, index: int, error: str) -> None:
    world = saver.world
    done(world.request_withdrawal(saver.agent, 4 * USDC))
    world.wait(TIMELOCK)
    ix = build.withdraw_bond(world.network, agent=saver.agent.pubkey(), destination=saver.wallet)
    with world.nothing_moves():
        refused(world.send(_with(ix, index, saver.wallet), signers=(saver.agent,)), error)
        assert isinstance(world.send(_with(ix, 6, Keypair().pubkey()), signers=(saver.agent,)), Refused)


def test_another_vault_of_the_bonds_is_not_the_vault(saver: Saver) -> None:
    world = saver.world
    done(world.request_withdrawal(saver.agent, 4 * USDC))
    world.wait(TIMELOCK)
    ix = build.withdraw_bond(world.network, agent=saver.agent.pubkey(), destination=saver.wallet)
    decoy = world.token_account(world.network.bond(), 100 * USDC)
    with world.nothing_moves():
        refused(world.send(_with(ix, 2, decoy), signers=(saver.agent,)), "WrongAddress")


@pytest.mark.parametrize("count", [-1, 1])
def test_each_takes_exactly_its_accounts_and_arguments(saver: Saver, count: int) -> None:
    world, network, agent = saver.world, saver.world.network, saver.agent.pubkey()
    for ix, signer in (
        (build.request_withdrawal(network, agent=agent, amount=USDC), saver.agent),
        (build.cancel_withdrawal(network, agent=agent, owner=saver.owner.pubkey()), saver.owner),
        (build.withdraw_bond(network, agent=agent, destination=saver.wallet), saver.agent),
    ):
        accounts = list(ix.accounts)
        accounts = accounts[:-1] if count < 0 else [*accounts, accounts[-1]]
        changed = Instruction(ix.program_id, bytes(ix.data), accounts)
        refused(world.send(changed, signers=(signer,)), "WrongAccountCount")
        longer = Instruction(ix.program_id, bytes(ix.data) + b"\0", ix.accounts)
        refused(world.send(longer, signers=(signer,)), "InvalidInstructionData")
    short = build.request_withdrawal(network, agent=agent, amount=USDC)
    cut = Instruction(short.program_id, bytes(short.data)[:-1], short.accounts)
    refused(world.send(cut, signers=(saver.agent,)), "InvalidInstructionData")


# ---- racing settlements, claims and slashing


def test_settlements_win_until_a_withdrawal_is_executed(saver: Saver) -> None:
    world, vendor = saver.world, saver.world.vendor()
    done(world.request_withdrawal(saver.agent, 10 * USDC))
    world.wait(TIMELOCK)
    done(world.settle(vendor, world.item(saver.agent, vendor.gateway, 3 * USDC)))
    assert saver.pending() == (10 * USDC, NOW + TIMELOCK)
    done(world.withdraw(saver.agent, saver.wallet))
    assert (world.tokens(saver.wallet), world.tokens(vendor.payout)) == (7 * USDC, 3 * USDC)
    assert (saver.bond(), world.vault()) == (0, 0)


def test_a_settlement_after_the_withdrawal_finds_what_is_left(saver: Saver) -> None:
    world, vendor = saver.world, saver.world.vendor()
    done(world.request_withdrawal(saver.agent, 9 * USDC))
    world.wait(TIMELOCK)
    done(world.withdraw(saver.agent, saver.wallet))
    done(world.settle(vendor, world.item(saver.agent, vendor.gateway, 3 * USDC)))
    assert (world.tokens(vendor.payout), saver.bond()) == (USDC, 0)


def test_what_a_settlement_took_is_not_made_up_from_the_minimum(saver: Saver) -> None:
    world, vendor = saver.world, saver.world.vendor()
    done(world.request_withdrawal(saver.agent, 9 * USDC))
    done(world.settle(vendor, world.item(saver.agent, vendor.gateway, USDC // 2)))
    world.wait(TIMELOCK)
    done(world.withdraw(saver.agent, saver.wallet))
    assert (world.tokens(saver.wallet), saver.bond()) == (8 * USDC + USDC // 2, USDC)


def test_open_claims_stay_covered(saver: Saver) -> None:
    world = saver.world
    done(world.request_withdrawal(saver.agent, 10 * USDC))
    world.patch(saver.address, OPEN_CLAIMS, struct.pack("<Q", 4 * USDC))
    world.wait(TIMELOCK)
    done(world.withdraw(saver.agent, saver.wallet))
    assert (world.tokens(saver.wallet), saver.bond()) == (6 * USDC, 4 * USDC)


def test_claims_below_the_minimum_leave_the_minimum(saver: Saver) -> None:
    world = saver.world
    done(world.request_withdrawal(saver.agent, 10 * USDC))
    world.patch(saver.address, OPEN_CLAIMS, struct.pack("<Q", 1))
    world.wait(TIMELOCK)
    done(world.withdraw(saver.agent, saver.wallet))
    assert (world.tokens(saver.wallet), saver.bond()) == (9 * USDC, USDC)


@pytest.mark.parametrize("claims", [10 * USDC, 10 * USDC + 1, U64_MAX])
def test_claims_of_the_whole_bond_keep_the_request_pending(saver: Saver, claims: int) -> None:
    world = saver.world
    done(world.request_withdrawal(saver.agent, 10 * USDC))
    world.patch(saver.address, OPEN_CLAIMS, struct.pack("<Q", claims))
    world.wait(TIMELOCK)
    with world.nothing_moves():
        refused(world.withdraw(saver.agent, saver.wallet), "InsufficientBond")
    world.patch(saver.address, OPEN_CLAIMS, struct.pack("<Q", 0))
    done(world.withdraw(saver.agent, saver.wallet))
    assert world.tokens(saver.wallet) == 10 * USDC


def test_an_emptied_bond_has_nothing_to_withdraw(saver: Saver) -> None:
    world, vendor = saver.world, saver.world.vendor()
    done(world.request_withdrawal(saver.agent, USDC))
    done(world.settle(vendor, world.item(saver.agent, vendor.gateway, 10 * USDC)))
    world.wait(TIMELOCK)
    with world.nothing_moves():
        refused(world.withdraw(saver.agent, saver.wallet), "InsufficientBond")


def test_a_slashed_agents_request_is_not_executed(saver: Saver) -> None:
    world = saver.world
    done(world.request_withdrawal(saver.agent, USDC))
    world.wait(TIMELOCK)
    world.patch(saver.address, SLASHED, b"\1")
    with world.nothing_moves():
        refused(world.withdraw(saver.agent, saver.wallet), "AgentSlashed")


def test_settling_and_withdrawing_in_one_transaction_pays_the_vendor_first(saver: Saver) -> None:
    world, vendor = saver.world, saver.world.vendor()
    done(world.request_withdrawal(saver.agent, 10 * USDC))
    world.wait(TIMELOCK)
    ixs = world.settle_ixs(vendor, world.item(saver.agent, vendor.gateway, 4 * USDC))
    ixs.append(build.withdraw_bond(world.network, agent=saver.agent.pubkey(), destination=saver.wallet))
    done(world.send(*ixs, signers=(world.relayer, saver.agent)))
    assert (world.tokens(vendor.payout), world.tokens(saver.wallet)) == (4 * USDC, 6 * USDC)


def test_a_deposit_does_not_grow_a_pending_withdrawal(saver: Saver) -> None:
    world = saver.world
    done(world.request_withdrawal(saver.agent, 10 * USDC))
    done(world.deposit(saver.agent, 5 * USDC, owner=None))
    world.wait(TIMELOCK)
    done(world.withdraw(saver.agent, saver.wallet))
    assert (world.tokens(saver.wallet), saver.bond()) == (10 * USDC, 5 * USDC)


def test_a_stranger_cannot_keep_min_bond_in_by_depositing(saver: Saver) -> None:
    world, stranger = saver.world, saver.world.agent()

    def top_up(by: Keypair) -> Done | Refused:
        ix = build.deposit_bond(
            world.network,
            agent=saver.agent.pubkey(),
            source=world.token_account(by.pubkey(), 1),
            amount=1,
            authority=by.pubkey(),
            payer=by.pubkey(),
            agent_signs=False,
        )
        return world.send(ix, signers=(by,))

    done(world.request_withdrawal(saver.agent, 10 * USDC))
    refused(top_up(stranger), "NotAgentOrOwner")
    assert (saver.bond(), world.vault()) == (10 * USDC, 10 * USDC)
    world.wait(TIMELOCK)
    done(world.withdraw(saver.agent, saver.wallet))
    assert (world.tokens(saver.wallet), saver.bond()) == (10 * USDC, 0)
    done(top_up(stranger))
    done(world.request_withdrawal(saver.agent, 1))
    done(top_up(saver.owner))
    assert saver.bond() == 2


def test_a_bond_of_64_bits_can_be_withdrawn_whole(saver: Saver) -> None:
    world = saver.world
    world.patch(saver.address, BOND, struct.pack("<Q", U64_MAX))
    world.token_account(world.network.bond(), U64_MAX, at=world.network.vault())
    done(world.request_withdrawal(saver.agent, U64_MAX))
    world.wait(TIMELOCK)
    done(world.withdraw(saver.agent, saver.wallet))
    assert (world.tokens(saver.wallet), saver.bond(), world.vault()) == (U64_MAX, 0, 0)


def test_the_lifetime_counter_never_passes_64_bits(saver: Saver) -> None:
    world = saver.world
    world.patch(saver.address, WITHDRAWN_TOTAL, struct.pack("<Q", U64_MAX - USDC + 1))
    done(world.request_withdrawal(saver.agent, USDC))
    world.wait(TIMELOCK)
    with world.nothing_moves():
        refused(world.withdraw(saver.agent, saver.wallet), "Overflow")


def _with(ix: Instruction, index: int, address: Pubkey) -> Instruction:
    accounts = list(ix.accounts)
    accounts[index] = AccountMeta(address, accounts[index].is_signer, accounts[index].is_writable)
    return Instruction(ix.program_id, bytes(ix.data), accounts)
