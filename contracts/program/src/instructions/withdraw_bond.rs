//! withdraw_bond: execute a withdrawal request once its timelock has passed. Pays to a token account of the owner's only.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | agent_account | | yes | `["agent", mint, agent]` |
//! | 1 | global_bond | | | |
//! | 2 | vault | | yes | |
//! | 3 | agent_token_account | | yes | where the tokens go; belongs to the owner |
//! | 4 | authority | yes | | the agent key or the owner |
//! | 5 | token_program | | | |
//! | 6 | event_authority | | | |
//! | 7 | program | | | |
//!
//! No arguments.
//!
//! Pays what was requested, but not more than the bond less open claims; and if something stays behind, at least
//! `min_bond` does. One request is executed once: what settlements and claims took in the meantime, and what had to stay
//! behind, is not paid later without a new request. Where nothing can be paid the request stays pending.

use pinocchio::{
    sysvars::{clock::Clock, Sysvar},
    AccountView,
};

use super::{require_address, require_program, require_signer, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    state::{self, AgentAccount, GlobalBond},
    token::{self, Vault},
};

pub const DISCRIMINATOR: [u8; 8] = [0xde, 0xc7, 0x8d, 0x1f, 0xbc, 0x5d, 0x9b, 0x28];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [agent_account, global_bond, vault, destination, authority, token_program, event_authority, program] =
        accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    Args::new(call.data).finish()?;

    require_signer(authority)?;
    require_program(token_program, &token::PROGRAM_ID)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    require_address(vault, &bond.vault)?;
    let mut account = state::load_mut::<AgentAccount>(agent_account, program_id)?;
    if account.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    if !account.is_controlled_by(authority.address()) {
        return Err(Error::NotAgentOrOwner);
    }
    if account.is_slashed() {
        return Err(Error::AgentSlashed);
    }
    if account.pending_withdrawal.get() == 0 {
        return Err(Error::NoWithdrawalPending);
    }
    if Clock::get()?.unix_timestamp < account.withdrawal_unlock.get() {
        return Err(Error::WithdrawalLocked);
    }
    require_destination(destination, vault, &account)?;
    let amount = payable(&account, bond.min_bond.get());
    if amount == 0 {
        return Err(Error::InsufficientBond);
    }

    account.bond.sub(amount)?;
    account.withdrawn_total.add(amount)?;
    account.pending_withdrawal.set(0);
    account.withdrawal_unlock.set(0);

    Vault {
        account: vault,
        global_bond,
        mint: &bond.mint,
        bump: bond.header.bump,
    }
    .pay(destination, amount)?;

    let mut event = Event::<160>::new(discriminator::WITHDRAWN);
    event
        .address(&bond.mint)
        .address(&account.agent)
        .address(&account.owner)
        .address(destination.address())
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

/// A live token account that the owner controls. The vault is refused even where GlobalBond was named owner: a transfer
/// to itself would turn the bond into a surplus nobody owns.
fn require_destination(
    destination: &AccountView,
    vault: &AccountView,
    account: &AgentAccount,
) -> Result {
    if destination.address() == vault.address() || !token::is_live(destination, &account.mint) {
        return Err(Error::InvalidPayoutAccount);
    }
    if token::owner_is(destination, &account.owner)? {
        Ok(())
    } else {
        Err(Error::OwnerMismatch)
    }
}

/// What may leave now of what was requested.
fn payable(account: &AgentAccount, min_bond: u64) -> u64 {
    let bond = account.bond.get();
    let amount = account
        .pending_withdrawal
        .get()
        .min(bond.saturating_sub(account.open_claims.get()));
    let left = bond - amount;
    if left != 0 && left < min_bond {
        bond.saturating_sub(min_bond)
    } else {
        amount
    }
}
