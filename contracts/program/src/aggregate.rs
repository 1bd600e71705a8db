//! The aggregated voucher: 36 signed bytes that raise what one agent has authorised on many channels at once.
//!
//! `"MP" 0x01 0x41 || sha256("machpay:aggregate:v1" || domain || mint || agent || n u16 LE || n x (channel ||
//! cumulative u64 LE))`, channels strictly ascending. It never expires: watermarks make a replay pay nothing.

use pinocchio::{AccountView, Address};

use crate::{
    error::{Error, Result},
    hash,
};

pub const LENGTH: usize = 36;
/// A transaction locks at most 64 accounts, of which settlement itself needs seven.
pub const CHANNELS_MAX: usize = 57;

const PREFIX: [u8; 4] = [b'M', b'P', 0x01, b'A'];
const TAG: &[u8] = b"machpay:aggregate:v1";
const HEAD_PARTS: usize = 5;

/// What an aggregated voucher is about.
pub struct Aggregate<'a> {
    pub domain: &'a Address,
    pub mint: &'a Address,
    pub agent: &'a Address,
    pub channels: &'a [AccountView],
    /// u64 LE, one per channel.
    pub cumulatives: &'a [u8],
}

impl Aggregate<'_> {
    /// The bytes the agent signs. At most `CHANNELS_MAX` channels.
    #[inline(never)]
    pub fn message(&self) -> Result<[u8; LENGTH]> {
        let count = self.channels.len();
        if count > CHANNELS_MAX {
            return Err(Error::InvalidInstructionData);
        }
        let count_bytes = (count as u16).to_le_bytes();
        let mut parts: [&[u8]; HEAD_PARTS + 2 * CHANNELS_MAX] =
            [&[]; HEAD_PARTS + 2 * CHANNELS_MAX];
        parts[0] = TAG;
        parts[1] = self.domain.as_array();
        parts[2] = self.mint.as_array();
        parts[3] = self.agent.as_array();
        parts[4] = &count_bytes;
        let pairs = self.channels.iter().zip(self.cumulatives.chunks_exact(8));
        for (slots, (channel, cumulative)) in parts[HEAD_PARTS..].chunks_exact_mut(2).zip(pairs) {
            slots[0] = channel.address().as_array();
            slots[1] = cumulative;
        }
        let hash = hash::sha256(&parts[..HEAD_PARTS + 2 * count]);
        let mut message = [0; LENGTH];
        message[..4].copy_from_slice(&PREFIX);
        message[4..].copy_from_slice(&hash);
        Ok(message)
    }
}
