//! The voucher: the 60 bytes an agent signs and the chain checks.
//!
//! `"MP" 0x01 0x49 || channel 32 || cumulative u64 LE || context 16`. The channel's address binds cluster, program,
//! mint, agent and gateway. The context is a hash of the one payment the voucher was signed for; only slashing reads it.

use pinocchio::Address;

use crate::error::{Error, Result};

pub const LENGTH: usize = 60;
pub const CONTEXT_LENGTH: usize = 16;
const PREFIX: [u8; 4] = [b'M', b'P', 0x01, b'I'];

/// A voucher read from its bytes; the signature over them is the caller's business.
pub struct Voucher<'a>(&'a [u8; LENGTH]);

impl<'a> Voucher<'a> {
    /// Refuses every other message of the protocol by its prefix.
    pub fn parse(message: &'a [u8; LENGTH]) -> Result<Self> {
        if message[..4] == PREFIX {
            Ok(Self(message))
        } else {
            Err(Error::InvalidSignature)
        }
    }

    pub fn channel(&self) -> &'a Address {
        let bytes: &[u8; LENGTH] = self.0;
        // SAFETY: `Address` is a transparent [u8; 32]; bytes 4..36 exist.
        unsafe { &*(bytes.as_ptr().add(4) as *const Address) }
    }

    /// Everything the agent has authorised on the channel so far, atomic units.
    pub fn cumulative(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[36..44]);
        u64::from_le_bytes(bytes)
    }

    /// `sha256("machpay:context:v1" || nonce || amount || deadline || request_hash)[..16]` of the payment.
    pub fn context(&self) -> &'a [u8; CONTEXT_LENGTH] {
        let bytes: &[u8; LENGTH] = self.0;
        // SAFETY: bytes 44..60 exist.
        unsafe { &*(bytes.as_ptr().add(44) as *const [u8; CONTEXT_LENGTH]) }
    }
}
