//! claim_cumulative: ask for what a voucher authorises without the relayer. The slow way out of a bond: the claim is
//! public for `claim_delay`, then anyone executes it (`execute_claim`). Meanwhile a withdrawal leaves it in the bond.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | claimant | yes | | the channel's vendor, or its gateway while not revoked |
//! | 1 | payer | yes | yes | pays the rent of a new channel |
//! | 2 | global_bond | | | |
//! | 3 | channel | | yes | created if missing |
//! | 4 | agent_account | | yes | |
//! | 5 | gateway_account | | | |
//! | 6 | vendor_account | | | the gateway's vendor |
//! | 7 | instructions | | | the instructions sysvar |
//! | 8 | system_program | | | |
//! | 9 | event_authority | | | |
//! | 10 | program | | | |
//!
//! No arguments. The instruction right before is the Ed25519 precompile's with the voucher and nothing else; an
//! aggregated voucher has another length and another type.
//!
//! A higher voucher replaces a pending claim and restarts its delay, so that nothing can be slipped in just before it
//! ends. A claim on a slashed agent is accepted; it waits for the end of the slashing window too.

use pinocchio::{
    sysvars::{clock::Clock, Sysvar},
    AccountView, Address,
};

use super::{require_program, require_signer, Call};
use crate::{
    args::Args,
    ed25519,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    opening::Opening,
    pda,
    state::{self, AgentAccount, Channel, GatewayAccount, GlobalBond, VendorAccount},
    voucher::{self, Voucher},
};

pub const DISCRIMINATOR: [u8; 8] = [0xa5, 0x58, 0x03, 0xc4, 0x51, 0xf8, 0xc9, 0x8a];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [claimant, payer, global_bond, channel_account, agent_account, gateway_account, vendor_account, instructions, system_program, event_authority, program] =
        accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    Args::new(call.data).finish()?;

    require_signer(claimant)?;
    require_signer(payer)?;
    require_program(system_program, &pinocchio_system::ID)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    let sink = EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?;
    let sysvar = ed25519::instructions_sysvar(instructions)?;
    let vouchers = ed25519::attested::<{ voucher::LENGTH }>(&sysvar, 1)?;
    let (signer, message) = vouchers.get(0)?;
    let voucher = Voucher::parse(message)?;
    if voucher.channel() != channel_account.address() {
        return Err(Error::InvalidSignature);
    }
    if pda::is_vacant(channel_account) {
        Opening {
            program_id,
            bond: &bond,
            payer,
            sink: &sink,
        }
        .open(channel_account, agent_account, gateway_account)?;
    }
    let mut channel = state::load_mut::<Channel>(channel_account, program_id)?;
    let mut agent = state::load_mut::<AgentAccount>(agent_account, program_id)?;
    let gateway = state::load::<GatewayAccount>(gateway_account, program_id)?;
    let vendor = state::load::<VendorAccount>(vendor_account, program_id)?;
    // A vendor paid in another mint could never execute the claim, and what it asks for would be locked up.
    if channel.mint != bond.mint || agent.mint != bond.mint || vendor.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    if channel.vendor != vendor.authority {
        return Err(Error::WrongVendor);
    }
    if channel.agent != agent.agent {
        return Err(Error::WrongAgent);
    }
    if channel.gateway != gateway.gateway {
        return Err(Error::WrongAddress);
    }
    if agent.agent != *signer {
        return Err(Error::InvalidSignature);
    }
    require_claimant(claimant.address(), &channel, &gateway)?;

    let cumulative = voucher.cumulative();
    let settled = channel.settled.get();
    if cumulative <= settled.max(channel.claim_cumulative.get()) {
        return Err(Error::NonceReplay);
    }
    let asked_before = channel.open_claim();
    let asked = cumulative - settled;
    let unlock = Clock::get()?
        .unix_timestamp
        .checked_add(bond.claim_delay.get())
        .ok_or(Error::Overflow)?;

    agent.add_claims(asked - asked_before);
    channel.claim_cumulative.set(cumulative);
    channel.claim_unlock.set(unlock);

    let mut event = Event::<200>::new(discriminator::CLAIM_REQUESTED);
    event
        .address(voucher.channel())
        .address(&bond.mint)
        .address(&channel.agent)
        .address(&channel.gateway)
        .address(&channel.vendor)
        .u64(cumulative)
        .u64(asked)
        .i64(unlock);
    sink.emit(event.as_bytes())
}

/// A revoked gateway's key may be in strange hands; with an agent's help it could restart the vendor's delay for ever.
fn require_claimant(claimant: &Address, channel: &Channel, gateway: &GatewayAccount) -> Result {
    let is_gateway = *claimant == channel.gateway && gateway.revoked == 0;
    if is_gateway || *claimant == channel.vendor {
        Ok(())
    } else {
        Err(Error::NotClaimant)
    }
}
