//! Events, as Anchor's `emit_cpi!` writes them: the program calls itself with the event as instruction data.
//!
//! Inner instructions are part of the transaction's record, unlike logs, which validators truncate and any program can
//! imitate. The event authority, an address only this program can sign for, proves the caller. Every instruction takes
//! `event_authority` and `program` as the last two of its named accounts.

use core::mem::MaybeUninit;

use pinocchio::{
    cpi::{invoke_signed, Seed, Signer},
    instruction::{InstructionAccount, InstructionView},
    AccountView, Address,
};

use crate::{
    error::{Error, Result},
    hash,
    instructions::Call,
    pda,
};

/// Anchor's tag for event instructions: sha256("anchor:event")[..8], reversed.
pub const INSTRUCTION_TAG: [u8; 8] = [0xe4, 0x45, 0xa5, 0x2e, 0x51, 0xcb, 0x9a, 0x1d];

/// sha256("event:<Name>")[..8]
pub mod discriminator {
    pub const CONFIG_CHANGED: [u8; 8] = [0x93, 0x19, 0x56, 0x62, 0x62, 0x4d, 0x4e, 0xc0];
    pub const DEPOSITED: [u8; 8] = [0x6f, 0x8d, 0x1a, 0x2d, 0xa1, 0x23, 0x64, 0x39];
    pub const VENDOR_REGISTERED: [u8; 8] = [0xe1, 0x3a, 0x73, 0xa4, 0xeb, 0xe9, 0x9b, 0xa1];
    pub const GATEWAY_REGISTERED: [u8; 8] = [0xab, 0x79, 0xaa, 0x3d, 0xc3, 0x9b, 0x23, 0x62];
    pub const CHANNEL_OPENED: [u8; 8] = [0xfd, 0xd5, 0xff, 0x60, 0x1f, 0xbc, 0x2f, 0xaa];
    pub const SETTLED: [u8; 8] = [0xe8, 0xd2, 0x28, 0x11, 0x8e, 0x7c, 0x91, 0xee];
    pub const SHORTFALL: [u8; 8] = [0x66, 0x53, 0x73, 0xc3, 0x05, 0x93, 0xfb, 0x5d];
    pub const WITHDRAWAL_REQUESTED: [u8; 8] = [0x4b, 0xcf, 0x15, 0x0c, 0xa0, 0x66, 0x96, 0x37];
    pub const WITHDRAWAL_CANCELLED: [u8; 8] = [0x77, 0xaf, 0xcf, 0x50, 0xba, 0xed, 0xe5, 0x09];
    pub const WITHDRAWN: [u8; 8] = [0x14, 0x59, 0xdf, 0xc6, 0xc2, 0x7c, 0xdb, 0x0d];
    pub const VENDOR_UPDATED: [u8; 8] = [0xdd, 0xc6, 0x84, 0xeb, 0x41, 0xad, 0xaf, 0x22];
    pub const GATEWAY_REVOKED: [u8; 8] = [0x14, 0xf6, 0x4e, 0x63, 0xf7, 0xd9, 0x8a, 0xf9];
    pub const BATCH_SETTLED: [u8; 8] = [0xee, 0x0e, 0xbb, 0xc0, 0x7f, 0x5f, 0x68, 0x09];
    pub const CLAIM_REQUESTED: [u8; 8] = [0xcc, 0x8d, 0x2f, 0x27, 0x33, 0x41, 0xa9, 0x20];
    pub const CLAIM_EXECUTED: [u8; 8] = [0xd4, 0x88, 0xc5, 0x2e, 0xdd, 0x13, 0xdb, 0x05];
    pub const AGGREGATED: [u8; 8] = [0x10, 0x07, 0x53, 0xf6, 0x90, 0xc3, 0x28, 0x85];
    pub const DISTRIBUTED: [u8; 8] = [0x0a, 0xd4, 0x18, 0x4e, 0x23, 0xca, 0xb6, 0x86];
    pub const AGENT_SLASHED: [u8; 8] = [0x78, 0x97, 0x27, 0x4d, 0xe3, 0x0d, 0xe5, 0xb9];
    pub const FORFEITED_SWEPT: [u8; 8] = [0x53, 0x38, 0x97, 0xed, 0x01, 0x71, 0x06, 0x79];
}

/// The two accounts at the end of every instruction, and the bump to sign with.
pub struct EventSink<'a> {
    authority: &'a AccountView,
    program: &'a AccountView,
    bump: u8,
}

impl<'a> EventSink<'a> {
    /// With the bump that GlobalBond keeps. A wrong `authority` cannot be signed for, so its address needs no check.
    pub fn new(
        authority: &'a AccountView,
        program: &'a AccountView,
        program_id: &Address,
        bump: u8,
    ) -> Result<Self> {
        if program.address() != program_id {
            return Err(Error::WrongProgram);
        }
        Ok(Self {
            authority,
            program,
            bump,
        })
    }

