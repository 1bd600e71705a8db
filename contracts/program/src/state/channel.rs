//! Channel `["channel", domain, mint, agent, gateway]`: how much of what an agent authorised to one gateway is settled.
//!
//! The address is what vouchers name, so the seeds bind them to cluster, token, agent and gateway. `settled` only rises,
//! by exactly what was paid or moved to `owed`; `settled - owed` is what the vendor received.

use core::mem::{offset_of, size_of};

use pinocchio::Address;

use super::{Header, Layout, I64, U64};

/// 208 bytes.
#[repr(C)]
pub struct Channel {
    /// 0: discriminator, version, bump
    pub header: Header,
    /// 10
    pub padding: [u8; 6],
    /// 16
    pub agent: Address,
    /// 48
    pub gateway: Address,
    /// 80: authority key of the vendor that the gateway served when the channel opened; it never changes
    pub vendor: Address,
    /// 112
    pub mint: Address,
    /// 144: the watermark, atomic units
    pub settled: U64,
    /// 152: taken from the bond but not transferred yet, because the payout account could not receive it
    pub owed: U64,
    /// 160: cumulative of the pending claim; above `settled` while a claim is open, else 0
    pub claim_cumulative: U64,
    /// 168: unix seconds from which the pending claim may be executed
    pub claim_unlock: I64,
    /// 176
    pub reserved: [u8; 32],
}

const _: () = {
    assert!(offset_of!(Channel, agent) == 16);
    assert!(offset_of!(Channel, vendor) == 80);
    assert!(offset_of!(Channel, settled) == 144);
    assert!(offset_of!(Channel, claim_unlock) == 168);
    assert!(size_of::<Channel>() == 208);
};

// SAFETY: repr(C), header first, alignment 1, every field valid for any bytes.
unsafe impl Layout for Channel {
    const DISCRIMINATOR: [u8; 8] = [0x31, 0x9f, 0x63, 0x6a, 0xdc, 0x57, 0xdb, 0x58];
}

impl Channel {
    /// What the pending claim still asks for.
    pub fn open_claim(&self) -> u64 {
        self.claim_cumulative
            .get()
            .saturating_sub(self.settled.get())
    }
}
