"""deposit_bond: opening an agent's account and adding to it."""

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import instructions as build
from machpay.chain.network import Network
from tests.program.world import USDC, Refused, World, done, refused

U64_MAX = 2**64 - 1
DEPOSITS_PAUSED_OFFSET = 11
SLASHED_OFFSET = 10
BOND_OFFSET = 112


def test_the_first_deposit_opens_the_account_and_names_the_owner(world: World) -> None:
    agent, owner = world.agent(), Keypair().pubkey()
    done(world.deposit(agent, 3 * USDC, owner=owner))
    account = world.agent_account(agent)
    assert account is not None
    _, bump = Pubkey.find_program_address(
        [b"agent", bytes(world.network.mint), bytes(agent.pubkey())], world.network.program_id
    )
    assert (account.bump, account.agent, account.mint, account.owner) == (
        bump,
        agent.pubkey(),
        world.network.mint,
        owner,
    )
    assert (account.bond, account.deposited_total) == (3 * USDC, 3 * USDC)
    assert (account.paid_total, account.withdrawn_total, account.swept_total, account.forfeited) == (
        0,
        0,
        0,
        0,
    )
    assert (account.open_claims, account.pending_withdrawal, account.withdrawal_unlock) == (0, 0, 0)
    assert (account.reporter, account.reporter_set_aside, account.window_end) == (None, 0, 0)
    assert not account.slashed
    assert world.vault() == 3 * USDC


def test_a_later_deposit_adds_and_keeps_the_owner(world: World) -> None:
    agent = world.agent(USDC)
    done(world.deposit(agent, 5, owner=None))
    done(world.deposit(agent, 7))
    account = world.agent_account(agent)
    assert account is not None
    assert (account.bond, account.deposited_total, account.owner) == (USDC + 12, USDC + 12, agent.pubkey())
    assert world.vault() == USDC + 12


def test_a_stranger_may_top_up_without_the_agents_signature(world: World) -> None:
    agent, stranger = world.agent(USDC), world.agent()
    source = world.token_account(stranger.pubkey(), 100)
    ix = build.deposit_bond(
        world.network,
        agent=agent.pubkey(),
        source=source,
        amount=100,
        authority=stranger.pubkey(),
        payer=stranger.pubkey(),
        agent_signs=False,
    )
    done(world.send(ix, signers=(stranger,)))
    assert world.bond_of(agent) == USDC + 100


def test_a_stranger_cannot_open_an_account_for_an_agent(world: World) -> None:
    agent, stranger = world.agent(), world.agent()
    source = world.token_account(stranger.pubkey(), USDC)
    ix = build.deposit_bond(
        world.network,
        agent=agent.pubkey(),
        source=source,
        amount=USDC,
        owner=stranger.pubkey(),
        authority=stranger.pubkey(),
        payer=stranger.pubkey(),
        agent_signs=False,
    )
    with world.nothing_moves():
        refused(world.send(ix, signers=(stranger,)), "MissingSignature")


def test_the_owner_wallet_may_fund_what_the_agent_key_opens(world: World) -> None:
    agent, owner = Keypair(), world.agent()
    source = world.token_account(owner.pubkey(), USDC)
    ix = build.deposit_bond(
        world.network,
        agent=agent.pubkey(),
        source=source,
        amount=USDC,
        owner=owner.pubkey(),
        authority=owner.pubkey(),
        payer=owner.pubkey(),
    )
    done(world.send(ix, signers=(owner, agent)))
    account = world.agent_account(agent)
    assert account is not None
    assert (account.owner, account.bond) == (owner.pubkey(), USDC)


def test_a_first_deposit_at_the_minimum_is_accepted(world: World) -> None:
    agent = world.agent()
    done(world.deposit(agent, USDC))
    assert world.bond_of(agent) == USDC


def test_a_first_deposit_one_below_the_minimum_is_refused(world: World) -> None:
    agent = world.agent()
    refused(world.deposit(agent, USDC - 1), "BelowMinimumBond")
    assert world.agent_account(agent) is None
    assert world.vault() == 0


def test_a_later_deposit_may_be_below_the_minimum(world: World) -> None:
    agent = world.agent(USDC)
    done(world.deposit(agent, 1))
    assert world.bond_of(agent) == USDC + 1


def test_nothing_is_not_a_deposit(world: World) -> None:
    refused(world.deposit(world.agent(USDC), 0), "ZeroAmount")


def test_the_first_deposit_must_name_an_owner(world: World) -> None:
    agent = world.agent()
    refused(world.deposit(agent, USDC, owner=None), "OwnerMismatch")
    assert world.agent_account(agent) is None


