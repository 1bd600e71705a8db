//! One file per instruction, each in the order accounts, guards, checked arithmetic, state, transfer, event.
//!
//! Anchor's discriminators (sha256("global:<name>")[..8]) and borsh arguments, so that an Anchor client can build every
//! instruction from the IDL. Accounts are given in the order of each file's table; signers and owners are checked here,
//! write permission by the runtime, which refuses any change to an account passed read-only.

pub mod accept_admin;
pub mod cancel_withdrawal;
pub mod claim_cumulative;
pub mod commit_batch;
pub mod deposit_bond;
pub mod distribute;
pub mod execute_claim;
pub mod initialize_bond;
pub mod register_gateway;
pub mod register_vendor;
pub mod request_withdrawal;
pub mod revoke_gateway;
pub mod set_config;
pub mod settle_aggregated;
pub mod settle_cumulative;
pub mod slash_equivocation;
pub mod sweep_forfeited;
pub mod update_vendor;
pub mod withdraw_bond;

use pinocchio::{AccountView, Address};

use crate::error::{Error, Result};

/// What an instruction is called with besides its accounts. In one struct because the target passes at most five
/// arguments.
pub struct Call<'a> {
    pub program_id: &'a Address,
    /// The arguments, without the discriminator.
    pub data: &'a [u8],
}

fn require_signer(view: &AccountView) -> Result {
    if view.is_signer() {
        Ok(())
    } else {
        Err(Error::MissingSignature)
    }
}

fn require_program(view: &AccountView, id: &Address) -> Result {
    if view.address() == id {
        Ok(())
    } else {
        Err(Error::WrongProgram)
    }
}

fn require_address(view: &AccountView, address: &Address) -> Result {
    if view.address() == address {
        Ok(())
    } else {
        Err(Error::WrongAddress)
    }
}

/// Eight bytes as a u64.
fn read_u64(bytes: &[u8]) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(bytes);
    u64::from_le_bytes(value)
}