    /// For instructions without GlobalBond among their accounts: derives the bump.
    pub fn derive(
        authority: &'a AccountView,
        program: &'a AccountView,
        program_id: &Address,
    ) -> Result<Self> {
        let bump = pda::expect(authority, &[pda::EVENT_AUTHORITY_SEED], program_id)?;
        Self::new(authority, program, program_id, bump)
    }

    /// Record one finished event.
    #[inline(never)]
    pub fn emit(&self, event: &[u8]) -> Result {
        let bump = [self.bump];
        let seeds = [Seed::from(pda::EVENT_AUTHORITY_SEED), Seed::from(&bump)];
        let accounts = [InstructionAccount::readonly_signer(
            self.authority.address(),
        )];
        let instruction = InstructionView {
            program_id: self.program.address(),
            accounts: &accounts,
            data: event,
        };
        invoke_signed(&instruction, &[self.authority], &[Signer::from(&seeds)])?;
        Ok(())
    }
}

/// An event being written in borsh, at most `N` bytes with tag and discriminator.
pub struct Event<const N: usize> {
    data: MaybeUninit<[u8; N]>,
    length: usize,
}

impl<const N: usize> Event<N> {
    #[inline(always)]
    pub fn new(discriminator: [u8; 8]) -> Self {
        let mut event = Self {
            data: MaybeUninit::uninit(),
            length: 0,
        };
        event.put(&INSTRUCTION_TAG);
        event.put(&discriminator);
        event
    }

    #[inline(always)]
    fn put<const M: usize>(&mut self, bytes: &[u8; M]) {
        assert!(self.length + M <= N);
        // SAFETY: the bounds were checked and both are plain bytes.
        unsafe {
            let target = (self.data.as_mut_ptr() as *mut u8).add(self.length);
            *(target as *mut [u8; M]) = *bytes;
        }
        self.length += M;
    }

    #[inline(always)]
    pub fn address(&mut self, value: &Address) -> &mut Self {
        self.put(value.as_array());
        self
    }

    #[inline(always)]
    pub fn hash(&mut self, value: &[u8; 32]) -> &mut Self {
        self.put(value);
        self
    }

    #[inline(always)]
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes());
        self
    }

    #[inline(always)]
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.put(&value.to_le_bytes());
        self
    }

    #[inline(always)]
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes());
        self
    }

    #[inline(always)]
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes());
        self
    }

    #[inline(always)]
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.put(&[value as u8]);
        self
    }

    /// A borsh string or byte vector: u32 length, then the bytes.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(value.len() as u32);
        assert!(self.length + value.len() <= N);
        // SAFETY: the bounds were checked and both are plain bytes.
        unsafe {
            let target = (self.data.as_mut_ptr() as *mut u8).add(self.length);
            core::ptr::copy_nonoverlapping(value.as_ptr(), target, value.len());
        }
        self.length += value.len();
        self
    }

    /// Overwrite a u32 written earlier, at `offset` from the event's first byte.
    pub fn patch_u32(&mut self, offset: usize, value: u32) {
        assert!(offset + 4 <= self.length);
        // SAFETY: the bounds were checked.
        unsafe {
            let target = (self.data.as_mut_ptr() as *mut u8).add(offset);
            *(target as *mut [u8; 4]) = value.to_le_bytes();
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: the first `length` bytes were written.
        unsafe { core::slice::from_raw_parts(self.data.as_ptr() as *const u8, self.length) }
    }
}

/// The receiving end of `emit`: does nothing, but only for the event authority, so that nobody else can record events.
///
/// Searching the bump by hash alone is enough here. The account signed, so its address is either one this program can
/// sign for or a public key; no key pair can be found for the hash of these seeds.
#[inline(never)]
pub fn receive(call: &Call, accounts: &[AccountView]) -> Result {
    let [authority] = accounts else {
        return Err(Error::WrongAccountCount);
    };
    if !authority.is_signer() {
        return Err(Error::MissingSignature);
    }
    for bump in (0..=u8::MAX).rev() {
        if derived(bump, call.program_id) == *authority.address() {
            return Ok(());
        }
    }
    Err(Error::WrongAddress)
}

/// sha256(seed || bump || program || "ProgramDerivedAddress"), as the runtime derives addresses.
fn derived(bump: u8, program_id: &Address) -> Address {
    let bump = [bump];
    Address::new_from_array(hash::sha256(&[
        pda::EVENT_AUTHORITY_SEED,
        &bump,
        program_id.as_array(),
        b"ProgramDerivedAddress",
    ]))
}
