//! From the runtime's input to one instruction handler. Dispatch is by Anchor's 8-byte instruction discriminators.

use pinocchio::{
    no_allocator, nostd_panic_handler, program_entrypoint, AccountView, Address, ProgramResult,
};

use crate::{
    error::{Error, Result},
    event,
    instructions::{
        accept_admin, cancel_withdrawal, claim_cumulative, commit_batch, deposit_bond, distribute,
        execute_claim, initialize_bond, register_gateway, register_vendor, request_withdrawal,
        revoke_gateway, set_config, settle_aggregated, settle_cumulative, slash_equivocation,
        sweep_forfeited, update_vendor, withdraw_bond, Call,
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
        request_withdrawal::DISCRIMINATOR => request_withdrawal::process(call, accounts),
        cancel_withdrawal::DISCRIMINATOR => cancel_withdrawal::process(call, accounts),
        withdraw_bond::DISCRIMINATOR => withdraw_bond::process(call, accounts),
        update_vendor::DISCRIMINATOR => update_vendor::process(call, accounts),
        revoke_gateway::DISCRIMINATOR => revoke_gateway::process(call, accounts),
        commit_batch::DISCRIMINATOR => commit_batch::process(call, accounts),
        set_config::DISCRIMINATOR => set_config::process(call, accounts),
        accept_admin::DISCRIMINATOR => accept_admin::process(call, accounts),
        claim_cumulative::DISCRIMINATOR => claim_cumulative::process(call, accounts),
        execute_claim::DISCRIMINATOR => execute_claim::process(call, accounts),
        settle_aggregated::DISCRIMINATOR => settle_aggregated::process(call, accounts),
        distribute::DISCRIMINATOR => distribute::process(call, accounts),
        slash_equivocation::DISCRIMINATOR => slash_equivocation::process(call, accounts),
        sweep_forfeited::DISCRIMINATOR => sweep_forfeited::process(call, accounts),
        initialize_bond::DISCRIMINATOR => initialize_bond::process(call, accounts),
        _ => Err(Error::UnknownInstruction),
    }
}
