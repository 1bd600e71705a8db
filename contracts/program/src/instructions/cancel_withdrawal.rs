//! cancel_withdrawal: take a withdrawal request back. Only the owner may: an agent key in the wrong hands must not be
//! able to keep the owner's money in.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | agent_account | | yes | `["agent", mint, agent]` |
//! | 1 | global_bond | | | |
//! | 2 | authority | yes | | the owner |
//! | 3 | event_authority | | | |
//! | 4 | program | | | |
//!
//! No arguments.

use pinocchio::AccountView;

use super::{require_signer, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    state::{self, AgentAccount, GlobalBond},
};

pub const DISCRIMINATOR: [u8; 8] = [0xb7, 0x68, 0xb5, 0xfa, 0x1c, 0x80, 0xd2, 0x46];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [agent_account, global_bond, authority, event_authority, program] = accounts else {
        return Err(Error::WrongAccountCount);
    };
    Args::new(call.data).finish()?;

    require_signer(authority)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    let mut account = state::load_mut::<AgentAccount>(agent_account, program_id)?;
    if account.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    if account.owner != *authority.address() {
        return Err(Error::NotOwner);
    }
    let amount = account.pending_withdrawal.get();
    if amount == 0 {
        return Err(Error::NoWithdrawalPending);
    }

    account.pending_withdrawal.set(0);
    account.withdrawal_unlock.set(0);

    let mut event = Event::<120>::new(discriminator::WITHDRAWAL_CANCELLED);
    event
        .address(&bond.mint)
        .address(&account.agent)
        .address(&account.owner)
        .u64(amount);
    EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?
    .emit(event.as_bytes())
}
