"""What a transaction called, and which of those calls are events of the program.

The program records an event by calling itself with Anchor's tag, the event's discriminator and its fields in borsh.
Such a call is an inner instruction, attributed here by the invoke stack: it counts only if the program called is ours,
its caller is ours too, and its one account is the event authority, which nobody else can sign for. Logs are never read:
any program can print what looks like an event, and validators cut logs off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_status import EncodedTransactionWithStatusMeta, UiCompiledInstruction

from machpay.chain.errors import DecodeError
from machpay.chain.events import Event, decode_event
from machpay.chain.network import Network

# sha256("anchor:event")[:8], reversed: marks an instruction as an event.
INSTRUCTION_TAG: Final = bytes.fromhex("e445a52e51cb9a1d")

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of a program inside a transaction. `stack_height` is 1 for the transaction's own instructions, 2 for
    what they call, and so on."""

    program_id: Pubkey
    accounts: tuple[Pubkey, ...]
    data: bytes
    stack_height: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event, which of the transaction's own instructions it came from (from 0), and the program's instruction that
    recorded it, which may have been called by another program."""

    event: Event
    instruction: int
    caller: Invocation


def recorded_events(network: Network, trace: Sequence[Sequence[Invocation]]) -> list[Recorded]:
    """The program's events of one successful transaction, in order.

    `trace` has, for each of the transaction's own instructions, its invocation and then everything that was called
    below it, in the order of execution. Whether it succeeded is the caller's to check: a failed transaction recorded
    nothing. Raises `DecodeError` if the stack heights cannot be, or for an event that this version does not know: a
    reader that skipped it would be wrong in silence.
    """
    found = []
    for index, invocations in enumerate(trace):
        stack: list[Invocation] = []
        for invocation in invocations:
            if not 1 <= invocation.stack_height <= len(stack) + 1:
                raise DecodeError("the invoke stack has a gap")
            del stack[invocation.stack_height - 1 :]
            caller = stack[-1] if stack else None
            stack.append(invocation)
            if caller is not None and _is_event(network, caller, invocation):
                event = decode_event(invocation.data[len(INSTRUCTION_TAG) :])
                found.append(Recorded(event, index, caller))
    return found


def _is_event(network: Network, caller: Invocation, invocation: Invocation) -> bool:
    return (
        invocation.program_id == network.program_id
        and caller.program_id == network.program_id
        and invocation.data.startswith(INSTRUCTION_TAG)
        and invocation.accounts == (network.event_authority(),)
    )


def trace_of(answer: EncodedTransactionWithStatusMeta) -> list[list[Invocation]]:
    """The trace of a transaction as `getTransaction` returns it in base64. Raises `DecodeError` where the server left
    out what is needed: inner instructions with their stack heights."""
    transaction, meta = answer.transaction, answer.meta
    if not isinstance(transaction, VersionedTransaction) or meta is None or meta.inner_instructions is None:
        raise DecodeError("the RPC server did not return the transaction with its inner instructions")
    message = transaction.message
    keys = list(message.account_keys)
    if meta.loaded_addresses is not None:
        keys += [*meta.loaded_addresses.writable, *meta.loaded_addresses.readonly]
    trace = [[_invocation(keys, ix.program_id_index, ix.accounts, ix.data, 1)] for ix in message.instructions]
    for group in meta.inner_instructions:
        for inner in group.instructions:
            if not isinstance(inner, UiCompiledInstruction) or inner.stack_height is None:
                raise DecodeError("the RPC server does not report stack heights")
            data = _from_base58(inner.data)
            trace[group.index].append(
                _invocation(keys, inner.program_id_index, inner.accounts, data, inner.stack_height)
            )
    return trace


def _invocation(
    keys: Sequence[Pubkey], program: int, accounts: Sequence[int], data: bytes, stack_height: int
) -> Invocation:
    return Invocation(keys[program], tuple(keys[index] for index in accounts), bytes(data), stack_height)


def _from_base58(text: str) -> bytes:
    """Bytes of any length: RPC servers send inner instructions in base58 whatever encoding was asked for."""
    number = _number(text)
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _number(text: str) -> int:
    """By halves: ten kilobytes, which a stranger may put into dozens of calls of a transaction, take ten times as long
    digit by digit."""
    if len(text) > _DIGITS_AT_ONCE:
        half = len(text) // 2
        shift: int = 58**half
        return _number(text[:-half]) * shift + _number(text[-half:])
    number = 0
    for character in text:
        digit = _BASE58.find(character)
        if digit < 0:
            raise DecodeError("an inner instruction's data is not base58")
        number = number * 58 + digit
    return number
