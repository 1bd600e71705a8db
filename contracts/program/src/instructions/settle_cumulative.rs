//! settle_cumulative: pay one vendor what agents authorised on up to eight channels. The fast way out of a bond: the
//! relayer signs, because it alone knows that no bond is promised twice.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | relayer | yes | yes | pays the rent of new channels |
//! | 1 | global_bond | | | |
//! | 2 | vault | | yes | |
//! | 3 | vendor_account | | | |
//! | 4 | vendor_token_account | | yes | the vendor's payout account |
//! | 5 | token_program | | | |
//! | 6 | instructions | | | the instructions sysvar |
//! | 7 | event_authority | | | |
//! | 8 | program | | | |
//! | then n times | channel, agent_account | | yes, yes | channels strictly ascending by address |
//! | then, if `created` is not 0 | system_program | | | |
//! | | gateway_account | | | one per bit of `created`, lowest bit first |
//!
//! Arguments, without length prefix because a transaction has no byte to spare: created u8 (bit i: channel i may have
//! to be created), then n times up_to u64. With one lookup table five existing channels fit in 1,230 of 1,232 bytes.
//!
//! The instruction right before is the Ed25519 precompile's with n vouchers in the order of the channels. Each channel
//! pays `min(min(cumulative, up_to) - settled, what the agent has)`; where nothing is due it is skipped, so the same
//! voucher twice pays once. An agent may stand beside several channels: each is settled on what the one before left.

use pinocchio::{AccountView, Address};

use super::{read_u64, require_address, require_program, require_signer, Call};
use crate::{
    ed25519,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    opening::Opening,
    payment, pda,
    state::{self, AgentAccount, Channel, GlobalBond, VendorAccount},
    token::{self, Vault},
    voucher::{self, Voucher},
};

pub const DISCRIMINATOR: [u8; 8] = [0x52, 0x72, 0xde, 0x03, 0xdd, 0x86, 0xd7, 0x85];

/// One bit of `created` each; a transaction of 1,232 bytes holds five.
pub const CHANNELS_MAX: usize = 8;

const NAMED_ACCOUNTS: usize = 9;
/// Tag, discriminator, mint, vendor, payout, channel count, total, owed.
const SETTLED_HEAD_LENGTH: usize = 16 + 3 * 32 + 4 + 8 + 1;
/// Channel, agent, gateway, amount, settled.
const SETTLED_ITEM_LENGTH: usize = 3 * 32 + 8 + 8;
/// Where the channel count stands in the event.
const SETTLED_COUNT_OFFSET: usize = 16 + 3 * 32;
type SettledEvent = Event<{ SETTLED_HEAD_LENGTH + CHANNELS_MAX * SETTLED_ITEM_LENGTH }>;

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let (named, others) = accounts
        .split_at_mut_checked(NAMED_ACCOUNTS)
        .ok_or(Error::WrongAccountCount)?;
    let [relayer, global_bond, vault, vendor_account, payout, token_program, instructions, event_authority, program] =
        named
    else {
        return Err(Error::WrongAccountCount);
    };
    let (created, limits) = parse(call.data)?;
    let count = limits.len() / 8;
    let (pairs, tail) = others
        .split_at_mut_checked(2 * count)
        .ok_or(Error::WrongAccountCount)?;
    let mut gateways = gateways_for(created, tail)?.iter();

    let bond = state::load::<GlobalBond>(global_bond, program_id)?;
    require_signer(relayer)?;
    if *relayer.address() != bond.relayer {
        return Err(Error::NotRelayer);
    }
    require_address(vault, &bond.vault)?;
    require_program(token_program, &token::PROGRAM_ID)?;
    let vendor = state::load::<VendorAccount>(vendor_account, program_id)?;
    if vendor.mint != bond.mint {
        return Err(Error::WrongMint);
    }
    require_address(payout, &vendor.payout)?;
    let sink = EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?;
    let sysvar = ed25519::instructions_sysvar(instructions)?;
    let vouchers = ed25519::attested::<{ voucher::LENGTH }>(&sysvar, count)?;
    let opening = Opening {
        program_id,
        bond: &bond,
        payer: relayer,
        sink: &sink,
    };
    let settlement = Settlement {
        program_id,
        bond: &bond,
        vendor: &vendor.authority,
        sink: &sink,
        to_owed: !token::is_live(payout, &bond.mint),
    };

    let mut settled = SettledEvent::new(discriminator::SETTLED);
    settled
        .address(&bond.mint)
        .address(&vendor.authority)
        .address(payout.address())
        .u32(0);
    let mut total: u64 = 0;
    let mut paid_channels: u32 = 0;
    let mut previous: Option<&Address> = None;
    for (index, (pair, limit)) in pairs
        .chunks_exact_mut(2)
        .zip(limits.chunks_exact(8))
        .enumerate()
    {
        let [channel, agent_account] = pair else {
            return Err(Error::WrongAccountCount);
        };
        if created >> index & 1 == 1 {
            let gateway = gateways.next().ok_or(Error::WrongAccountCount)?;
            if pda::is_vacant(channel) {
                opening.open(channel, agent_account, gateway)?;
            }
        } else if pda::is_vacant(channel) {
            return Err(Error::ChannelMissing);
        }

        let (signer, message) = vouchers.get(index)?;
        let voucher = Voucher::parse(message)?;
        if voucher.channel() != channel.address() {
            return Err(Error::InvalidSignature);
        }
        if previous.is_some_and(|before| before.as_array() >= voucher.channel().as_array()) {
            return Err(Error::ChannelsNotSorted);
        }
        previous = Some(voucher.channel());

        let order = Order {
            signer,
            channel: voucher.channel(),
            until: voucher.cumulative().min(read_u64(limit)),
        };
        let amount = settlement.settle(channel, agent_account, &order, &mut settled)?;
        if amount > 0 {
            total = total.checked_add(amount).ok_or(Error::Overflow)?;
            paid_channels += 1;
        }
    }
    if total == 0 {
        return Ok(());
    }

    if !settlement.to_owed {
        let vault = Vault {
            account: vault,
            global_bond,
            mint: &bond.mint,
            bump: bond.header.bump,
        };
        vault.pay(payout, total)?;
    }

    settled.patch_u32(SETTLED_COUNT_OFFSET, paid_channels);
    settled.u64(total).bool(settlement.to_owed);
    sink.emit(settled.as_bytes())
}

