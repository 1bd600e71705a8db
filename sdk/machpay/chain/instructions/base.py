"""What every builder shares: Anchor's discriminator, account flags, and the two accounts that events need."""

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from machpay.chain.network import Network


def discriminator(name: str) -> bytes:
    """Anchor's instruction discriminator: the first 8 bytes of sha256("global:<name>")."""
    return hashlib.sha256(f"global:{name}".encode()).digest()[:8]


def pack(layout: str, *values: Any) -> bytes:
    """Little-endian arguments as `struct` packs them. Raises `ValueError` for one that does not fit."""
    try:
        return struct.pack(layout, *values)
    except struct.error as error:
        raise ValueError(f"{', '.join(map(repr, values))}: {error}") from error


def instruction(
    network: Network,
    name: str,
    arguments: bytes,
    accounts: list[AccountMeta],
    remaining: Sequence[AccountMeta] = (),
) -> Instruction:
    """Named accounts end with the two that events need; accounts without a name follow them."""
    events = [readonly(network.event_authority()), readonly(network.program_id)]
    return Instruction(network.program_id, discriminator(name) + arguments, [*accounts, *events, *remaining])


def readonly(address: Pubkey) -> AccountMeta:
    return AccountMeta(address, False, False)


def writable(address: Pubkey) -> AccountMeta:
    return AccountMeta(address, False, True)
