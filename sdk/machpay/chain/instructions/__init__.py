"""Builders, one per instruction of the program: arguments in, `solders` instructions out.

Discriminators are Anchor's, arguments are borsh, and accounts stand in the order of the tables in
contracts/program/src/instructions/. Nothing here signs, sends or asks the chain anything. Amounts are atomic units.
One module per subject; this package is the public import path.
"""

from machpay.chain.instructions.aggregates import DISTRIBUTED_CHANNELS_MAX, distribute, settle_aggregated
from machpay.chain.instructions.base import discriminator
from machpay.chain.instructions.batches import ROOT_LENGTH, commit_batch
from machpay.chain.instructions.bonds import (
    UPGRADEABLE_LOADER_ID,
    BondConfig,
    deposit_bond,
    initialize_bond,
    program_data_address,
)
from machpay.chain.instructions.claims import claim_cumulative, execute_claim
from machpay.chain.instructions.config import ConfigChange, accept_admin, set_config
from machpay.chain.instructions.registry import (
    METADATA_URI_LENGTH_MAX,
    register_gateway,
    register_vendor,
    revoke_gateway,
    update_vendor,
)
from machpay.chain.instructions.settlement import (
    CHANNELS_PER_INSTRUCTION_MAX,
    ChannelSettlement,
    settle_cumulative,
)
from machpay.chain.instructions.slashing import SignedIntent, slash_equivocation, sweep_forfeited
from machpay.chain.instructions.withdrawals import cancel_withdrawal, request_withdrawal, withdraw_bond

__all__ = [
    "CHANNELS_PER_INSTRUCTION_MAX",
    "DISTRIBUTED_CHANNELS_MAX",
    "METADATA_URI_LENGTH_MAX",
    "ROOT_LENGTH",
    "UPGRADEABLE_LOADER_ID",
    "BondConfig",
    "ChannelSettlement",
    "ConfigChange",
    "SignedIntent",
    "accept_admin",
    "cancel_withdrawal",
    "claim_cumulative",
    "commit_batch",
    "deposit_bond",
    "discriminator",
    "distribute",
    "execute_claim",
    "initialize_bond",
    "program_data_address",
    "register_gateway",
    "register_vendor",
    "request_withdrawal",
    "revoke_gateway",
    "set_config",
    "settle_aggregated",
    "settle_cumulative",
    "slash_equivocation",
    "sweep_forfeited",
    "update_vendor",
    "withdraw_bond",
]
