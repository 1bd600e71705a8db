//! Addresses that this program derives, and creating accounts at them.

use pinocchio::{
    cpi::{Seed, Signer},
    AccountView, Address,
};
use pinocchio_system::create_account_with_minimum_balance_signed;

use crate::error::{Error, Result};

pub const BOND_SEED: &[u8] = b"bond";
pub const VAULT_SEED: &[u8] = b"vault";
pub const AGENT_SEED: &[u8] = b"agent";
pub const VENDOR_SEED: &[u8] = b"vendor";
pub const GATEWAY_SEED: &[u8] = b"gateway";
pub const CHANNEL_SEED: &[u8] = b"channel";
pub const BATCH_SEED: &[u8] = b"batch";
/// Anchor's seed for the address that signs events.
pub const EVENT_AUTHORITY_SEED: &[u8] = b"__event_authority";

/// The canonical address of `seeds` and its bump.
pub fn find(seeds: &[&[u8]], program_id: &Address) -> Result<(Address, u8)> {
    #[cfg(any(target_os = "solana", target_arch = "bpf"))]
    return Address::try_find_program_address(seeds, program_id).ok_or(Error::WrongAddress);
    #[cfg(not(any(target_os = "solana", target_arch = "bpf")))]
    unreachable!("addresses are derived by the runtime: {seeds:?} {program_id:?}")
}

/// The bump of `view`'s address, which must be the canonical one of `seeds`.
pub fn expect(view: &AccountView, seeds: &[&[u8]], program_id: &Address) -> Result<u8> {
    let (address, bump) = find(seeds, program_id)?;
    if view.address() == &address {
        Ok(bump)
    } else {
        Err(Error::WrongAddress)
    }
}

/// Nobody created an account here yet. Lamports alone do not count: anyone can send some to any address.
pub fn is_vacant(view: &AccountView) -> bool {
    view.owned_by(&pinocchio_system::ID) && view.is_data_empty()
}

/// How to create an account. In one struct because the target passes at most five arguments.
pub struct NewAccount<'a> {
    pub payer: &'a AccountView,
    pub owner: &'a Address,
    pub space: usize,
}

/// Create an all-zero account at the derived address of `seeds` (the last one is the bump); the payer makes up the rent.
/// Works on an address that already holds lamports.
#[inline(never)]
pub fn create(view: &mut AccountView, new: &NewAccount, seeds: &[Seed]) -> Result {
    if !is_vacant(view) {
        return Err(Error::AlreadyInitialized);
    }
    create_account_with_minimum_balance_signed(
        view,
        new.space,
        new.owner,
        new.payer,
        None,
        &[Signer::from(seeds)],
    )?;
    Ok(())
}
