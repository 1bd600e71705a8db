//! AgentAccount `["agent", mint, agent]`: one agent's share of the vault.
//!
//! At every slot `bond + forfeited == deposited_total - paid_total - withdrawn_total - swept_total`, so a mirror of the
//! account alone can be reconciled without its history (docs/decisions/0003-lifetime-counters.md).

use core::mem::{offset_of, size_of};

use pinocchio::Address;

use super::{Header, Layout, I64, U64};
use crate::error::Result;

/// 288 bytes.
#[repr(C)]
pub struct AgentAccount {
    /// 0: discriminator, version, bump
    pub header: Header,
    /// 10: 1 after an equivocation was proven; one-way
    pub slashed: u8,
    /// 11
    pub padding: [u8; 5],
    /// 16: the key that signs vouchers
    pub agent: Address,
    /// 48
    pub mint: Address,
    /// 80: the wallet that withdrawals go to
    pub owner: Address,
    /// 112: what settlements may draw on, atomic units
    pub bond: U64,
    /// 120: sum over channels of what pending claims still ask for; 2^64 - 1 means "that or more" and never falls
    pub open_claims: U64,
    /// 128: what the pending withdrawal asks for; 0 is none
    pub pending_withdrawal: U64,
    /// 136: unix seconds from which the pending withdrawal may be executed
    pub withdrawal_unlock: I64,
    /// 144: what was the bond when the agent was slashed, less what was paid since
    pub forfeited: U64,
    /// 152: who proved the equivocation
    pub reporter: Address,
    /// 184: the part of `forfeited` meant for the reporter; never more than `forfeited`
    pub reporter_set_aside: U64,
    /// 192: unix seconds at which the slashing window ends
    pub window_end: I64,
    /// 200: everything ever deposited
    pub deposited_total: U64,
    /// 208: everything that ever left for vendors, transferred or moved to a channel's `owed`
    pub paid_total: U64,
    /// 216: everything ever withdrawn
    pub withdrawn_total: U64,
    /// 224: everything ever swept to reporter and treasury
    pub swept_total: U64,
    /// 232
    pub reserved: [u8; 56],
}

const _: () = {
    assert!(offset_of!(AgentAccount, agent) == 16);
    assert!(offset_of!(AgentAccount, bond) == 112);
    assert!(offset_of!(AgentAccount, forfeited) == 144);
    assert!(offset_of!(AgentAccount, reporter_set_aside) == 184);
    assert!(offset_of!(AgentAccount, deposited_total) == 200);
    assert!(size_of::<AgentAccount>() == 288);
};

// SAFETY: repr(C), header first, alignment 1, every field valid for any bytes.
unsafe impl Layout for AgentAccount {
    const DISCRIMINATOR: [u8; 8] = [0xf1, 0x77, 0x45, 0x8c, 0xe9, 0x09, 0x70, 0x32];
}

impl AgentAccount {
    /// `key` may ask for a withdrawal and execute it: the agent key or the owner.
    pub fn is_controlled_by(&self, key: &Address) -> bool {
        self.agent == *key || self.owner == *key
    }

    pub fn is_slashed(&self) -> bool {
        self.slashed != 0
    }

    /// What a settlement signed by the relayer may draw on: the bond, or what was forfeited, set-aside included.
    pub fn available(&self) -> u64 {
        if self.is_slashed() {
            self.forfeited.get()
        } else {
            self.bond.get()
        }
    }

    /// What a claim may draw on. The reporter's set-aside is not part of it: whoever equivocates could have a vendor of
    /// its own claim everything, and then nobody would have a reason to report it.
    pub fn available_to_claims(&self) -> u64 {
        if self.is_slashed() {
            self.forfeited
                .get()
                .saturating_sub(self.reporter_set_aside.get())
        } else {
            self.bond.get()
        }
    }

    /// Pending claims ask for `amount` more. An agent may sign more than 2^64 - 1 in total to vendors of its own; that
    /// must not keep another vendor from claiming, so the sum stops there, and there it stays.
    pub fn add_claims(&mut self, amount: u64) {
        let open = self.open_claims.get().saturating_add(amount);
        self.open_claims.set(open);
    }

    /// Pending claims ask for `amount` less.
    pub fn close_claims(&mut self, amount: u64) -> Result {
        if self.open_claims.get() == u64::MAX {
            return Ok(());
        }
        self.open_claims.sub(amount)
    }
}
