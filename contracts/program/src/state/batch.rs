//! Batch `["batch", mint, sequence]`: the Merkle root over every payment of one stretch of time.

use core::mem::{offset_of, size_of};

use pinocchio::Address;

use super::{Header, Layout, I64, U64};

/// 176 bytes.
#[repr(C)]
pub struct Batch {
    /// 0: discriminator, version, bump
    pub header: Header,
    /// 10
    pub padding: [u8; 6],
    /// 16
    pub mint: Address,
    /// 48: position in the chain of batches, from 0
    pub sequence: U64,
    /// 56: RFC 6962 Merkle root
    pub root: [u8; 32],
    /// 88
    pub leaf_count: U64,
    /// 96: sum of what was charged in it, atomic units
    pub total: U64,
    /// 104: sha256(previous head || sequence || leaf count || root)
    pub head: [u8; 32],
    /// 136: unix seconds
    pub committed_at: I64,
    /// 144
    pub reserved: [u8; 32],
}

const _: () = {
    assert!(offset_of!(Batch, mint) == 16);
    assert!(offset_of!(Batch, root) == 56);
    assert!(offset_of!(Batch, head) == 104);
    assert!(size_of::<Batch>() == 176);
};

// SAFETY: repr(C), header first, alignment 1, every field valid for any bytes.
unsafe impl Layout for Batch {
    const DISCRIMINATOR: [u8; 8] = [0x9c, 0xc2, 0x46, 0x2c, 0x16, 0x58, 0x89, 0x2c];
}
