"""initialize_bond: who may, for which mints, within which bounds."""

import pytest
from solders.account import Account
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain import instructions as build
from machpay.chain.network import Network
from machpay.chain.tokens import TokenAccount
from tests.program.world import LAMPORTS, USDC, Refused, World, done, refused

TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
DAY = 86_400


def test_creates_bond_and_vault_with_the_configuration_given(bare: World) -> None:
    done(
        bare.initialize_bond(
            min_bond=7, timelock=2 * DAY, claim_delay=DAY, agent_bond_cap=9, reporter_bps=500
        )
    )
    bond = bare.global_bond()
    _, bump = Pubkey.find_program_address([b"bond", bytes(bare.network.mint)], bare.network.program_id)
    _, vault_bump = Pubkey.find_program_address([b"vault", bytes(bare.network.mint)], bare.network.program_id)
    _, event_bump = Pubkey.find_program_address([b"__event_authority"], bare.network.program_id)
    assert (bond.bump, bond.vault_bump, bond.event_authority_bump) == (bump, vault_bump, event_bump)
    assert (bond.mint, bond.vault, bond.decimals) == (bare.network.mint, bare.network.vault(), 6)
    assert bond.admin == bare.admin.pubkey()
    assert bond.relayer == bare.relayer.pubkey()
    assert bond.treasury == bare.treasury.pubkey()
    assert bond.pending_admin is None
    assert bond.domain == bytes(bare.network.domain)
    assert (bond.min_bond, bond.timelock, bond.claim_delay) == (7, 2 * DAY, DAY)
    assert (bond.agent_bond_cap, bond.reporter_bps) == (9, 500)
    assert not bond.allow_list
    assert not bond.deposits_paused
    assert (bond.batch_sequence, bond.batch_head) == (0, bytes(32))
    vault = bare.data(bare.network.vault())
    assert vault is not None
    assert TokenAccount.decode(vault) == TokenAccount(bare.network.mint, bare.network.bond(), 0, frozen=False)


def test_a_second_time_is_refused(world: World) -> None:
    with world.nothing_moves():
        refused(world.initialize_bond(min_bond=5), "AlreadyInitialized")


def test_lamports_sent_ahead_do_not_block_it(bare: World) -> None:
    bare.svm.airdrop(bare.network.bond(), 1)
    bare.svm.airdrop(bare.network.vault(), LAMPORTS)
    done(bare.initialize_bond())
    assert bare.global_bond().min_bond == USDC


def test_only_the_upgrade_authority_may(bare: World) -> None:
    bare.upgrade_authority = bare.admin
    refused(bare.initialize_bond(), "NotUpgradeAuthority")
    assert bare.data(bare.network.bond()) is None


def test_a_program_without_upgrade_authority_takes_no_new_mint(bare: World) -> None:
    bare.patch(bare.program_data, 12, b"\0")
    refused(bare.initialize_bond(), "NotUpgradeAuthority")


def test_the_authority_must_sign(bare: World) -> None:
    ix = _instruction(bare)
    accounts = list(ix.accounts)
    accounts[1] = AccountMeta(bare.upgrade_authority.pubkey(), False, False)
    refused(bare.send(Instruction(ix.program_id, bytes(ix.data), accounts)), "MissingSignature")


def test_another_programs_data_account_is_refused(bare: World) -> None:
    other = Keypair().pubkey()
    forged = Keypair().pubkey()
    data = b"\3\0\0\0" + bytes(8) + b"\1" + bytes(bare.upgrade_authority.pubkey())
    bare.svm.set_account(forged, Account(LAMPORTS, data, build.UPGRADEABLE_LOADER_ID))
    bare.svm.set_account(other, Account(LAMPORTS, data, TOKEN_PROGRAM_ID))
    refused(_with_account(bare, 2, forged), "WrongAddress")
    refused(_with_account(bare, 2, other), "WrongAccountOwner")


def test_a_token_2022_mint_is_refused(bare: World) -> None:
    bare.network = Network(bare.network.program_id, bare.new_mint(program=TOKEN_2022), bare.network.domain)
    refused(bare.initialize_bond(), "WrongMint")


def test_a_token_account_is_no_mint(bare: World) -> None:
    account = bare.token_account(bare.admin.pubkey())
    bare.network = Network(bare.network.program_id, account, bare.network.domain)
    refused(bare.initialize_bond(), "WrongMint")


