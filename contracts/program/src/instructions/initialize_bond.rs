//! initialize_bond: create GlobalBond and vault of one mint. Only the program's upgrade authority may, so that nobody
//! can take a mint's address first and name themselves admin.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | payer | yes | yes | pays the rent |
//! | 1 | authority | yes | | the program's upgrade authority |
//! | 2 | program_data | | | the program's ProgramData account |
//! | 3 | mint | | | of classic SPL Token |
//! | 4 | global_bond | | yes | `["bond", mint]` |
//! | 5 | vault | | yes | `["vault", mint]` |
//! | 6 | token_program | | | |
//! | 7 | system_program | | | |
//! | 8 | event_authority | | | `["__event_authority"]` |
//! | 9 | program | | | |
//!
//! Arguments: admin, relayer, treasury, domain (32 bytes each), min_bond u64, timelock i64, claim_delay i64,
//! agent_bond_cap u64, reporter_bps u16, allow_list bool.

use core::mem::size_of;

use pinocchio::{cpi::Seed, AccountView, Address};

use super::{require_program, require_signer, Call};
use crate::{
    args::Args,
    config,
    error::{Error, Result},
    event::EventSink,
    pda::{self, NewAccount},
    state::{self, GlobalBond},
    token,
};

pub const DISCRIMINATOR: [u8; 8] = [0x87, 0xb6, 0xb7, 0x68, 0xa9, 0x26, 0x66, 0x93];

/// `BPFLoaderUpgradeab1e11111111111111111111111`
const UPGRADEABLE_LOADER_ID: Address = Address::new_from_array([
    2, 168, 246, 145, 78, 136, 161, 176, 226, 16, 21, 62, 247, 99, 174, 43, 0, 194, 185, 61, 22,
    193, 36, 210, 192, 83, 122, 16, 4, 128, 0, 0,
]);
/// ProgramData: tag u32 = 3, slot u64, option tag u8, upgrade authority 32.
const PROGRAM_DATA_TAG: [u8; 4] = [3, 0, 0, 0];
const PROGRAM_DATA_HEADER_LENGTH: usize = 45;

struct Config {
    admin: Address,
    relayer: Address,
    treasury: Address,
    domain: Address,
    min_bond: u64,
    timelock: i64,
    claim_delay: i64,
    agent_bond_cap: u64,
    reporter_bps: u16,
    allow_list: bool,
}

impl Config {
    fn parse(data: &[u8]) -> Result<Self> {
        let mut args = Args::new(data);
        let config = Self {
            admin: args.address()?,
            relayer: args.address()?,
            treasury: args.address()?,
            domain: args.address()?,
            min_bond: args.u64()?,
            timelock: args.i64()?,
            claim_delay: args.i64()?,
            agent_bond_cap: args.u64()?,
            reporter_bps: args.u16()?,
            allow_list: args.bool()?,
        };
        args.finish()?;
        Ok(config)
    }
}

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [payer, authority, program_data, mint, global_bond, vault, token_program, system_program, event_authority, program] =
        accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    let given = Config::parse(call.data)?;

    require_signer(payer)?;
    require_signer(authority)?;
    require_program(token_program, &token::PROGRAM_ID)?;
    require_program(system_program, &pinocchio_system::ID)?;
    require_upgrade_authority(program_data, authority, program_id)?;
    let decimals = token::mint_decimals(mint)?;
    let bump = pda::expect(
        global_bond,
        &[pda::BOND_SEED, mint.address().as_array()],
        program_id,
    )?;
    let vault_bump = pda::expect(
        vault,
        &[pda::VAULT_SEED, mint.address().as_array()],
        program_id,
    )?;
    let event_authority_bump =
        pda::expect(event_authority, &[pda::EVENT_AUTHORITY_SEED], program_id)?;

    create_bond(program_id, payer, global_bond, mint.address(), bump)?;
    create_vault(payer, vault, mint.address(), vault_bump)?;
    token::initialize_account(vault, mint, global_bond.address())?;
    let mut bond = state::initialize::<GlobalBond>(global_bond, bump)?;
    bond.decimals = decimals;
    bond.allow_list = given.allow_list as u8;
    bond.vault_bump = vault_bump;
    bond.event_authority_bump = event_authority_bump;
    bond.reporter_bps.set(given.reporter_bps);
    bond.mint = mint.address().clone();
    bond.vault = vault.address().clone();
    bond.admin = given.admin.clone();
    bond.relayer = given.relayer.clone();
    bond.treasury = given.treasury.clone();
    bond.domain = given.domain.clone();
    bond.min_bond.set(given.min_bond);
    bond.timelock.set(given.timelock);
    bond.claim_delay.set(given.claim_delay);
    bond.agent_bond_cap.set(given.agent_bond_cap);
    config::check(&bond)?;

    let sink = EventSink::new(event_authority, program, program_id, event_authority_bump)?;
    config::record(&sink, &bond)
}

#[inline(always)]
fn create_bond(
    program_id: &Address,
    payer: &AccountView,
    global_bond: &mut AccountView,
    mint: &Address,
    bump: u8,
) -> Result {
    let bump = [bump];
    pda::create(
        global_bond,
        &NewAccount {
            payer,
            owner: program_id,
            space: size_of::<GlobalBond>(),
        },
        &[
            Seed::from(pda::BOND_SEED),
            Seed::from(mint.as_array()),
            Seed::from(&bump),
        ],
    )
}

#[inline(always)]
fn create_vault(payer: &AccountView, vault: &mut AccountView, mint: &Address, bump: u8) -> Result {
    let bump = [bump];
    pda::create(
        vault,
        &NewAccount {
            payer,
            owner: &token::PROGRAM_ID,
            space: token::ACCOUNT_LENGTH,
        },
        &[
            Seed::from(pda::VAULT_SEED),
            Seed::from(mint.as_array()),
            Seed::from(&bump),
        ],
    )
}

/// `program_data` is this program's, written by the loader, and names `authority`. A program that can no longer be
/// upgraded has no authority and therefore no new mints.
fn require_upgrade_authority(
    program_data: &AccountView,
    authority: &AccountView,
    program_id: &Address,
) -> Result {
    if !program_data.owned_by(&UPGRADEABLE_LOADER_ID) {
        return Err(Error::WrongAccountOwner);
    }
    pda::expect(
        program_data,
        &[program_id.as_array()],
        &UPGRADEABLE_LOADER_ID,
    )?;
    let data = program_data.try_borrow()?;
    let header = data
        .first_chunk::<PROGRAM_DATA_HEADER_LENGTH>()
        .ok_or(Error::WrongAccountKind)?;
    let names_authority = header[..4] == PROGRAM_DATA_TAG
        && header[12] == 1
        && header[13..] == authority.address().as_array()[..];
    if names_authority {
        Ok(())
    } else {
        Err(Error::NotUpgradeAuthority)
    }
}
