"""Builders, one per instruction of the program: arguments in, `solders` instructions out.

Discriminators are Anchor's, arguments are borsh, and accounts stand in the order of the tables in
contracts/program/src/instructions/. Nothing here signs, sends or asks the chain anything. Amounts are atomic units.
One module per subject; this package is the public import path.
"""

from machpay.chain.instructions.base import discriminator
from machpay.chain.instructions.bonds import (
    UPGRADEABLE_LOADER_ID,
    BondConfig,
    deposit_bond,
    initialize_bond,
)
from machpay.chain.instructions.registry import METADATA_URI_LENGTH_MAX, register_gateway, register_vendor
from machpay.chain.instructions.settlement import (
    CHANNELS_PER_INSTRUCTION_MAX,
    ChannelSettlement,
    settle_cumulative,
)

__all__ = [
    "CHANNELS_PER_INSTRUCTION_MAX",
    "METADATA_URI_LENGTH_MAX",
    "UPGRADEABLE_LOADER_ID",
    "BondConfig",
    "ChannelSettlement",
    "deposit_bond",
    "discriminator",
    "initialize_bond",
    "register_gateway",
    "register_vendor",
    "settle_cumulative",
]
