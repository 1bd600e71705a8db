"""Address lookup tables: accounts whose entries a transaction names by one byte instead of 32.

    create_table, extend_table, deactivate_table, close_table   builders; the authority signs
    LookupTable                  a table as it stands on the chain
    shared_addresses, pair_addresses   what a settlement of one vendor looks up
    choose_table  which table has all of it

A table is append-only: what it holds keeps its place, so a table read at `finalized` may be used until it is
deactivated, and some minutes longer. A transaction draws from one table. Nothing here talks to a cluster;
`ChainClient.lookup_table` reads one.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from solders.address_lookup_table_account import (
    LOOKUP_TABLE_MAX_ADDRESSES,
    LOOKUP_TABLE_META_SIZE,
    AddressLookupTable,
    AddressLookupTableAccount,
    derive_lookup_table_address,
)
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.sysvar import INSTRUCTIONS as INSTRUCTIONS_SYSVAR
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.errors import DecodeError
from machpay.chain.network import Network

LOOKUP_TABLE_PROGRAM_ID: Final = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")
TABLE_ADDRESSES_MAX: Final = LOOKUP_TABLE_MAX_ADDRESSES
# A deactivated table serves, and cannot be closed, while the slot is among the newest blocks that the cluster lists.
CLOSABLE_AFTER_SLOTS: Final = 512
# Where a table's account says whose it is: behind kind, two slots, a place and the option's tag.
AUTHORITY_OFFSET: Final = 22
# 1,232 bytes hold 26 beside `create_table` in the same transaction.
EXTENSION_ADDRESSES_MAX: Final = 24

_CREATE: Final = 0
_EXTEND: Final = 2
_DEACTIVATE: Final = 3
_CLOSE: Final = 4
_LOOKUP_TABLE_KIND: Final = b"\x01\x00\x00\x00"
_ACTIVE: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A lookup table's address and what it holds, in order. `deactivated_at` is the slot in which its authority began
    to close it: transactions that draw from it are then refused sooner or later."""

    address: Pubkey
    addresses: tuple[Pubkey, ...]
    deactivated_at: int | None = None

    @property
    def is_active(self) -> bool:
        return self.deactivated_at is None

    @classmethod
    def decode(cls, address: Pubkey, data: bytes) -> Self:
        """Read a table's account. Raises `DecodeError` if `data` is not one."""
        if data[:4] != _LOOKUP_TABLE_KIND or (len(data) - LOOKUP_TABLE_META_SIZE) % 32:
            raise DecodeError("not an address lookup table")
        try:
            table = AddressLookupTable.deserialize(data)
        except ValueError as error:
            raise DecodeError("not an address lookup table") from error
        slot = table.meta.deactivation_slot
        return cls(address, tuple(table.addresses), None if slot == _ACTIVE else slot)

    def for_message(self) -> AddressLookupTableAccount:
        """The form that solders compiles messages with."""
        return AddressLookupTableAccount(self.address, list(self.addresses))


def table_address(authority: Pubkey, recent_slot: int) -> Pubkey:
    """Where `authority`'s table of `recent_slot` is, or will be."""
    address, _ = derive_lookup_table_address(authority, recent_slot)
    return address


def create_table(*, authority: Pubkey, payer: Pubkey, recent_slot: int) -> Instruction:
    """Create the table `table_address(authority, recent_slot)`, empty; one that exists already is left alone.

    `recent_slot` must be among the last 512 that have a block: a finalised slot is. Signer: payer.
    """
    address, bump = derive_lookup_table_address(authority, recent_slot)
    accounts = [
        AccountMeta(address, False, True),
        AccountMeta(authority, False, False),
        AccountMeta(payer, True, True),
        AccountMeta(SYSTEM_PROGRAM_ID, False, False),
    ]
    return Instruction(LOOKUP_TABLE_PROGRAM_ID, struct.pack("<IQB", _CREATE, recent_slot, bump), accounts)


def extend_table(
    *, table: Pubkey, authority: Pubkey, payer: Pubkey, addresses: Sequence[Pubkey]
) -> Instruction:
    """Append `addresses` (1 to 24), usable from the next slot on. Signers: authority, payer of the rent.

    Not idempotent: twice appends twice. A repeated address is waste and does no harm.
    """
    if not 1 <= len(addresses) <= EXTENSION_ADDRESSES_MAX:
        raise ValueError(f"an extension has 1 to {EXTENSION_ADDRESSES_MAX} addresses")
    data = struct.pack("<IQ", _EXTEND, len(addresses)) + b"".join(bytes(address) for address in addresses)
    accounts = [
        AccountMeta(table, False, True),
        AccountMeta(authority, True, False),
        AccountMeta(payer, True, True),
        AccountMeta(SYSTEM_PROGRAM_ID, False, False),
    ]
    return Instruction(LOOKUP_TABLE_PROGRAM_ID, data, accounts)


def deactivate_table(*, table: Pubkey, authority: Pubkey) -> Instruction:
    """Begin to close a table: it serves for some 512 slots more, longer than any transaction signed by now can land.
    Signer: authority. Fails for a table that is deactivated already."""
    accounts = [AccountMeta(table, False, True), AccountMeta(authority, True, False)]
    return Instruction(LOOKUP_TABLE_PROGRAM_ID, struct.pack("<I", _DEACTIVATE), accounts)


def close_table(*, table: Pubkey, authority: Pubkey, recipient: Pubkey) -> Instruction:
    """Remove a deactivated table; its rent goes to `recipient`. Signer: authority. Fails while the table may serve
    still."""
    accounts = [
        AccountMeta(table, False, True),
        AccountMeta(authority, True, False),
        AccountMeta(recipient, False, True),
    ]
    return Instruction(LOOKUP_TABLE_PROGRAM_ID, struct.pack("<I", _CLOSE), accounts)


def shared_addresses(network: Network, *, vendor: Pubkey, payout: Pubkey) -> list[Pubkey]:
    """What every `settle_cumulative` of `vendor` (authority key) looks up, whichever its channels: not the relayer,
    who signs, nor the program, which is called."""
    return [
        network.bond(),
        network.vault(),
        network.vendor_account(vendor),
        payout,
        TOKEN_PROGRAM_ID,
        INSTRUCTIONS_SYSVAR,
        network.event_authority(),
        SYSTEM_PROGRAM_ID,
    ]


def pair_addresses(network: Network, *, agent: Pubkey, gateway: Pubkey) -> list[Pubkey]:
    """What settling the channel of `agent` and `gateway` looks up besides: also its creation. The channel is last."""
    return [
        network.gateway_account(gateway),
        network.agent_account(agent),
        network.channel(agent, gateway),
    ]


def choose_table(tables: Iterable[LookupTable], addresses: Iterable[Pubkey]) -> LookupTable | None:
    """The first active table of `tables` that holds every one of `addresses`, so that none costs a transaction 32
    bytes; None if there is none."""
    wanted = set(addresses)
    return next((table for table in tables if table.is_active and wanted.issubset(table.addresses)), None)
