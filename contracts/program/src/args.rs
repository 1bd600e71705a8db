//! Reading instruction arguments: borsh's encoding, and nothing may be left over.

use pinocchio::Address;

use crate::error::{Error, Result};

/// A cursor over an instruction's arguments.
pub struct Args<'a>(&'a [u8]);

impl<'a> Args<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next `N` bytes as they are.
    pub fn chunk<const N: usize>(&mut self) -> Result<&'a [u8; N]> {
        let (chunk, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(Error::InvalidInstructionData)?;
        self.0 = rest;
        Ok(chunk)
    }

    pub fn address(&mut self) -> Result<Address> {
        Ok(Address::new_from_array(*self.chunk::<32>()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(*self.chunk()?))
    }

    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(*self.chunk()?))
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(*self.chunk()?))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.chunk::<1>()?[0])
    }

    /// A borsh bool: any byte but 0 and 1 is malformed.
    pub fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::InvalidInstructionData),
        }
    }

    /// A borsh option: 0, or 1 and the value.
    pub fn option<T>(&mut self, read: fn(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.bool()? {
            read(self).map(Some)
        } else {
            Ok(None)
        }
    }

    /// A borsh string's bytes: u32 length, then the bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = u32::from_le_bytes(*self.chunk()?) as usize;
        if length > self.0.len() {
            return Err(Error::InvalidInstructionData);
        }
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(bytes)
    }

    /// What has not been read yet.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Refuse trailing bytes: two encodings of one instruction would be one too many.
    pub fn finish(self) -> Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::InvalidInstructionData)
        }
    }
}
