//! slash_equivocation: prove that an agent signed two payments under one nonce on two channels. Anyone may. The whole
//! bond becomes forfeited; nothing leaves it for a slashing window of two timelocks except settlements that the relayer
//! signs, so that the vendors it served are paid first.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | reporter | yes | | whose token account gets the set-aside after the window |
//! | 1 | global_bond | | | |
//! | 2 | agent_account | | yes | |
//! | 3 | instructions | | | the instructions sysvar |
//! | 4 | event_authority | | | |
//! | 5 | program | | | |
//!
//! Arguments: nonce 16 bytes, then for each of the two payments gateway 32 bytes, amount u64, deadline i64,
//! request_hash 32 bytes. The instruction right before is the Ed25519 precompile's with the two vouchers in the same
//! order. Each must be the one that follows from the arguments: its channel from this domain, mint, agent and gateway,
//! its context from nonce, amount, deadline and request hash.
//!
//! Nonces are 16 bytes drawn at random per signature, so a proof cannot come about by accident; and an agent that signs
//! the same payment again for the same gateway proves nothing.

use pinocchio::{
    sysvars::{clock::Clock, Sysvar},
    AccountView, Address,
};

use super::{require_signer, Call};
use crate::{
    args::Args,
    ed25519,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    hash, pda,
    state::{self, AgentAccount, GlobalBond},
    voucher::{self, Voucher},
};

pub const DISCRIMINATOR: [u8; 8] = [0x14, 0x57, 0xef, 0xc4, 0xea, 0x6d, 0x2b, 0x8a];

const CONTEXT_TAG: &[u8] = b"machpay:context:v1";
const NONCE_LENGTH: usize = 16;
/// Amount u64, deadline i64, request hash, as the context's preimage has them.
const TERMS_LENGTH: usize = 8 + 8 + 32;
/// Of the timelock. Longer than a withdrawal and any claim, so that being slashed is never the faster way out.
const WINDOW_TIMELOCKS: i64 = 2;

/// What one of the two vouchers was signed for.
struct Payment<'a> {
    gateway: &'a [u8; 32],
    terms: &'a [u8; TERMS_LENGTH],
}

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [reporter, global_bond, agent_account, instructions, event_authority, program] = accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    let mut args = Args::new(call.data);
    let nonce: &[u8; NONCE_LENGTH] = args.chunk()?;
    let payments = [read_payment(&mut args)?, read_payment(&mut args)?];
    args.finish()?;

    require_signer(reporter)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    let mut agent = state::load_mut::<AgentAccount>(agent_account, program_id)?;
    if agent.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    if agent.is_slashed() {
        return Err(Error::AgentSlashed);
    }
    if payments[0].gateway == payments[1].gateway {
        return Err(Error::SameChannel);
    }
    let sysvar = ed25519::instructions_sysvar(instructions)?;
    let vouchers = ed25519::attested::<{ voucher::LENGTH }>(&sysvar, payments.len())?;
    let payer = Payer {
        program_id,
        bond: &bond,
        agent: &agent.agent,
        nonce,
    };
    for (index, payment) in payments.iter().enumerate() {
        let (signer, message) = vouchers.get(index)?;
        if payer.agent != signer {
            return Err(Error::InvalidSignature);
        }
        payer.require_preimage(&Voucher::parse(message)?, payment)?;
    }

    let forfeited = agent.bond.get();
    let set_aside = share(forfeited, bond.reporter_bps.get());
    let window = bond
        .timelock
        .get()
        .checked_mul(WINDOW_TIMELOCKS)
        .ok_or(Error::Overflow)?;
    let window_end = Clock::get()?
        .unix_timestamp
        .checked_add(window)
        .ok_or(Error::Overflow)?;

    agent.slashed = 1;
    agent.bond.set(0);
    agent.forfeited.set(forfeited);
    agent.pending_withdrawal.set(0);
    agent.withdrawal_unlock.set(0);
    agent.reporter = reporter.address().clone();
    agent.reporter_set_aside.set(set_aside);
    agent.window_end.set(window_end);

    let mut event = Event::<200>::new(discriminator::AGENT_SLASHED);
    event
        .address(&bond.mint)
        .address(&agent.agent)
        .address(reporter.address())
        .hash(payments[0].gateway)
        .hash(payments[1].gateway)
        .u64(forfeited)
        .u64(set_aside)
        .i64(window_end);
    EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?
    .emit(event.as_bytes())
}

fn read_payment<'a>(args: &mut Args<'a>) -> Result<Payment<'a>> {
    Ok(Payment {
        gateway: args.chunk()?,
        terms: args.chunk()?,
    })
}

/// Who is said to have signed, and under which nonce.
struct Payer<'a> {
    program_id: &'a Address,
    bond: &'a GlobalBond,
    agent: &'a Address,
    nonce: &'a [u8; NONCE_LENGTH],
}

impl Payer<'_> {
    /// The voucher is the one of this payer's payment: channel and context follow from it.
    #[inline(never)]
    fn require_preimage(&self, voucher: &Voucher, payment: &Payment) -> Result {
        let seeds: [&[u8]; 5] = [
            pda::CHANNEL_SEED,
            self.bond.domain.as_array(),
            self.bond.mint.as_array(),
            self.agent.as_array(),
            payment.gateway,
        ];
        let (channel, _) = pda::find(&seeds, self.program_id)?;
        let context = hash::sha256(&[CONTEXT_TAG, self.nonce, payment.terms]);
        if *voucher.channel() == channel
            && voucher.context()[..] == context[..voucher::CONTEXT_LENGTH]
        {
            Ok(())
        } else {
            Err(Error::WrongPreimage)
        }
    }
}

/// `bps`/10,000 of `amount`, rounded down. In two parts because the product may exceed 64 bits.
fn share(amount: u64, bps: u16) -> u64 {
    let bps = bps as u64;
    (amount / 10_000) * bps + (amount % 10_000) * bps / 10_000
}