/// Split the arguments into `created` and the limits, eight bytes each.
fn parse(data: &[u8]) -> Result<(u8, &[u8])> {
    let (created, limits) = data.split_first().ok_or(Error::InvalidInstructionData)?;
    let count = limits.len() / 8;
    let is_valid = limits.len() % 8 == 0
        && (1..=CHANNELS_MAX).contains(&count)
        && (*created as usize) >> count == 0;
    if is_valid {
        Ok((*created, limits))
    } else {
        Err(Error::InvalidInstructionData)
    }
}

/// The gateway accounts behind the channels: none without a bit in `created`, else the system program and one per bit.
fn gateways_for(created: u8, tail: &[AccountView]) -> Result<&[AccountView]> {
    match tail {
        [] if created == 0 => Ok(tail),
        [system_program, gateways @ ..]
            if created != 0 && gateways.len() == created.count_ones() as usize =>
        {
            require_program(system_program, &pinocchio_system::ID)?;
            Ok(gateways)
        }
        _ => Err(Error::WrongAccountCount),
    }
}

/// What is the same for every channel of the transaction.
struct Settlement<'a> {
    program_id: &'a Address,
    bond: &'a GlobalBond,
    vendor: &'a Address,
    sink: &'a EventSink<'a>,
    to_owed: bool,
}

/// One channel's voucher, its signature checked: pay until `until` is settled.
struct Order<'a> {
    signer: &'a Address,
    channel: &'a Address,
    until: u64,
}

impl Settlement<'_> {
    /// Move what is due on one channel out of the agent's bond and append it to the event. Returns the amount moved.
    #[inline(always)]
    fn settle(
        &self,
        channel_view: &mut AccountView,
        agent_view: &mut AccountView,
        order: &Order,
        event: &mut SettledEvent,
    ) -> Result<u64> {
        let mut channel = state::load_mut::<Channel>(channel_view, self.program_id)?;
        let mut agent = state::load_mut::<AgentAccount>(agent_view, self.program_id)?;
        if channel.vendor != *self.vendor {
            return Err(Error::WrongVendor);
        }
        if channel.mint != self.bond.mint || agent.mint != self.bond.mint {
            return Err(Error::WrongMint);
        }
        if channel.agent != agent.agent {
            return Err(Error::WrongAgent);
        }
        if agent.agent != *order.signer {
            return Err(Error::InvalidSignature);
        }

        let due = order.until.saturating_sub(channel.settled.get());
        if due == 0 {
            return Ok(0);
        }
        let amount = due.min(agent.available());
        if amount > 0 {
            payment::take(&mut agent, amount)?;
            payment::raise_watermark(&mut channel, &mut agent, amount)?;
            if self.to_owed {
                channel.owed.add(amount)?;
            }
            event
                .address(order.channel)
                .address(&channel.agent)
                .address(&channel.gateway)
                .u64(amount)
                .u64(channel.settled.get());
        }
        if amount < due {
            payment::record_shortfall(self.sink, order.channel, &channel, due - amount)?;
        }
        Ok(amount)
    }
}
