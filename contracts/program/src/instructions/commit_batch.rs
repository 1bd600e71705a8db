//! commit_batch: anchor the Merkle root over every payment of one stretch of time. Batches form a hash chain, so that
//! none can be replaced or left out later.
//!
//! | # | account | signer | writable | |
//! |---|---|---|---|---|
//! | 0 | relayer | yes | yes | pays the rent |
//! | 1 | global_bond | | yes | |
//! | 2 | batch | | yes | `["batch", mint, sequence]`, the sequence being GlobalBond's `batch_sequence` |
//! | 3 | system_program | | | |
//! | 4 | event_authority | | | |
//! | 5 | program | | | |
//!
//! Arguments: root 32 bytes, leaf_count u64, total u64.
//!
//! `head = sha256(previous head || sequence u64 LE || leaf_count u64 LE || root)`, the first previous head being zero.
//! The batch's address follows from the sequence, so of two transactions for one batch only the first lands.

use core::mem::size_of;

use pinocchio::{
    cpi::Seed,
    sysvars::{clock::Clock, Sysvar},
    AccountView,
};

use super::{require_program, require_signer, Call};
use crate::{
    args::Args,
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    hash,
    pda::{self, NewAccount},
    state::{self, Batch, GlobalBond},
};

pub const DISCRIMINATOR: [u8; 8] = [0x1b, 0xea, 0x64, 0xe0, 0x86, 0x1f, 0xa8, 0x8e];

#[inline(never)]
pub fn process(call: &Call, accounts: &mut [AccountView]) -> Result {
    let program_id = call.program_id;
    let [relayer, global_bond, batch_account, system_program, event_authority, program] = accounts
    else {
        return Err(Error::WrongAccountCount);
    };
    let mut args = Args::new(call.data);
    let root = args.address()?.to_bytes();
    let leaf_count = args.u64()?;
    let total = args.u64()?;
    args.finish()?;

    require_signer(relayer)?;
    require_program(system_program, &pinocchio_system::ID)?;
    let mut bond = state::load_mut::<GlobalBond>(global_bond, program_id)?;
    if bond.relayer != *relayer.address() {
        return Err(Error::NotRelayer);
    }
    if leaf_count == 0 {
        return Err(Error::EmptyBatch);
    }
    let sequence = bond.batch_sequence.get();
    let sequence_seed = sequence.to_le_bytes();
    let seeds: [&[u8]; 3] = [pda::BATCH_SEED, bond.mint.as_array(), &sequence_seed];
    let bump = pda::expect(batch_account, &seeds, program_id)?;
    let head = hash::sha256(&[
        &bond.batch_head,
        &sequence_seed,
        &leaf_count.to_le_bytes(),
        &root,
    ]);

    let bump_seed = [bump];
    pda::create(
        batch_account,
        &NewAccount {
            payer: relayer,
            owner: program_id,
            space: size_of::<Batch>(),
        },
        &[
            Seed::from(seeds[0]),
            Seed::from(seeds[1]),
            Seed::from(seeds[2]),
            Seed::from(&bump_seed),
        ],
    )?;
    let now = Clock::get()?.unix_timestamp;
    let mut batch = state::initialize::<Batch>(batch_account, bump)?;
    batch.mint = bond.mint.clone();
    batch.sequence.set(sequence);
    batch.root = root;
    batch.leaf_count.set(leaf_count);
    batch.total.set(total);
    batch.head = head;
    batch.committed_at.set(now);
    bond.batch_sequence.add(1)?;
    bond.batch_head = head;

    let mut event = Event::<144>::new(discriminator::BATCH_SETTLED);
    event
        .address(&bond.mint)
        .u64(sequence)
        .hash(&root)
        .u64(leaf_count)
        .u64(total)
        .hash(&head)
        .i64(now);
    EventSink::new(
        event_authority,
        program,
        program_id,
        bond.event_authority_bump,
    )?
    .emit(event.as_bytes())
}
