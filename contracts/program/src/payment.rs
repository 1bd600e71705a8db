//! What every way to a vendor has in common: money leaves the agent's bond and raises a channel's watermark.
//!
//! May not decide who may ask or how much: that is each instruction's own rule.

use pinocchio::Address;

use crate::{
    error::Result,
    event::{discriminator, Event, EventSink},
    state::{AgentAccount, Channel},
};

/// Take `amount` from what the agent has: its bond or, once slashed, what was forfeited, where vendors come before the
/// reporter.
#[inline(always)]
pub fn take(agent: &mut AgentAccount, amount: u64) -> Result {
    if agent.is_slashed() {
        agent.forfeited.sub(amount)?;
        let left = agent.forfeited.get();
        if agent.reporter_set_aside.get() > left {
            agent.reporter_set_aside.set(left);
        }
    } else {
        agent.bond.sub(amount)?;
    }
    agent.paid_total.add(amount)
}

/// Raise the channel's watermark by `amount`, which serves a pending claim first.
#[inline(always)]
pub fn raise_watermark(channel: &mut Channel, agent: &mut AgentAccount, amount: u64) -> Result {
    let claimed_before = channel.open_claim();
    channel.settled.add(amount)?;
    if claimed_before > 0 {
        let claimed_after = channel.open_claim();
        agent.close_claims(claimed_before.saturating_sub(claimed_after))?;
        if claimed_after == 0 {
            channel.claim_cumulative.set(0);
            channel.claim_unlock.set(0);
        }
    }
    Ok(())
}

/// Event Shortfall: `missing` was due and not there. It stays authorised and can be paid later.
#[cold]
#[inline(never)]
pub fn record_shortfall(
    sink: &EventSink,
    address: &Address,
    channel: &Channel,
    missing: u64,
) -> Result {
    let mut event = Event::<160>::new(discriminator::SHORTFALL);
    event
        .address(address)
        .address(&channel.agent)
        .address(&channel.gateway)
        .address(&channel.vendor)
        .u64(missing)
        .u64(channel.settled.get());
    sink.emit(event.as_bytes())
}
