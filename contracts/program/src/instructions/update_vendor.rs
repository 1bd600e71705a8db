//! update_vendor: change where a vendor is paid and how it describes itself. Its key and mint stay.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | vendor_account | | yes | `["vendor", authority]` |
//! | 1 | authority | yes | | the vendor's key |
//! | 2 | global_bond | | | of the mint the vendor is paid in |
//! | 3 | vendor_token_account | | | the payout account from now on |
//! | 4 | event_authority | | | |
//! | 5 | program | | | |
//!
//! Arguments: price u64, metadata_uri string (at most 128 bytes).
//!
//! A new payout account must be live and not the vault's; the one on record may be named again in any state, so that a
//! vendor whose account is frozen can still change its price.

use pinocchio::AccountView;

use super::{
    register_vendor::{require_payout, require_uri},
    require_signer, Call,
};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    state::{self, GlobalBond, VendorAccount, METADATA_URI_LENGTH_MAX},
};

pub const DISCRIMINATOR: [u8; 8] = [0x2e, 0x50, 0x22, 0x29, 0xbf, 0xc2, 0x46, 0x37];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [vendor_account, authority, global_bond, payout, event_authority, program] = accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    let mut args = Args::new(call.data);
    let price = args.u64()?;
    let metadata_uri = args.bytes()?;
    args.finish()?;

    require_signer(authority)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    let mut vendor = state::load_mut::<VendorAccount>(vendor_account, program_id)?;
    if vendor.authority != *authority.address() {
        return Err(Error::WrongVendor);
    }
    if vendor.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    if vendor.payout != *payout.address() {
        require_payout(payout, global_bond, &bond)?;
    }
    require_uri(metadata_uri)?;

    vendor.payout = payout.address().clone();
    vendor.price.set(price);
    vendor.metadata_uri_length.set(metadata_uri.len() as u16);
    vendor.metadata_uri = [0; METADATA_URI_LENGTH_MAX];
    vendor.metadata_uri[..metadata_uri.len()].copy_from_slice(metadata_uri);

    let mut event = Event::<256>::new(discriminator::VENDOR_UPDATED);
    event
        .address(authority.address())
        .address(&bond.mint)
        .address(payout.address())
        .u64(price)
        .bytes(metadata_uri);
    EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?
    .emit(event.as_bytes())
}
