//! GlobalBond `["bond", mint]`: the configuration of one mint, and the authority over its vault.

use core::mem::{offset_of, size_of};

use pinocchio::Address;

use super::{Header, Layout, I64, U16, U64};

/// 448 bytes.
#[repr(C)]
pub struct GlobalBond {
    /// 0: discriminator, version, bump
    pub header: Header,
    /// 10: decimals of the mint, for people who read the account
    pub decimals: u8,
    /// 11: 1 refuses new deposits; settlement, claims and withdrawals are never paused
    pub deposits_paused: u8,
    /// 12: 1 lets only agents in whose first deposit the admin co-signs
    pub allow_list: u8,
    /// 13: bump of the vault's address
    pub vault_bump: u8,
    /// 14: share of a slashed bond set aside for the reporter, in 1/10,000
    pub reporter_bps: U16,
    /// 16
    pub mint: Address,
    /// 48: the token account `["vault", mint]` that holds every bond
    pub vault: Address,
    /// 80: the wallet that may change this configuration
    pub admin: Address,
    /// 112: the wallet that may accept to become admin, or zero
    pub pending_admin: Address,
    /// 144: the key that co-signs fast settlement and commits batches
    pub relayer: Address,
    /// 176: the wallet whose token account receives swept bonds
    pub treasury: Address,
    /// 208: genesis hash of the cluster; part of every channel's address
    pub domain: Address,
    /// 240: what a first deposit must reach, atomic units
    pub min_bond: U64,
    /// 248: seconds between a withdrawal's request and its execution
    pub timelock: I64,
    /// 256: seconds a claim is public before anyone may execute it; at most half the timelock
    pub claim_delay: I64,
    /// 264: most one agent may hold, atomic units; 0 is no cap
    pub agent_bond_cap: U64,
    /// 272: batches committed so far
    pub batch_sequence: U64,
    /// 280: hash chain over the batches
    pub batch_head: [u8; 32],
    /// 312: bump of the event authority's address
    pub event_authority_bump: u8,
    /// 313
    pub reserved: [u8; 135],
}

const _: () = {
    assert!(offset_of!(GlobalBond, reporter_bps) == 14);
    assert!(offset_of!(GlobalBond, mint) == 16);
    assert!(offset_of!(GlobalBond, relayer) == 144);
    assert!(offset_of!(GlobalBond, domain) == 208);
    assert!(offset_of!(GlobalBond, min_bond) == 240);
    assert!(offset_of!(GlobalBond, batch_sequence) == 272);
    assert!(offset_of!(GlobalBond, event_authority_bump) == 312);
    assert!(size_of::<GlobalBond>() == 448);
};

// SAFETY: repr(C), header first, alignment 1, every field valid for any bytes.
unsafe impl Layout for GlobalBond {
    const DISCRIMINATOR: [u8; 8] = [0x5e, 0xae, 0xac, 0x42, 0x68, 0x86, 0x28, 0x14];
}
