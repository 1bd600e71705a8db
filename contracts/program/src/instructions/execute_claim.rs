//! execute_claim: pay a claim whose delay has passed. Anyone may, so that a claim needs nobody's good will.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | global_bond | | | |
//! | 1 | vault | | yes | |
//! | 2 | vendor_account | | | |
//! | 3 | vendor_token_account | | yes | the vendor's payout account |
//! | 4 | channel | | yes | |
//! | 5 | agent_account | | yes | |
//! | 6 | token_program | | | |
//! | 7 | event_authority | | | |
//! | 8 | program | | | |
//!
//! No arguments. Pays what the claim still asks for, as far as the agent has it; the rest stays open and can be executed
//! again. A slashed agent's claims wait for the end of the slashing window and leave the reporter's set-aside alone.

use pinocchio::{
    sysvars::{clock::Clock, Sysvar},
    AccountView,
};

use super::{require_address, require_program, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    payment,
    state::{self, AgentAccount, Channel, GlobalBond, VendorAccount},
    token::{self, Vault},
};

pub const DISCRIMINATOR: [u8; 8] = [0xba, 0x68, 0xec, 0x5f, 0xfc, 0xbd, 0xa7, 0x63];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [global_bond, vault, vendor_account, payout, channel_account, agent_account, token_program, event_authority, program] =
        accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    Args::new(call.data).finish()?;

    require_program(token_program, &token::PROGRAM_ID)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    require_address(vault, &bond.vault)?;
    let sink = EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?;
    let vendor = state::load::<VendorAccount>(vendor_account, program_id)?;
    require_address(payout, &vendor.payout)?;
    let address = channel_account.address().clone();
    let mut channel = state::load_mut::<Channel>(channel_account, program_id)?;
    let mut agent = state::load_mut::<AgentAccount>(agent_account, program_id)?;
    if vendor.mint != bond.mint || channel.mint != bond.mint || agent.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    if channel.vendor != vendor.authority {
        return Err(Error::WrongVendor);
    }
    if channel.agent != agent.agent {
        return Err(Error::WrongAgent);
    }
    let asked = channel.open_claim();
    if asked == 0 {
        return Err(Error::NoClaimPending);
    }
    let now = Clock::get()?.unix_timestamp;
    if now < channel.claim_unlock.get() {
        return Err(Error::ClaimLocked);
    }
    if agent.is_slashed() && now < agent.window_end.get() {
        return Err(Error::SlashingWindowOpen);
    }
    let amount = asked.min(agent.available_to_claims());
    if amount == 0 {
        return Err(Error::InsufficientBond);
    }

    let to_owed = !token::is_live(payout, &bond.mint);
    payment::take(&mut agent, amount)?;
    payment::raise_watermark(&mut channel, &mut agent, amount)?;
    if to_owed {
        channel.owed.add(amount)?;
    } else {
        Vault {
            account: vault,
            global_bond,
            mint: &bond.mint,
            bump: bond.header.bump,
        }
        .pay(payout, amount)?;
    }

    if amount < asked {
        payment::record_shortfall(&sink, &address, &channel, asked - amount)?;
    }
    let mut event = Event::<240>::new(discriminator::CLAIM_EXECUTED);
    event
        .address(&address)
        .address(&bond.mint)
        .address(&channel.agent)
        .address(&channel.gateway)
        .address(&channel.vendor)
        .address(payout.address())
        .u64(amount)
        .u64(channel.settled.get())
        .bool(to_owed);
    sink.emit(event.as_bytes())
}
