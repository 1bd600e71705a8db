//! Which messages the runtime's Ed25519 precompile has verified in this transaction.
//!
//! The precompile takes a table of offsets and instruction indexes and verifies whatever bytes they point to, in any
//! instruction. A program that reads fixed slices without checking the table would accept bytes nobody verified. So
//! exactly one form is accepted: the instruction right before the current one, of the precompile, with this data and
//! nothing more (n signatures over messages of one length, all indexes 0xffff for "this instruction"):
//!
//! ```text
//! [n][0]  n x { signature offset, 0xffff, key offset, 0xffff, message offset, length, 0xffff }   u16 LE each
//!         n x { key 32 | signature 64 | message }
//! ```
//!
//! The length, 60 of a voucher or 36 of an aggregated one, is the caller's: neither can be taken for the other.

use pinocchio::{
    account::Ref,
    sysvars::instructions::{Instructions, INSTRUCTIONS_ID},
    AccountView, Address,
};

use crate::error::{Error, Result};

/// `Ed25519SigVerify111111111111111111111111111`
const PROGRAM_ID: Address = Address::new_from_array([
    3, 125, 70, 214, 124, 147, 251, 190, 18, 249, 66, 143, 131, 141, 64, 255, 5, 112, 116, 73, 39,
    244, 138, 100, 252, 202, 112, 68, 128, 0, 0, 0,
]);

const HEADER_LENGTH: usize = 2;
const TABLE_ROW_LENGTH: usize = 14;
const KEY_LENGTH: usize = 32;
const SIGNATURE_LENGTH: usize = 64;
const THIS_INSTRUCTION: u16 = u16::MAX;

/// The data of a precompile instruction that has exactly the accepted form, with messages of `MESSAGE_LENGTH` bytes.
#[derive(Debug)]
pub struct Attested<'a, const MESSAGE_LENGTH: usize> {
    data: &'a [u8],
    count: usize,
}

impl<'a, const MESSAGE_LENGTH: usize> Attested<'a, MESSAGE_LENGTH> {
    const BLOCK_LENGTH: usize = KEY_LENGTH + SIGNATURE_LENGTH + MESSAGE_LENGTH;

    /// Check the whole form of `data` for `count` signatures.
    pub fn parse(data: &'a [u8], count: usize) -> Result<Self> {
        if data.len() != HEADER_LENGTH + count * (TABLE_ROW_LENGTH + Self::BLOCK_LENGTH)
            || data[0] as usize != count
            || data[1] != 0
        {
            return Err(Error::InvalidSignature);
        }
        let blocks = HEADER_LENGTH + count * TABLE_ROW_LENGTH;
        for (index, row) in data[HEADER_LENGTH..blocks]
            .chunks_exact(TABLE_ROW_LENGTH)
            .enumerate()
        {
            let key = blocks + index * Self::BLOCK_LENGTH;
            let signature = key + KEY_LENGTH;
            let message = signature + SIGNATURE_LENGTH;
            let is_exact = field(row, 0) == signature as u16
                && field(row, 1) == THIS_INSTRUCTION
                && field(row, 2) == key as u16
                && field(row, 3) == THIS_INSTRUCTION
                && field(row, 4) == message as u16
                && field(row, 5) == MESSAGE_LENGTH as u16
                && field(row, 6) == THIS_INSTRUCTION;
            if !is_exact {
                return Err(Error::InvalidSignature);
            }
        }
        Ok(Self { data, count })
    }

    /// Signer and message of signature `index`.
    pub fn get(&self, index: usize) -> Result<(&'a Address, &'a [u8; MESSAGE_LENGTH])> {
        let start = HEADER_LENGTH + self.count * TABLE_ROW_LENGTH + index * Self::BLOCK_LENGTH;
        let block = self
            .data
            .get(start..start + Self::BLOCK_LENGTH)
            .ok_or(Error::InvalidSignature)?;
        // SAFETY: both are byte arrays of alignment 1 that lie inside `block`.
        unsafe {
            let key = &*(block.as_ptr() as *const Address);
            let message = &*(block.as_ptr().add(KEY_LENGTH + SIGNATURE_LENGTH)
                as *const [u8; MESSAGE_LENGTH]);
            Ok((key, message))
        }
    }
}

fn field(row: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([row[2 * index], row[2 * index + 1]])
}

/// The instructions sysvar, by its address.
pub fn instructions_sysvar(view: &AccountView) -> Result<Instructions<Ref<'_, [u8]>>> {
    if view.address() != &INSTRUCTIONS_ID {
        return Err(Error::WrongAddress);
    }
    Ok(Instructions::try_from(view)?)
}

/// What the instruction right before the current one attests, if it is the precompile's and has `count` signatures.
pub fn attested<'a, const MESSAGE_LENGTH: usize>(
    instructions: &'a Instructions<Ref<'_, [u8]>>,
    count: usize,
) -> Result<Attested<'a, MESSAGE_LENGTH>> {
    let current = instructions.load_current_index() as usize;
    if current == 0 {
        return Err(Error::InvalidSignature);
    }
    let previous = instructions.load_instruction_at(current - 1)?;
    if previous.get_program_id() != &PROGRAM_ID {
        return Err(Error::InvalidSignature);
    }
    let data = previous.get_instruction_data();
    // SAFETY: the data lies in the sysvar account, which stays borrowed for 'a; the accessor merely ties it to the
    // short-lived handle.
    let data: &'a [u8] = unsafe { core::slice::from_raw_parts(data.as_ptr(), data.len()) };
    Attested::parse(data, count)
}