def test_a_later_deposit_cannot_change_the_owner(world: World) -> None:
    agent = world.agent(USDC)
    refused(world.deposit(agent, USDC, owner=Keypair().pubkey()), "OwnerMismatch")
    assert world.bond_of(agent) == USDC


def test_lamports_sent_ahead_do_not_block_the_account(world: World) -> None:
    agent = world.agent()
    world.svm.airdrop(world.network.agent_account(agent.pubkey()), 1)
    done(world.deposit(agent, USDC))
    assert world.bond_of(agent) == USDC


def test_a_bond_at_the_cap_is_accepted_and_one_past_it_refused(bare: World) -> None:
    done(bare.initialize_bond(agent_bond_cap=2 * USDC))
    agent = bare.agent(USDC)
    done(bare.deposit(agent, USDC))
    refused(bare.deposit(agent, 1), "AboveBondCap")
    assert (bare.bond_of(agent), bare.vault()) == (2 * USDC, 2 * USDC)


def test_paused_deposits_are_refused(world: World) -> None:
    agent = world.agent(USDC)
    world.patch(world.network.bond(), DEPOSITS_PAUSED_OFFSET, b"\1")
    refused(world.deposit(agent, USDC), "DepositsPaused")
    assert world.bond_of(agent) == USDC


def test_a_slashed_agent_cannot_deposit(world: World) -> None:
    agent = world.agent(USDC)
    world.patch(world.network.agent_account(agent.pubkey()), SLASHED_OFFSET, b"\1")
    refused(world.deposit(agent, USDC), "AgentSlashed")
    assert world.vault() == USDC


def test_with_the_allow_list_on_the_admin_must_co_sign_the_first_deposit(bare: World) -> None:
    done(bare.initialize_bond(allow_list=True))
    agent = bare.agent()
    refused(bare.deposit(agent, USDC), "ApprovalRequired")
    refused(_approved(bare, agent, approver=bare.relayer), "ApprovalRequired")
    assert bare.agent_account(agent) is None
    done(_approved(bare, agent, approver=bare.admin))
    done(bare.deposit(agent, 1))
    assert bare.bond_of(agent) == USDC + 1


def test_the_admin_named_without_a_signature_approves_nothing(bare: World) -> None:
    done(bare.initialize_bond(allow_list=True))
    agent = bare.agent()
    source = bare.token_account(agent.pubkey(), USDC)
    ix = build.deposit_bond(
        bare.network,
        agent=agent.pubkey(),
        source=source,
        amount=USDC,
        owner=agent.pubkey(),
        approver=bare.admin.pubkey(),
    )
    accounts = list(ix.accounts)
    accounts[7] = AccountMeta(bare.admin.pubkey(), False, False)
    refused(
        bare.send(Instruction(ix.program_id, bytes(ix.data), accounts), signers=(agent,)), "ApprovalRequired"
    )


def test_a_bond_never_passes_64_bits(world: World) -> None:
    agent = world.agent(USDC)
    world.patch(world.network.agent_account(agent.pubkey()), BOND_OFFSET, (U64_MAX - 9).to_bytes(8, "little"))
    refused(world.deposit(agent, 10), "Overflow")
    done(world.deposit(agent, 9))
    assert world.bond_of(agent) == U64_MAX


def test_more_than_the_source_holds_moves_nothing(world: World) -> None:
    agent = world.agent(USDC)
    source = world.token_account(agent.pubkey(), 99)
    ix = build.deposit_bond(world.network, agent=agent.pubkey(), source=source, amount=100)
    with world.nothing_moves():
        outcome = world.send(ix, signers=(agent,))
        assert isinstance(outcome, Refused)
    assert world.tokens(source) == 99


def test_someone_elses_tokens_cannot_be_deposited(world: World) -> None:
    agent, victim = world.agent(USDC), world.agent()
    source = world.token_account(victim.pubkey(), 100)
    ix = build.deposit_bond(world.network, agent=agent.pubkey(), source=source, amount=100)
    with world.nothing_moves():
        assert isinstance(world.send(ix, signers=(agent,)), Refused)


def test_the_vaults_own_tokens_cannot_be_deposited(world: World) -> None:
    """A transfer of the vault to itself would move nothing and still raise the bond."""
    agent = world.agent(USDC)
    ix = build.deposit_bond(world.network, agent=agent.pubkey(), source=world.network.vault(), amount=100)
    accounts = list(ix.accounts)
    accounts[4] = AccountMeta(world.network.bond(), False, False)
    as_its_authority = Instruction(ix.program_id, bytes(ix.data), accounts)
    with world.nothing_moves():
        assert isinstance(world.send(ix, signers=(agent,)), Refused)
        refused(world.send(as_its_authority, signers=(agent,)), "MissingSignature")


