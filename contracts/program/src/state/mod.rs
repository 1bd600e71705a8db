//! The program's accounts, one file per kind.
//!
//! Every account begins with the same ten bytes: Anchor's discriminator (8), the layout version (1) and the canonical
//! bump of its address (1). Fields have alignment 1 and fixed offsets, asserted at compile time; u64 fields sit on
//! multiples of eight. Reserved bytes are zero and belong to later versions.

mod agent_account;
mod batch;
mod channel;
mod gateway_account;
mod global_bond;
mod vendor_account;

use core::mem::size_of;

use pinocchio::{
    account::{Ref, RefMut},
    AccountView, Address,
};

pub use agent_account::AgentAccount;
pub use batch::Batch;
pub use channel::Channel;
pub use gateway_account::GatewayAccount;
pub use global_bond::GlobalBond;
pub use vendor_account::{VendorAccount, METADATA_URI_LENGTH_MAX};

use crate::error::{Error, Result};

/// The layout version this program writes and reads.
pub const VERSION: u8 = 1;

/// The first ten bytes of every account.
#[repr(C)]
pub struct Header {
    pub discriminator: [u8; 8],
    pub version: u8,
    pub bump: u8,
}

/// A u64 in little-endian bytes at any offset.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct U64([u8; 8]);

impl U64 {
    #[inline(always)]
    pub fn get(self) -> u64 {
        u64::from_le_bytes(self.0)
    }

    #[inline(always)]
    pub fn set(&mut self, value: u64) {
        self.0 = value.to_le_bytes();
    }

    /// Add, refusing to pass 2^64 - 1.
    #[inline(always)]
    pub fn add(&mut self, amount: u64) -> Result {
        self.set(self.get().checked_add(amount).ok_or(Error::Overflow)?);
        Ok(())
    }

    /// Subtract, refusing to fall below zero.
    #[inline(always)]
    pub fn sub(&mut self, amount: u64) -> Result {
        self.set(self.get().checked_sub(amount).ok_or(Error::Overflow)?);
        Ok(())
    }
}

/// An i64 (unix seconds) in little-endian bytes at any offset.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct I64([u8; 8]);

impl I64 {
    #[inline(always)]
    pub fn get(self) -> i64 {
        i64::from_le_bytes(self.0)
    }

    #[inline(always)]
    pub fn set(&mut self, value: i64) {
        self.0 = value.to_le_bytes();
    }
}

/// A u16 in little-endian bytes at any offset.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct U16([u8; 2]);

impl U16 {
    #[inline(always)]
    pub fn get(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    #[inline(always)]
    pub fn set(&mut self, value: u16) {
        self.0 = value.to_le_bytes();
    }
}

/// A kind of account.
///
/// # Safety
/// The type is `repr(C)`, begins with `Header`, and every field has alignment 1 and is valid for any bytes.
pub unsafe trait Layout: Sized {
    /// sha256("account:<Name>")[..8]
    const DISCRIMINATOR: [u8; 8];
}

/// The account as `T`, after checking owner, length, discriminator and version. Only this program writes accounts it
/// owns, so such an account was created at its canonical address and need not be derived again.
#[inline(always)]
pub fn load<'a, T: Layout>(view: &'a AccountView, program_id: &Address) -> Result<Ref<'a, T>> {
    check::<T>(view, program_id)?;
    // SAFETY: the length was checked and `Layout` promises that any bytes are valid.
    Ok(Ref::map(view.try_borrow()?, |data| unsafe {
        &*(data.as_ptr() as *const T)
    }))
}

/// Like `load`, for writing.
#[inline(always)]
pub fn load_mut<'a, T: Layout>(
    view: &'a mut AccountView,
    program_id: &Address,
) -> Result<RefMut<'a, T>> {
    check::<T>(view, program_id)?;
    // SAFETY: as in `load`.
    Ok(RefMut::map(view.try_borrow_mut()?, |data| unsafe {
        &mut *(data.as_mut_ptr() as *mut T)
    }))
}

/// A freshly created, all-zero account as `T` with its header written.
#[inline(always)]
pub fn initialize<T: Layout>(view: &mut AccountView, bump: u8) -> Result<RefMut<'_, T>> {
    if view.data_len() != size_of::<T>() {
        return Err(Error::WrongAccountKind);
    }
    // SAFETY: the length was checked; `Layout` promises that `T` begins with `Header`.
    let account = RefMut::map(view.try_borrow_mut()?, |data| unsafe {
        let header = &mut *(data.as_mut_ptr() as *mut Header);
        header.discriminator = T::DISCRIMINATOR;
        header.version = VERSION;
        header.bump = bump;
        &mut *(data.as_mut_ptr() as *mut T)
    });
    Ok(account)
}

#[inline(always)]
fn check<T: Layout>(view: &AccountView, program_id: &Address) -> Result {
    if !view.owned_by(program_id) {
        return Err(Error::WrongAccountOwner);
    }
    if view.data_len() != size_of::<T>() {
        return Err(Error::WrongAccountKind);
    }
    // SAFETY: the account is at least as long as `Header`, which has alignment 1, and the reference ends here.
    let header = unsafe { &*(view.data_ptr() as *const Header) };
    let is_kind = u64::from_le_bytes(header.discriminator) == u64::from_le_bytes(T::DISCRIMINATOR);
    if is_kind && header.version == VERSION {
        Ok(())
    } else {
        Err(Error::WrongAccountKind)
    }
}
