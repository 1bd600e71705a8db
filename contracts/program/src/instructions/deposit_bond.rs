//! deposit_bond: put tokens into the vault on an agent's account. The first deposit creates the account; the agent key
//! signs it and names the wallet that withdrawals will go to. Anyone may add to an existing bond, but while a withdrawal
//! is pending only the agent or the owner: a bond is left empty or with at least `min_bond`, so a stranger's smallest
//! coin would keep `min_bond` of somebody else's money in, again and again.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | agent_account | | yes | `["agent", mint, agent]` |
//! | 1 | global_bond | | | |
//! | 2 | vault | | yes | |
//! | 3 | agent_token_account | | yes | where the tokens come from |
//! | 4 | authority | yes | | the source's owner or delegate |
//! | 5 | payer | yes | yes | pays the rent of a new account |
//! | 6 | agent | first deposit | | the key that signs vouchers |
//! | 7 | approver | allow-list on, first deposit | | the admin; else the program itself stands for "none" |
//! | 8 | token_program | | | |
//! | 9 | system_program | | | |
//! | 10 | event_authority | | | |
//! | 11 | program | | | |
//!
//! Arguments: amount u64, owner 32 bytes: on the first deposit the withdrawal wallet, later the same one or zero.

use core::mem::size_of;

use pinocchio::{cpi::Seed, AccountView, Address};

use super::{require_address, require_program, require_signer, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    pda::{self, NewAccount},
    state::{self, AgentAccount, GlobalBond},
    token,
};

pub const DISCRIMINATOR: [u8; 8] = [0x78, 0x59, 0x12, 0xfd, 0x70, 0x7d, 0x57, 0xff];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [agent_account, global_bond, vault, source, authority, payer, agent, approver, token_program, system_program, event_authority, program] =
        accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    let mut args = Args::new(call.data);
    let amount = args.u64()?;
    let owner = args.address()?;
    args.finish()?;

    require_signer(authority)?;
    require_signer(payer)?;
    require_program(token_program, &token::PROGRAM_ID)?;
    require_program(system_program, &pinocchio_system::ID)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    require_address(vault, &bond.vault)?;
    if bond.deposits_paused != 0 {
        return Err(Error::DepositsPaused);
    }
    if amount == 0 {
        return Err(Error::ZeroAmount);
    }
    if pda::is_vacant(agent_account) {
        require_signer(agent)?;
        require_admission(&bond, approver)?;
        if amount < bond.min_bond.get() {
            return Err(Error::BelowMinimumBond);
        }
        let new = NewAccount {
            payer,
            owner: program_id,
            space: size_of::<AgentAccount>(),
        };
        if owner == Address::default() {
            return Err(Error::OwnerMismatch);
        }
        open_account(agent_account, &new, agent.address(), &bond.mint)?;
        state::load_mut::<AgentAccount>(agent_account, program_id)?.owner = owner.clone();
    }

    let mut account = state::load_mut::<AgentAccount>(agent_account, program_id)?;
    if account.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    if account.agent != *agent.address() {
        return Err(Error::WrongAgent);
    }
    if owner != Address::default() && owner != account.owner {
        return Err(Error::OwnerMismatch);
    }
    if account.is_slashed() {
        return Err(Error::AgentSlashed);
    }
    let is_their_own = agent.is_signer() || account.is_controlled_by(authority.address());
    if account.pending_withdrawal.get() != 0 && !is_their_own {
        return Err(Error::NotAgentOrOwner);
    }
    account.bond.add(amount)?;
    account.deposited_total.add(amount)?;
    let cap = bond.agent_bond_cap.get();
    if cap != 0 && account.bond.get() > cap {
        return Err(Error::AboveBondCap);
    }

    token::deposit(source, vault, authority, amount)?;

    let mut event = Event::<168>::new(discriminator::DEPOSITED);
    event
        .address(&bond.mint)
        .address(agent.address())
        .address(&account.owner)
        .address(authority.address())
        .u64(amount)
        .u64(account.bond.get());
    EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?
    .emit(event.as_bytes())
}

/// While the allow-list is on, the admin co-signs an agent's first deposit.
fn require_admission(bond: &GlobalBond, approver: &AccountView) -> Result {
    if bond.allow_list == 0 || (approver.is_signer() && *approver.address() == bond.admin) {
        Ok(())
    } else {
        Err(Error::ApprovalRequired)
    }
}

#[inline(never)]
fn open_account(
    agent_account: &mut AccountView,
    new: &NewAccount,
    agent: &Address,
    mint: &Address,
) -> Result {
    let seeds: [&[u8]; 3] = [pda::AGENT_SEED, mint.as_array(), agent.as_array()];
    let bump = pda::expect(agent_account, &seeds, new.owner)?;
    let bump_seed = [bump];
    pda::create(
        agent_account,
        new,
        &[
            Seed::from(seeds[0]),
            Seed::from(seeds[1]),
            Seed::from(seeds[2]),
            Seed::from(&bump_seed),
        ],
    )?;
    let mut account = state::initialize::<AgentAccount>(agent_account, bump)?;
    account.agent = agent.clone();
    account.mint = mint.clone();
    Ok(())
}