def test_tokens_of_another_mint_cannot_be_deposited(world: World) -> None:
    agent = world.agent(USDC)
    source = world.token_account(agent.pubkey(), 100, mint=world.new_mint())
    ix = build.deposit_bond(world.network, agent=agent.pubkey(), source=source, amount=100)
    with world.nothing_moves():
        assert isinstance(world.send(ix, signers=(agent,)), Refused)


def test_an_agent_account_of_another_mint_is_refused(world: World) -> None:
    agent = world.agent(USDC)
    first = world.network
    world.network = Network(first.program_id, world.new_mint(), first.domain)
    done(world.initialize_bond())
    other = world.agent(USDC)
    source = world.token_account(agent.pubkey(), 100)
    ix = build.deposit_bond(world.network, agent=agent.pubkey(), source=source, amount=100)
    assert other is not agent
    refused(_replace(world, ix, 0, first.agent_account(agent.pubkey()), agent), "WrongMint")


def test_another_agents_account_is_refused(world: World) -> None:
    agent, other = world.agent(USDC), world.agent(USDC)
    source = world.token_account(agent.pubkey(), 100)
    ix = build.deposit_bond(world.network, agent=agent.pubkey(), source=source, amount=100)
    refused(_replace(world, ix, 0, world.network.agent_account(other.pubkey()), agent), "WrongAgent")
    assert (world.bond_of(agent), world.bond_of(other)) == (USDC, USDC)


def test_a_new_account_must_be_at_the_derived_address(world: World) -> None:
    agent = world.agent()
    source = world.token_account(agent.pubkey(), USDC)
    ix = build.deposit_bond(
        world.network, agent=agent.pubkey(), source=source, amount=USDC, owner=agent.pubkey()
    )
    refused(_replace(world, ix, 0, Keypair().pubkey(), agent), "WrongAddress")


def test_another_token_account_is_not_the_vault(world: World) -> None:
    agent = world.agent(USDC)
    source = world.token_account(agent.pubkey(), 100)
    fake = world.token_account(world.network.bond())
    ix = build.deposit_bond(world.network, agent=agent.pubkey(), source=source, amount=100)
    refused(_replace(world, ix, 2, fake, agent), "WrongAddress")
    assert world.tokens(source) == 100


def test_a_forged_bond_account_is_refused(world: World) -> None:
    agent = world.agent(USDC)
    source = world.token_account(agent.pubkey(), 100)
    ix = build.deposit_bond(world.network, agent=agent.pubkey(), source=source, amount=100)
    refused(_replace(world, ix, 1, source, agent), "WrongAccountOwner")
    refused(_replace(world, ix, 1, world.network.agent_account(agent.pubkey()), agent), "WrongAccountKind")


def test_an_account_of_a_later_layout_is_refused(world: World) -> None:
    agent = world.agent(USDC)
    world.patch(world.network.agent_account(agent.pubkey()), 8, b"\2")
    refused(world.deposit(agent, 100), "WrongAccountKind")


def test_the_authority_must_sign(world: World) -> None:
    agent, payer = world.agent(USDC), world.agent()
    source = world.token_account(agent.pubkey(), 100)
    ix = build.deposit_bond(
        world.network,
        agent=agent.pubkey(),
        source=source,
        amount=100,
        authority=agent.pubkey(),
        payer=payer.pubkey(),
        agent_signs=False,
    )
    accounts = list(ix.accounts)
    accounts[4] = AccountMeta(agent.pubkey(), False, False)
    with world.nothing_moves():
        refused(
            world.send(Instruction(ix.program_id, bytes(ix.data), accounts), signers=(payer,)),
            "MissingSignature",
        )


@pytest.mark.parametrize(("index", "name"), [(8, "token"), (9, "system"), (11, "program")])
def test_programs_must_be_the_real_ones(world: World, index: int, name: str) -> None:
    agent = world.agent(USDC)
    source = world.token_account(agent.pubkey(), 100)
    ix = build.deposit_bond(world.network, agent=agent.pubkey(), source=source, amount=100)
    refused(_replace(world, ix, index, build.UPGRADEABLE_LOADER_ID, agent), "WrongProgram")


def _approved(world: World, agent: Keypair, *, approver: Keypair):
    source = world.token_account(agent.pubkey(), USDC)
    ix = build.deposit_bond(
        world.network,
        agent=agent.pubkey(),
        source=source,
        amount=USDC,
        owner=agent.pubkey(),
        approver=approver.pubkey(),
    )
    return world.send(ix, signers=(agent, approver))


def _replace(world: World, ix: Instruction, index: int, address: Pubkey, signer: Keypair):
    accounts = list(ix.accounts)
    accounts[index] = AccountMeta(address, accounts[index].is_signer, accounts[index].is_writable)
    return world.send(Instruction(ix.program_id, bytes(ix.data), accounts), signers=(signer,))
