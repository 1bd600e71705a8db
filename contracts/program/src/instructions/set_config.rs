//! set_config: change the configuration of a mint. What is not named stays as it is.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | global_bond | | yes | |
//! | 1 | admin | yes | | |
//! | 2 | event_authority | | | |
//! | 3 | program | | | |
//!
//! Arguments, each an option: pending_admin, relayer, treasury (32 bytes each), min_bond u64, timelock i64,
//! claim_delay i64, agent_bond_cap u64, reporter_bps u16, deposits_paused bool, allow_list bool.
//!
//! Nothing pending is touched: a withdrawal, a claim and a slashing window keep the times, and a reporter the share,
//! that were written when they began. Therefore `min_bond` can only be lowered: a higher one would hold back part of a
//! withdrawal that is already under way. A new admin is only proposed here (zero takes the proposal back) and becomes
//! admin by accept_admin: a mistyped key cannot lock everybody out.

use pinocchio::{AccountView, Address};

use super::{require_signer, Call};
use crate::{
    args::Args,
    config,
    error::{Error, Result},
    event::EventSink,
    state::{self, GlobalBond},
};

pub const DISCRIMINATOR: [u8; 8] = [0x6c, 0x9e, 0x9a, 0xaf, 0xd4, 0x62, 0x34, 0x42];

struct Changes {
    pending_admin: Option<Address>,
    relayer: Option<Address>,
    treasury: Option<Address>,
    min_bond: Option<u64>,
    timelock: Option<i64>,
    claim_delay: Option<i64>,
    agent_bond_cap: Option<u64>,
    reporter_bps: Option<u16>,
    deposits_paused: Option<bool>,
    allow_list: Option<bool>,
}

impl Changes {
    fn parse(data: &[u8]) -> Result<Self> {
        let mut args = Args::new(data);
        let changes = Self {
            pending_admin: args.option(Args::address)?,
            relayer: args.option(Args::address)?,
            treasury: args.option(Args::address)?,
            min_bond: args.option(Args::u64)?,
            timelock: args.option(Args::i64)?,
            claim_delay: args.option(Args::i64)?,
            agent_bond_cap: args.option(Args::u64)?,
            reporter_bps: args.option(Args::u16)?,
            deposits_paused: args.option(Args::bool)?,
            allow_list: args.option(Args::bool)?,
        };
        args.finish()?;
        Ok(changes)
    }

    fn apply(self, bond: &mut GlobalBond) -> Result {
        if let Some(pending_admin) = self.pending_admin {
            bond.pending_admin = pending_admin;
        }
        if let Some(relayer) = self.relayer {
            bond.relayer = relayer;
        }
        if let Some(treasury) = self.treasury {
            bond.treasury = treasury;
        }
        if let Some(min_bond) = self.min_bond {
            if min_bond > bond.min_bond.get() {
                return Err(Error::InvalidConfig);
            }
            bond.min_bond.set(min_bond);
        }
        if let Some(timelock) = self.timelock {
            bond.timelock.set(timelock);
        }
        if let Some(claim_delay) = self.claim_delay {
            bond.claim_delay.set(claim_delay);
        }
        if let Some(agent_bond_cap) = self.agent_bond_cap {
            bond.agent_bond_cap.set(agent_bond_cap);
        }
        if let Some(reporter_bps) = self.reporter_bps {
            bond.reporter_bps.set(reporter_bps);
        }
        if let Some(deposits_paused) = self.deposits_paused {
            bond.deposits_paused = deposits_paused as u8;
        }
        if let Some(allow_list) = self.allow_list {
            bond.allow_list = allow_list as u8;
        }
        config::check(bond)
    }
}

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [global_bond, admin, event_authority, program] = accounts else {
        return Err(Error::WrongAccountCount);
    };
    let changes = Changes::parse(call.data)?;

    require_signer(admin)?;
    let mut bond = state::load_mut::<GlobalBond>(global_bond, program_id)?;
    if bond.admin != *admin.address() {
        return Err(Error::NotAdmin);
    }

    changes.apply(&mut bond)?;

    let bump = bond.event_authority_bump;
    config::record(
        &EventSink::new(event_authority, program, program_id, bump)?,
        &bond,
    )
}
