//! VendorAccount `["vendor", authority]`: where a vendor is paid and how it describes itself.

use core::mem::{offset_of, size_of};

use pinocchio::Address;

use super::{Header, Layout, U16, U64};

pub const METADATA_URI_LENGTH_MAX: usize = 128;

/// 312 bytes.
#[repr(C)]
pub struct VendorAccount {
    /// 0: discriminator, version, bump
    pub header: Header,
    /// 10: bytes of `metadata_uri` in use
    pub metadata_uri_length: U16,
    /// 12
    pub padding: [u8; 4],
    /// 16: the vendor's key; its identity everywhere
    pub authority: Address,
    /// 48
    pub mint: Address,
    /// 80: the token account of `mint` that settlements pay
    pub payout: Address,
    /// 112: price of one request where no route says otherwise, atomic units
    pub price: U64,
    /// 120: UTF-8
    pub metadata_uri: [u8; METADATA_URI_LENGTH_MAX],
    /// 248
    pub reserved: [u8; 64],
}

const _: () = {
    assert!(offset_of!(VendorAccount, authority) == 16);
    assert!(offset_of!(VendorAccount, payout) == 80);
    assert!(offset_of!(VendorAccount, price) == 112);
    assert!(offset_of!(VendorAccount, metadata_uri) == 120);
    assert!(size_of::<VendorAccount>() == 312);
};

// SAFETY: repr(C), header first, alignment 1, every field valid for any bytes.
unsafe impl Layout for VendorAccount {
    const DISCRIMINATOR: [u8; 8] = [0xc3, 0xc7, 0x9d, 0x88, 0x20, 0xfd, 0xc2, 0x07];
}
