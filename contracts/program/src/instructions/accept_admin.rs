//! accept_admin: the wallet that set_config proposed becomes admin.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | global_bond | | yes | |
//! | 1 | pending_admin | yes | | |
//! | 2 | event_authority | | | |
//! | 3 | program | | | |
//!
//! No arguments.

use pinocchio::{AccountView, Address};

use super::{require_signer, Call};
use crate::{
    args::Args,
    config,
    error::{Error, Result},
    event::EventSink,
    state::{self, GlobalBond},
};

pub const DISCRIMINATOR: [u8; 8] = [0x70, 0x2a, 0x2d, 0x5a, 0x74, 0xb5, 0x0d, 0xaa];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [global_bond, pending_admin, event_authority, program] = accounts else {
        return Err(Error::WrongAccountCount);
    };
    Args::new(call.data).finish()?;

    require_signer(pending_admin)?;
    let mut bond = state::load_mut::<GlobalBond>(global_bond, program_id)?;
    // Zero, nobody proposed, is the system program's address, which never signs.
    if bond.pending_admin != *pending_admin.address() {
        return Err(Error::NotPendingAdmin);
    }

    bond.admin = pending_admin.address().clone();
    bond.pending_admin = Address::default();

    let bump = bond.event_authority_bump;
    config::record(
        &EventSink::new(event_authority, program, program_id, bump)?,
        &bond,
    )
}
