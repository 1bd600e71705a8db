"""Token transfers into one account, read from a transaction's trace: who paid, how much, and what the transfer names.

Classic SPL Token only. A wallet that follows Solana Pay adds reference keys to the transfer's accounts; they move
nothing and can be looked up.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.traces import Invocation

_TRANSFER: Final = 3
_MINT_TO: Final = 7
_TRANSFER_CHECKED: Final = 12
_MINT_TO_CHECKED: Final = 14
# Several instructions in one, each after a byte for how many accounts and one for how much data it has. Not in itself.
_BATCH: Final = 255
# Per instruction: where source (None: minted) and destination stand among its accounts, how many it has at least, and
# how long its data is.
_FORMS: Final[dict[int, tuple[int | None, int, int, int]]] = {
    _TRANSFER: (0, 1, 3, 9),
    _MINT_TO: (None, 1, 3, 9),
    _TRANSFER_CHECKED: (0, 2, 4, 10),
    _MINT_TO_CHECKED: (None, 1, 3, 10),
}


@dataclass(frozen=True, slots=True)
class IncomingTransfer:
    """One transfer. `instruction` is its place: the transaction's own instruction, a dot, the call below it, and in a
    batch of the token program another dot and the place there. `named` are the accounts beyond those that the transfer
    needs, signers of a multisignature included."""

    instruction: str
    amount: int
    source: Pubkey | None
    named: tuple[Pubkey, ...]


def transfers_into(account: Pubkey, trace: Sequence[Sequence[Invocation]]) -> list[IncomingTransfer]:
    """Every transfer into `account` of a transaction that succeeded, in order; transfers to itself are none."""
    return [
        transfer
        for outer, invocations in enumerate(trace)
        for place, call in enumerate(invocations)
        if call.program_id == TOKEN_PROGRAM_ID
        for suffix, accounts, data in _instructions(call)
        if (transfer := _transfer(account, f"{outer}.{place}{suffix}", accounts, data)) is not None
    ]


def _instructions(call: Invocation) -> Iterator[tuple[str, tuple[Pubkey, ...], bytes]]:
    """What a call of the token program does: itself, or each instruction of a batch. Suffix of its place, accounts,
    data."""
    if call.data[:1] != bytes([_BATCH]):
        yield "", call.accounts, call.data
        return
    accounts, rest, number = call.accounts, call.data[1:], 0
    while len(rest) >= 2:
        count, length = rest[0], rest[1]
        yield f".{number}", accounts[:count], rest[2 : 2 + length]
        accounts, rest, number = accounts[count:], rest[2 + length :], number + 1


def _transfer(
    account: Pubkey, place: str, accounts: tuple[Pubkey, ...], data: bytes
) -> IncomingTransfer | None:
    form = _FORMS.get(data[0]) if data else None
    if form is None:
        return None
    source_at, destination_at, needed, length = form
    if len(accounts) < needed or len(data) < length:
        return None
    source = None if source_at is None else accounts[source_at]
    (amount,) = struct.unpack_from("<Q", data, 1)
    if accounts[destination_at] != account or source == account or not amount:
        return None
    return IncomingTransfer(place, amount, source, accounts[needed:])
