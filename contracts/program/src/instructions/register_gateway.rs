//! register_gateway: bind a gateway key to a vendor, once and for ever. Both sign, so nobody binds another's key.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | gateway_account | | yes | `["gateway", gateway]` |
//! | 1 | gateway | yes | | |
//! | 2 | vendor_account | | | |
//! | 3 | authority | yes | | the vendor's key |
//! | 4 | payer | yes | yes | pays the rent |
//! | 5 | system_program | | | |
//! | 6 | event_authority | | | |
//! | 7 | program | | | |
//!
//! No arguments.

use core::mem::size_of;

use pinocchio::{
    cpi::Seed,
    sysvars::{clock::Clock, Sysvar},
    AccountView,
};

use super::{require_program, require_signer, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    pda::{self, NewAccount},
    state::{self, GatewayAccount, VendorAccount},
};

pub const DISCRIMINATOR: [u8; 8] = [0xb7, 0xb8, 0x87, 0xe4, 0x47, 0xbf, 0x4c, 0xde];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [gateway_account, gateway, vendor_account, authority, payer, system_program, event_authority, program] =
        accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    Args::new(call.data).finish()?;

    require_signer(gateway)?;
    require_signer(authority)?;
    require_signer(payer)?;
    require_program(system_program, &pinocchio_system::ID)?;
    let vendor = state::load::<VendorAccount>(vendor_account, program_id)?;
    if vendor.authority != *authority.address() {
        return Err(Error::WrongVendor);
    }
    let seeds: [&[u8]; 2] = [pda::GATEWAY_SEED, gateway.address().as_array()];
    let bump = pda::expect(gateway_account, &seeds, program_id)?;

    let bump_seed = [bump];
    pda::create(
        gateway_account,
        &NewAccount {
            payer,
            owner: program_id,
            space: size_of::<GatewayAccount>(),
        },
        &[
            Seed::from(seeds[0]),
            Seed::from(seeds[1]),
            Seed::from(&bump_seed),
        ],
    )?;
    let mut account = state::initialize::<GatewayAccount>(gateway_account, bump)?;
    account.gateway = gateway.address().clone();
    account.vendor = vendor.authority.clone();
    account.registered_at.set(Clock::get()?.unix_timestamp);

    let mut event = Event::<80>::new(discriminator::GATEWAY_REGISTERED);
    event.address(gateway.address()).address(&vendor.authority);
    EventSink::derive(event_authority, program, program_id)?.emit(event.as_bytes())
}
