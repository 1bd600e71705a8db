//! distribute: pay a vendor what is owed on many of its channels, in one transfer. Anyone may; the money was taken from
//! the bonds before.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | global_bond | | | |
//! | 1 | vault | | yes | |
//! | 2 | vendor_account | | | |
//! | 3 | vendor_token_account | | yes | the vendor's payout account |
//! | 4 | token_program | | | |
//! | 5 | event_authority | | | |
//! | 6 | program | | | |
//! | then n times | channel | | yes | the vendor's, in any order |
//!
//! No arguments. A channel that nothing is owed on is skipped, also one that is given twice.

use pinocchio::{AccountView, Address};

use super::{require_address, require_program, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    state::{self, Channel, GlobalBond, VendorAccount},
    token::{self, Vault},
};

pub const DISCRIMINATOR: [u8; 8] = [0xbf, 0x2c, 0xdf, 0xcf, 0xa4, 0xec, 0x7e, 0x3d];

const NAMED_ACCOUNTS: usize = 7;
/// A transaction locks at most 64 accounts, of which the instruction itself needs seven; the runtime never gives more.
const CHANNELS_MAX: usize = 57;
/// Where the channel count stands in the event, behind mint, vendor and payout account.
const COUNT_OFFSET: usize = 16 + 3 * 32;
/// Channel, amount.
const ITEM_LENGTH: usize = 32 + 8;
type DistributedEvent = Event<{ COUNT_OFFSET + 4 + CHANNELS_MAX * ITEM_LENGTH + 8 }>;

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let (named, channels) = accounts
        .split_at_mut_checked(NAMED_ACCOUNTS)
        .ok_or(Error::WrongAccountCount)?;
    let [global_bond, vault, vendor_account, payout, token_program, event_authority, program] =
        named
    else {
        return Err(Error::WrongAccountCount);
    };
    Args::new(call.data).finish()?;
    if !(1..=CHANNELS_MAX).contains(&channels.len()) {
        return Err(Error::WrongAccountCount);
    }

    require_program(token_program, &token::PROGRAM_ID)?;
    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    require_address(vault, &bond.vault)?;
    let vendor = state::load::<VendorAccount>(vendor_account, program_id)?;
    if vendor.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    require_address(payout, &vendor.payout)?;
    if !token::is_live(payout, &bond.mint) {
        return Err(Error::InvalidPayoutAccount);
    }

    let mut event = DistributedEvent::new(discriminator::DISTRIBUTED);
    event
        .address(&bond.mint)
        .address(&vendor.authority)
        .address(payout.address())
        .u32(0);
    let collection = Collection {
        program_id,
        bond: &bond,
        vendor: &vendor,
    };
    let total = collection.collect(channels, &mut event)?;
    if total == 0 {
        return Ok(());
    }

    Vault {
        account: vault,
        global_bond,
        mint: &bond.mint,
        bump: bond.header.bump,
    }
    .pay(payout, total)?;

    event.u64(total);
    EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?
    .emit(event.as_bytes())
}

struct Collection<'a> {
    program_id: &'a Address,
    bond: &'a GlobalBond,
    vendor: &'a VendorAccount,
}

impl Collection<'_> {
    /// Take what is owed on each channel and append it to the event. Returns the sum.
    #[inline(never)]
    fn collect(&self, channels: &mut [AccountView], event: &mut DistributedEvent) -> Result<u64> {
        let mut total: u64 = 0;
        let mut paid: u32 = 0;
        for channel_view in channels {
            let address = channel_view.address().clone();
            let mut channel = state::load_mut::<Channel>(channel_view, self.program_id)?;
            if channel.mint != self.bond.mint {
                return Err(Error::WrongMint);
            }
            if channel.vendor != self.vendor.authority {
                return Err(Error::WrongVendor);
            }
            let owed = channel.owed.get();
            if owed == 0 {
                continue;
            }
            channel.owed.set(0);
            total = total.checked_add(owed).ok_or(Error::Overflow)?;
            paid += 1;
            event.address(&address).u64(owed);
        }
        event.patch_u32(COUNT_OFFSET, paid);
        Ok(total)
    }
}
