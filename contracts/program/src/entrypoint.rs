//! From the runtime's input to one instruction handler. Dispatch is by Anchor's 8-byte instruction discriminators.

use pinocchio::{
    no_allocator, nostd_panic_handler, program_entrypoint, AccountView, Address, ProgramResult,
};

use crate::{
    error::{Error, Result},
    event,
    instructions::{
        deposit_bond, initialize_bond, register_gateway, register_vendor, settle_cumulative, Call,
    },
};

/// More than any instruction takes; a transaction locks at most 64 accounts.
const MAX_ACCOUNTS: usize = 64;

program_entrypoint!(process_instruction, { MAX_ACCOUNTS });
no_allocator!();
nostd_panic_handler!();

/// Run one instruction; a refusal is logged with its own sentence, so that explorers show it.
#[inline(always)]
pub fn process_instruction(
    program_id: &Address,
    accounts: &mut [AccountView],
    data: &[u8],
) -> ProgramResult {
    dispatch(&Call { program_id, data }, accounts).map_err(|error| {
        error.log();
        error.into()
    })
}

#[inline(never)]
fn dispatch(call: &Call, accounts: &mut [AccountView]) -> Result {
    let (discriminator, args) = call
        .data
        .split_first_chunk::<8>()
        .ok_or(Error::UnknownInstruction)?;
    let call = &Call {
        program_id: call.program_id,
        data: args,
    };
    match *discriminator {
        settle_cumulative::DISCRIMINATOR => settle_cumulative::process(call, accounts),
        event::INSTRUCTION_TAG => event::receive(call, accounts),
        deposit_bond::DISCRIMINATOR => deposit_bond::process(call, accounts),
        register_vendor::DISCRIMINATOR => register_vendor::process(call, accounts),
        register_gateway::DISCRIMINATOR => register_gateway::process(call, accounts),
        initialize_bond::DISCRIMINATOR => initialize_bond::process(call, accounts),
        _ => Err(Error::UnknownInstruction),
    }
}
