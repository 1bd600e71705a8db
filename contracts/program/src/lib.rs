//! The MachPay program: one USDC bond per agent, spent at many vendors, settled in batches.
//!
//! An agent's bond lives in one vault shared by everybody; its AgentAccount says how much of the vault is its own. A
//! voucher (60 bytes the agent signed) raises what a channel, the pair of agent and gateway, has authorised in total;
//! `settle_cumulative` pays the difference to what was settled before. Money leaves a bond at two speeds: at once where
//! the relayer signs, and otherwise only after a delay in which everybody can see it coming (claims, withdrawals).
//!
//! Layout: `entrypoint` dispatches, `instructions` holds one file per instruction in the order accounts, guards,
//! checked arithmetic, state, transfer, event; `state` holds one file per account kind with its byte offsets;
//! `ed25519` and `voucher` decide which signatures count. docs/program.md is the reference for people.
#![cfg_attr(any(target_os = "solana", target_arch = "bpf"), no_std)]

pub mod aggregate;
pub mod args;
pub mod config;
pub mod ed25519;
pub mod entrypoint;
pub mod error;
pub mod event;
pub mod hash;
pub mod instructions;
pub mod opening;
pub mod payment;
pub mod pda;
pub mod state;
pub mod token;
pub mod voucher;
