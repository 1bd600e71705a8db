//! settle_aggregated: move what one agent authorised on many channels out of its bond, with one signature. The relayer
//! signs, as for settle_cumulative. The amounts become `owed`; `distribute` pays them, one vendor at a time.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | relayer | yes | | |
//! | 1 | global_bond | | | |
//! | 2 | agent_account | | yes | |
//! | 3 | instructions | | | the instructions sysvar |
//! | 4 | event_authority | | | |
//! | 5 | program | | | |
//! | then n times | channel | | yes | the agent's, strictly ascending by address |
//!
//! Arguments, without length prefix: n times cumulative u64, in the order of the channels. The instruction right before
//! is the Ed25519 precompile's with the aggregated voucher over exactly these channels and cumulatives.
//!
//! Each channel moves `cumulative - settled`; where nothing is due it is skipped, so the same voucher twice moves once.
//! There is no `up_to`, and a bond that does not cover everything fails the whole transaction: what to leave out would
//! be somebody's choice that the agent did not sign.

use pinocchio::AccountView;

use super::{require_signer, Call};
use crate::{
    aggregate::{self, Aggregate, CHANNELS_MAX},
    ed25519,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    payment,
    state::{self, AgentAccount, Channel, GlobalBond},
};

pub const DISCRIMINATOR: [u8; 8] = [0x89, 0xd4, 0x07, 0xd7, 0x17, 0x84, 0x45, 0x27];

const NAMED_ACCOUNTS: usize = 6;
/// Where the channel count stands in the event, behind mint and agent.
const COUNT_OFFSET: usize = 16 + 2 * 32;
/// Channel, amount, settled.
const ITEM_LENGTH: usize = 32 + 8 + 8;
type AggregatedEvent = Event<{ COUNT_OFFSET + 4 + CHANNELS_MAX * ITEM_LENGTH + 8 }>;

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let (named, channels) = accounts
        .split_at_mut_checked(NAMED_ACCOUNTS)
        .ok_or(Error::WrongAccountCount)?;
    let [relayer, global_bond, agent_account, instructions, event_authority, program] = named
    else {
        return Err(Error::WrongAccountCount);
    };
    let cumulatives = call.data;
    if cumulatives.is_empty() || cumulatives.len() % 8 != 0 {
        return Err(Error::InvalidInstructionData);
    }
    if cumulatives.len() / 8 != channels.len() {
        return Err(Error::WrongAccountCount);
    }

    require_signer(relayer)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    if *relayer.address() != bond.relayer {
        return Err(Error::NotRelayer);
    }
    let mut agent = state::load_mut::<AgentAccount>(agent_account, program_id)?;
    if agent.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    let is_ascending = channels
        .windows(2)
        .all(|pair| pair[0].address().as_array() < pair[1].address().as_array());
    if !is_ascending {
        return Err(Error::ChannelsNotSorted);
    }
    let sysvar = ed25519::instructions_sysvar(instructions)?;
    let attested = ed25519::attested::<{ aggregate::LENGTH }>(&sysvar, 1)?;
    let (signer, message) = attested.get(0)?;
    let expected = Aggregate {
        domain: &bond.domain,
        mint: &bond.mint,
        agent: &agent.agent,
        channels,
        cumulatives,
    }
    .message()?;
    if agent.agent != *signer || *message != expected {
        return Err(Error::InvalidSignature);
    }
    let sink = EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?;

    let settlement = Settlement {
        call,
        bond: &bond,
        sink: &sink,
    };
    settlement.move_to_owed(&mut agent, channels)
}

struct Settlement<'a> {
    /// Its data are the cumulatives.
    call: &'a Call<'a>,
    bond: &'a GlobalBond,
    sink: &'a EventSink<'a>,
}

impl Settlement<'_> {
    /// Move what is due on each channel from the agent's bond to the channel's `owed`, and record it. On its own
    /// because the event fills most of a stack frame.
    #[inline(never)]
    fn move_to_owed(&self, agent: &mut AgentAccount, channels: &mut [AccountView]) -> Result {
        let mut event = AggregatedEvent::new(discriminator::AGGREGATED);
        event.address(&self.bond.mint).address(&agent.agent).u32(0);
        let mut total: u64 = 0;
        let mut raised: u32 = 0;
        let cumulatives = self.call.data.chunks_exact(8);
        for (channel_view, cumulative) in channels.iter_mut().zip(cumulatives) {
            let address = channel_view.address().clone();
            let mut channel = state::load_mut::<Channel>(channel_view, self.call.program_id)?;
            if channel.mint != self.bond.mint {
                return Err(Error::WrongMint);
            }
            if channel.agent != agent.agent {
                return Err(Error::WrongAgent);
            }
            let due = super::read_u64(cumulative).saturating_sub(channel.settled.get());
            if due == 0 {
                continue;
            }
            if due > agent.available() {
                return Err(Error::InsufficientBond);
            }
            payment::take(agent, due)?;
            payment::raise_watermark(&mut channel, agent, due)?;
            channel.owed.add(due)?;
            total = total.checked_add(due).ok_or(Error::Overflow)?;
            raised += 1;
            event.address(&address).u64(due).u64(channel.settled.get());
        }
        if raised == 0 {
            return Ok(());
        }
        event.patch_u32(COUNT_OFFSET, raised);
        event.u64(total);
        self.sink.emit(event.as_bytes())
    }
}
