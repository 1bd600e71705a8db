"""Token transfers into one account, read from a transaction's trace: who paid, how much, and what the transfer names.

Classic SPL Token only. A wallet that follows Solana Pay adds reference keys to the transfer's accounts; they move
nothing and can be looked up.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM_ID

from machpay.chain.traces import Invocation

_TRANSFER: Final = 3
_MINT_TO: Final = 7
_TRANSFER_CHECKED: Final = 12
_MINT_TO_CHECKED: Final = 14
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
    """One transfer. `instruction` is its place: the transaction's own instruction, a dot, the call below it. `named`
    are the accounts beyond those that the transfer needs, signers of a multisignature included."""

    instruction: str
    amount: int
    source: Pubkey | None
    named: tuple[Pubkey, ...]


def transfers_into(account: Pubkey, trace: Sequence[Sequence[Invocation]]) -> list[IncomingTransfer]:
    """Every transfer into `account` of a transaction that succeeded, in order; transfers to itself are none."""
    found = []
    for outer, invocations in enumerate(trace):
        for place, call in enumerate(invocations):
            form = _FORMS.get(call.data[0]) if call.program_id == TOKEN_PROGRAM_ID and call.data else None
            if form is None:
                continue
            source_at, destination_at, accounts, length = form
            if len(call.accounts) < accounts or len(call.data) < length:
                continue
            source = None if source_at is None else call.accounts[source_at]
            (amount,) = struct.unpack_from("<Q", call.data, 1)
            if call.accounts[destination_at] == account and source != account and amount:
                found.append(
                    IncomingTransfer(f"{outer}.{place}", amount, source, tuple(call.accounts[accounts:]))
                )
    return found