def test_an_uninitialised_mint_is_refused(bare: World) -> None:
    mint = Keypair().pubkey()
    bare.svm.set_account(mint, Account(LAMPORTS, bytes(82), TOKEN_PROGRAM_ID))
    bare.network = Network(bare.network.program_id, mint, bare.network.domain)
    refused(bare.initialize_bond(), "WrongMint")


@pytest.mark.parametrize("index", [4, 5, 8], ids=["global_bond", "vault", "event_authority"])
def test_addresses_must_be_the_derived_ones(bare: World, index: int) -> None:
    refused(_with_account(bare, index, Keypair().pubkey()), "WrongAddress")


@pytest.mark.parametrize("index", [6, 7, 9], ids=["token_program", "system_program", "program"])
def test_programs_must_be_the_real_ones(bare: World, index: int) -> None:
    refused(_with_account(bare, index, TOKEN_2022), "WrongProgram")


@pytest.mark.parametrize(
    "changes",
    [
        {"min_bond": 0},
        {"timelock": 59, "claim_delay": 1},
        {"timelock": 30 * DAY + 1},
        {"timelock": 100, "claim_delay": 51},
        {"claim_delay": 0},
        {"claim_delay": -1},
        {"timelock": -(2**63), "claim_delay": -(2**63)},
        {"agent_bond_cap": USDC - 1},
        {"reporter_bps": 5_001},
        {"admin": Pubkey.default()},
        {"relayer": Pubkey.default()},
        {"treasury": Pubkey.default()},
    ],
    ids=str,
)
def test_values_one_past_a_bound_are_refused(bare: World, changes: dict[str, object]) -> None:
    refused(bare.initialize_bond(**changes), "InvalidConfig")
    assert bare.data(bare.network.bond()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"min_bond": 1},
        {"min_bond": 2**64 - 1, "agent_bond_cap": 2**64 - 1},
        {"timelock": 60, "claim_delay": 30},
        {"timelock": 30 * DAY, "claim_delay": 15 * DAY},
        {"timelock": 101, "claim_delay": 50},
        {"agent_bond_cap": USDC},
        {"reporter_bps": 5_000},
        {"reporter_bps": 0},
    ],
    ids=str,
)
def test_values_at_a_bound_are_accepted(bare: World, changes: dict[str, object]) -> None:
    done(bare.initialize_bond(**changes))


def test_an_empty_domain_is_refused(bare: World) -> None:
    bare.network = Network(bare.network.program_id, bare.network.mint, Hash.default())
    refused(bare.initialize_bond(), "InvalidConfig")


@pytest.mark.parametrize("change", [b"", b"\0", None], ids=["cut", "longer", "bool 2"])
def test_arguments_of_another_form_are_refused(bare: World, change: bytes | None) -> None:
    ix = _instruction(bare)
    data = bytes(ix.data)
    data = data[:-1] + b"\2" if change is None else (data + change if change else data[:-1])
    refused(
        bare.send(
            Instruction(ix.program_id, data, ix.accounts), signers=(bare.payer, bare.upgrade_authority)
        ),
        "InvalidInstructionData",
    )


def test_an_account_too_few_or_too_many_is_refused(bare: World) -> None:
    ix = _instruction(bare)
    signers = (bare.payer, bare.upgrade_authority)
    for accounts in (ix.accounts[:-1], [*ix.accounts, AccountMeta(bare.admin.pubkey(), False, False)]):
        refused(
            bare.send(Instruction(ix.program_id, bytes(ix.data), accounts), signers=signers),
            "WrongAccountCount",
        )


@pytest.mark.parametrize("data", [b"", b"\1" * 7, b"\1" * 8])
def test_an_unknown_discriminator_is_refused(bare: World, data: bytes) -> None:
    refused(bare.send(Instruction(bare.network.program_id, data, [])), "UnknownInstruction")


def test_a_refusal_logs_its_sentence(bare: World) -> None:
    outcome = bare.initialize_bond(min_bond=0)
    assert isinstance(outcome, Refused)
    assert "Program log: MachPay: InvalidConfig: a configuration value is outside its bounds" in outcome.logs


def _instruction(world: World) -> Instruction:
    return build.initialize_bond(
        world.network,
        payer=world.payer.pubkey(),
        upgrade_authority=world.upgrade_authority.pubkey(),
        config=world.config(),
    )


def _with_account(world: World, index: int, address: Pubkey):
    ix = _instruction(world)
    accounts = list(ix.accounts)
    accounts[index] = AccountMeta(address, accounts[index].is_signer, accounts[index].is_writable)
    return world.send(
        Instruction(ix.program_id, bytes(ix.data), accounts), signers=(world.payer, world.upgrade_authority)
    )
