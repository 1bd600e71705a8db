//! request_withdrawal: announce that part of a bond, or all of it, is to leave. The agent key or the owner may ask; the
//! money goes to the owner whoever asks. Settlements and claims keep drawing on the bond until the withdrawal is
//! executed.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | agent_account | | yes | `["agent", mint, agent]` |
//! | 1 | global_bond | | | |
//! | 2 | authority | yes | | the agent key or the owner |
//! | 3 | event_authority | | | |
//! | 4 | program | | | |
//!
//! Arguments: amount u64.
//!
//! The unlock time is fixed here; a later change of the timelock does not move it. What stays behind must reach
//! `min_bond`, or be nothing.

use pinocchio::{
    sysvars::{clock::Clock, Sysvar},
    AccountView,
};

use super::{require_signer, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    state::{self, AgentAccount, GlobalBond},
};

pub const DISCRIMINATOR: [u8; 8] = [0xfb, 0x55, 0x79, 0xcd, 0x38, 0xc9, 0x0c, 0xb1];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [agent_account, global_bond, authority, event_authority, program] = accounts else {
        return Err(Error::WrongAccountCount);
    };
    let mut args = Args::new(call.data);
    let amount = args.u64()?;
    args.finish()?;

    require_signer(authority)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
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
    if account.pending_withdrawal.get() != 0 {
        return Err(Error::WithdrawalPending);
    }
    if amount == 0 {
        return Err(Error::ZeroAmount);
    }
    let left = account
        .bond
        .get()
        .checked_sub(amount)
        .ok_or(Error::InsufficientBond)?;
    if left != 0 && left < bond.min_bond.get() {
        return Err(Error::BelowMinimumBond);
    }
    let unlock = Clock::get()?
        .unix_timestamp
        .checked_add(bond.timelock.get())
        .ok_or(Error::Overflow)?;

    account.pending_withdrawal.set(amount);
    account.withdrawal_unlock.set(unlock);

    let mut event = Event::<128>::new(discriminator::WITHDRAWAL_REQUESTED);
    event
        .address(&bond.mint)
        .address(&account.agent)
        .address(&account.owner)
        .u64(amount)
        .i64(unlock);
    EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?
    .emit(event.as_bytes())
}
