//! GatewayAccount `["gateway", gateway]`: which vendor a gateway key serves. It is never assigned to another one.

use core::mem::{offset_of, size_of};

use pinocchio::Address;

use super::{Header, Layout, I64};

/// 128 bytes.
#[repr(C)]
pub struct GatewayAccount {
    /// 0: discriminator, version, bump
    pub header: Header,
    /// 10: 1 after revocation; one-way. What agents owe over this gateway is still paid.
    pub revoked: u8,
    /// 11
    pub padding: [u8; 5],
    /// 16
    pub gateway: Address,
    /// 48: the vendor's authority key
    pub vendor: Address,
    /// 80: unix seconds
    pub registered_at: I64,
    /// 88: unix seconds, 0 while not revoked
    pub revoked_at: I64,
    /// 96
    pub reserved: [u8; 32],
}

const _: () = {
    assert!(offset_of!(GatewayAccount, gateway) == 16);
    assert!(offset_of!(GatewayAccount, vendor) == 48);
    assert!(offset_of!(GatewayAccount, registered_at) == 80);
    assert!(size_of::<GatewayAccount>() == 128);
};

// SAFETY: repr(C), header first, alignment 1, every field valid for any bytes.
unsafe impl Layout for GatewayAccount {
    const DISCRIMINATOR: [u8; 8] = [0xd4, 0x7f, 0x5a, 0x22, 0x2c, 0x2a, 0x6a, 0xb5];
}
