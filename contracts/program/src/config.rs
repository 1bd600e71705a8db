//! The bounds of a mint's configuration, and the event that records it.

use pinocchio::Address;

use crate::{
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    state::GlobalBond,
};

/// Below a minute nobody could react to a claim or a withdrawal request.
pub const TIMELOCK_MIN: i64 = 60;
/// Thirty days: longer would hold funds hostage to a typing error.
pub const TIMELOCK_MAX: i64 = 30 * 24 * 60 * 60;
/// Half: more would reward slashing one's own agent over withdrawing.
pub const REPORTER_BPS_MAX: u16 = 5_000;

/// Refuse a configuration outside its bounds.
#[inline(never)]
pub fn check(bond: &GlobalBond) -> Result {
    let nobody = Address::default();
    let (timelock, claim_delay) = (bond.timelock.get(), bond.claim_delay.get());
    let (min_bond, cap) = (bond.min_bond.get(), bond.agent_bond_cap.get());
    let is_valid = bond.admin != nobody
        && bond.relayer != nobody
        && bond.treasury != nobody
        && bond.domain != nobody
        && min_bond > 0
        && (TIMELOCK_MIN..=TIMELOCK_MAX).contains(&timelock)
        && claim_delay > 0
        && claim_delay <= timelock >> 1
        && (cap == 0 || cap >= min_bond)
        && bond.reporter_bps.get() <= REPORTER_BPS_MAX;
    if is_valid {
        Ok(())
    } else {
        Err(Error::InvalidConfig)
    }
}

/// Event ConfigChanged: the whole configuration as it is from now on.
#[inline(never)]
pub fn record(sink: &EventSink, bond: &GlobalBond) -> Result {
    let mut event = Event::<220>::new(discriminator::CONFIG_CHANGED);
    event
        .address(&bond.mint)
        .address(&bond.admin)
        .address(&bond.pending_admin)
        .address(&bond.relayer)
        .address(&bond.treasury)
        .u64(bond.min_bond.get())
        .i64(bond.timelock.get())
        .i64(bond.claim_delay.get())
        .u64(bond.agent_bond_cap.get())
        .u16(bond.reporter_bps.get())
        .bool(bond.deposits_paused != 0)
        .bool(bond.allow_list != 0);
    sink.emit(event.as_bytes())
}
