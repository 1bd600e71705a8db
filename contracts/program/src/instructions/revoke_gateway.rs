//! revoke_gateway: say that a gateway's key is no longer trusted. One-way: the key is never assigned again. What agents
//! authorised over it is still paid, and to the same vendor.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | gateway_account | | yes | `["gateway", gateway]` |
//! | 1 | authority | yes | | the vendor's key |
//! | 2 | event_authority | | | |
//! | 3 | program | | | |
//!
//! No arguments.

use pinocchio::{
    sysvars::{clock::Clock, Sysvar},
    AccountView,
};

use super::{require_signer, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    state::{self, GatewayAccount},
};

pub const DISCRIMINATOR: [u8; 8] = [0x04, 0x23, 0x82, 0x3e, 0x62, 0xe3, 0x68, 0xb4];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [gateway_account, authority, event_authority, program] = accounts else {
        return Err(Error::WrongAccountCount);
    };
    Args::new(call.data).finish()?;

    require_signer(authority)?;
    let mut gateway = state::load_mut::<GatewayAccount>(gateway_account, program_id)?;
    if gateway.vendor != *authority.address() {
        return Err(Error::WrongVendor);
    }
    if gateway.revoked != 0 {
        return Err(Error::GatewayRevoked);
    }

    gateway.revoked = 1;
    gateway.revoked_at.set(Clock::get()?.unix_timestamp);

    let mut event = Event::<80>::new(discriminator::GATEWAY_REVOKED);
    event.address(&gateway.gateway).address(&gateway.vendor);
    EventSink::derive(event_authority, program, program_id)?.emit(event.as_bytes())
}
