//! sweep_forfeited: after the slashing window, pay out what vendors left of a forfeited bond: to the reporter what
//! remains of the set-aside, to the treasury the rest. Anyone may.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | global_bond | | | |
//! | 1 | vault | | yes | |
//! | 2 | agent_account | | yes | |
//! | 3 | reporter_token_account | | yes | belongs to the reporter |
//! | 4 | treasury_token_account | | yes | belongs to the treasury |
//! | 5 | token_program | | | |
//! | 6 | event_authority | | | |
//! | 7 | program | | | |
//!
//! No arguments. What pending claims ask for stays for them, so that sweeping first gains nothing. An account that
//! cannot receive is passed over and its part stays: the reporter cannot block the treasury, nor the other way round.

use pinocchio::{
    sysvars::{clock::Clock, Sysvar},
    AccountView, Address,
};

use super::{require_address, require_program, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    state::{self, AgentAccount, GlobalBond},
    token::{self, Vault},
};

pub const DISCRIMINATOR: [u8; 8] = [0x98, 0x06, 0x25, 0xb4, 0x9c, 0x33, 0xe0, 0xe3];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [global_bond, vault, agent_account, reporter_account, treasury_account, token_program, event_authority, program] =
        accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    Args::new(call.data).finish()?;

    require_program(token_program, &token::PROGRAM_ID)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    require_address(vault, &bond.vault)?;
    let mut agent = state::load_mut::<AgentAccount>(agent_account, program_id)?;
    if agent.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    if !agent.is_slashed() {
        return Err(Error::NotSlashed);
    }
    if Clock::get()?.unix_timestamp < agent.window_end.get() {
        return Err(Error::SlashingWindowOpen);
    }
    let recipients = Recipients {
        vault: vault.address(),
        mint: &bond.mint,
    };
    let mut to_reporter = agent.reporter_set_aside.get();
    let mut to_treasury = agent
        .available_to_claims()
        .saturating_sub(agent.open_claims.get());
    if !recipients.can_receive(reporter_account, &agent.reporter)? {
        to_reporter = 0;
    }
    if !recipients.can_receive(treasury_account, &bond.treasury)? {
        to_treasury = 0;
    }
    let total = to_reporter
        .checked_add(to_treasury)
        .ok_or(Error::Overflow)?;
    if total == 0 {
        return Err(Error::NothingToSweep);
    }

    agent.forfeited.sub(total)?;
    agent.reporter_set_aside.sub(to_reporter)?;
    agent.swept_total.add(total)?;

    let payer = Vault {
        account: vault,
        global_bond,
        mint: &bond.mint,
        bump: bond.header.bump,
    };
    if to_reporter > 0 {
        payer.pay(reporter_account, to_reporter)?;
    }
    if to_treasury > 0 {
        payer.pay(treasury_account, to_treasury)?;
    }

    let mut event = Event::<168>::new(discriminator::FORFEITED_SWEPT);
    event
        .address(&bond.mint)
        .address(&agent.agent)
        .address(&agent.reporter)
        .address(&bond.treasury)
        .u64(to_reporter)
        .u64(to_treasury)
        .u64(agent.forfeited.get());
    EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?
    .emit(event.as_bytes())
}

struct Recipients<'a> {
    vault: &'a Address,
    mint: &'a Address,
}

impl Recipients<'_> {
    /// Whether `account` is live; if it is, it must belong to `wallet` and not be the vault itself.
    fn can_receive(&self, account: &AccountView, wallet: &Address) -> Result<bool> {
        if !token::is_live(account, self.mint) {
            return Ok(false);
        }
        if account.address() != self.vault && token::owner_is(account, wallet)? {
            Ok(true)
        } else {
            Err(Error::InvalidPayoutAccount)
        }
    }
}
