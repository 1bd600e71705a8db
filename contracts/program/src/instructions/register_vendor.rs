//! register_vendor: say where a vendor is paid. The key that signs is the vendor's identity for ever.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | vendor_account | | yes | `["vendor", authority]` |
//! | 1 | authority | yes | | the vendor's key |
//! | 2 | payer | yes | yes | pays the rent |
//! | 3 | global_bond | | | of the mint the vendor is paid in |
//! | 4 | vendor_token_account | | | the payout account, a live token account of the mint |
//! | 5 | system_program | | | |
//! | 6 | event_authority | | | |
//! | 7 | program | | | |
//!
//! Arguments: price u64, metadata_uri string (at most 128 bytes).

use core::mem::size_of;

use pinocchio::{cpi::Seed, AccountView};

use super::{require_program, require_signer, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    pda::{self, NewAccount},
    state::{self, GlobalBond, VendorAccount, METADATA_URI_LENGTH_MAX},
    token,
};

pub const DISCRIMINATOR: [u8; 8] = [0xc0, 0x85, 0x7a, 0xfb, 0x1f, 0x89, 0x71, 0x8d];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [vendor_account, authority, payer, global_bond, payout, system_program, event_authority, program] =
        accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    let mut args = Args::new(call.data);
    let price = args.u64()?;
    let metadata_uri = args.bytes()?;
    args.finish()?;

    require_signer(authority)?;
    require_signer(payer)?;
    require_program(system_program, &pinocchio_system::ID)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    require_payout(payout, global_bond, &bond)?;
    require_uri(metadata_uri)?;
    let seeds: [&[u8]; 2] = [pda::VENDOR_SEED, authority.address().as_array()];
    let bump = pda::expect(vendor_account, &seeds, program_id)?;

    let bump_seed = [bump];
    pda::create(
        vendor_account,
        &NewAccount {
            payer,
            owner: program_id,
            space: size_of::<VendorAccount>(),
        },
        &[
            Seed::from(seeds[0]),
            Seed::from(seeds[1]),
            Seed::from(&bump_seed),
        ],
    )?;
    let mut vendor = state::initialize::<VendorAccount>(vendor_account, bump)?;
    vendor.authority = authority.address().clone();
    vendor.mint = bond.mint.clone();
    vendor.payout = payout.address().clone();
    vendor.price.set(price);
    vendor.metadata_uri_length.set(metadata_uri.len() as u16);
    vendor.metadata_uri[..metadata_uri.len()].copy_from_slice(metadata_uri);

    let mut event = Event::<256>::new(discriminator::VENDOR_REGISTERED);
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

/// A live token account of the mint that GlobalBond does not control: paying the vault from the vault would turn bonds
/// into a surplus nobody owns.
pub(super) fn require_payout(
    payout: &AccountView,
    global_bond: &AccountView,
    bond: &GlobalBond,
) -> Result {
    if token::is_live(payout, &bond.mint) && !token::owner_is(payout, global_bond.address())? {
        Ok(())
    } else {
        Err(Error::InvalidPayoutAccount)
    }
}

/// Text that fits the account.
pub(super) fn require_uri(metadata_uri: &[u8]) -> Result {
    if metadata_uri.len() <= METADATA_URI_LENGTH_MAX && core::str::from_utf8(metadata_uri).is_ok() {
        Ok(())
    } else {
        Err(Error::MetadataTooLong)
    }
}
