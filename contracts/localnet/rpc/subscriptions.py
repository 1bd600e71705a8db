"""What subscribers may ask for, and what each is told when the chain moves.

One class per kind. The feed hands each a `Step`, what happened in one slot as its commitment shows it, and sends
on what it returns. Votes and slot updates are not offered: nobody votes here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import ID as SYSTEM_PROGRAM

from contracts.localnet.ledger import Landed, Ledger
from contracts.localnet.rpc.accounts import Filter, encoder, parse_filters
from contracts.localnet.rpc.context import Call
from contracts.localnet.rpc.encoding import AccountEncoder
from contracts.localnet.rpc.errors import RpcError, invalid_params
from contracts.localnet.rpc.history import BlockEncoder, settled
from contracts.localnet.rpc.params import parse_pubkey
from contracts.localnet.slots import Commitment

# How a closed account is shown: as one that nobody has paid into.
_NO_ACCOUNT = Account(0, b"", SYSTEM_PROGRAM)


@dataclass(frozen=True, slots=True)
class Step:
    """What happened in `slot`, now that it has reached `level`.

    `new` is False for a transaction landing in the open slot, which was told of before.
    """

    level: Commitment
    slot: int
    new: bool
    landed: list[Landed] = field(default_factory=list)

    def changed(self) -> dict[Pubkey, Account | None]:
        """Return the accounts that changed, in their last state of this step."""
        states: dict[Pubkey, Account | None] = {}
        for landed in self.landed:
            states |= landed.changed
        return states

    def answer(self, value: Any) -> dict[str, Any]:
        """Return a value with the slot it is true of."""
        return {"context": {"slot": self.slot}, "value": value}


class Subscription:
    """One subscription; `method` is the name its notifications carry."""

    method: str
    level = Commitment.processed
    # Whether its first notification is its last.
    once = False

    def __init__(self, call: Call) -> None:
        """Parse what the call asks for. Raises RpcError."""
        raise NotImplementedError

    def results(self, step: Step, ledger: Ledger) -> Iterator[Any]:
        """Yield what to tell about a step at `level`."""
        raise NotImplementedError


class AccountSubscription(Subscription):
    """`accountSubscribe`."""

    method = "accountNotification"

    def __init__(self, call: Call) -> None:
        self._address = call.params.pubkey(0)
        config = call.params.config(1)
        self.level = call.view(config)
        self._encode = encoder(call, config, self.level, lenient=True)

    def results(self, step: Step, ledger: Ledger) -> Iterator[Any]:
        """Yield the account if it changed."""
        changed = step.changed()
        if self._address in changed:
            yield step.answer(self._encode(changed[self._address] or _NO_ACCOUNT))


class ProgramSubscription(Subscription):
    """`programSubscribe`, with the filters of `getProgramAccounts`. A closed account is no longer the program's."""

    method = "programNotification"

    def __init__(self, call: Call) -> None:
        self._program = call.params.pubkey(0)
        config = call.params.config(1)
        self.level = call.view(config)
        self._filters: list[Filter] = parse_filters(config.raw("filters"))
        self._encode: AccountEncoder = encoder(call, config, self.level, lenient=True)

    def results(self, step: Step, ledger: Ledger) -> Iterator[Any]:
        """Yield each account of the program that changed."""
        for address, account in step.changed().items():
            if account is None or account.owner != self._program:
                continue
            if all(fits(account) for fits in self._filters):
                yield step.answer({"pubkey": str(address), "account": self._encode(account)})


class LogsSubscription(Subscription):
    """`logsSubscribe`: all transactions, or those that mention one address."""

    method = "logsNotification"

    def __init__(self, call: Call) -> None:
        self._mentioned = _logs_filter(call.params.value(0))
        self.level = call.view(call.params.config(1))

    def results(self, step: Step, ledger: Ledger) -> Iterator[Any]:
        """Yield the logs of each transaction, failed ones too."""
        for landed in step.landed:
            if self._mentioned is None or self._mentioned in landed.addresses:
                value = {"signature": str(landed.signature), "err": landed.err, "logs": landed.logs}
                yield step.answer(value)


class SignatureSubscription(Subscription):
    """`signatureSubscribe`: once, when the transaction has reached the commitment, or at once when it had before."""

    method = "signatureNotification"
    once = True

    def __init__(self, call: Call) -> None:
        self._signature: Signature = call.params.signature(0)
        config = call.params.config(1)
        self.level = call.view(config)
        if config.flag("enableReceivedNotification"):
            raise invalid_params("enableReceivedNotification is not supported")

    def results(self, step: Step, ledger: Ledger) -> Iterator[Any]:
        """Yield the outcome once it is known at the commitment."""
        status = ledger.status(self._signature, search_history=False)
        if status is not None and status.slot <= ledger.slot(self.level):
            yield {"context": {"slot": status.slot}, "value": {"err": status.err}}


class SlotSubscription(Subscription):
    """`slotSubscribe`: every slot as it opens."""

    method = "slotNotification"

    def __init__(self, call: Call) -> None:
        _no_parameters(call)

    def results(self, step: Step, ledger: Ledger) -> Iterator[Any]:
        """Yield the slot."""
        if step.new:
            root = ledger.slot(Commitment.finalized)
            yield {"slot": step.slot, "parent": max(step.slot - 1, 0), "root": min(root, step.slot)}


class RootSubscription(Subscription):
    """`rootSubscribe`: every slot as it becomes final."""

    method = "rootNotification"
    level = Commitment.finalized

    def __init__(self, call: Call) -> None:
        _no_parameters(call)

    def results(self, step: Step, ledger: Ledger) -> Iterator[Any]:
        """Yield the slot."""
        yield step.slot


class BlockSubscription(Subscription):
    """`blockSubscribe`: every block as it reaches the commitment, or those that mention one address, with only the
    transactions that do."""

    method = "blockNotification"

    def __init__(self, call: Call) -> None:
        self._mentioned = _block_filter(call.params.value(0))
        config = call.params.config(1)
        self.level = settled(config)
        self._block = BlockEncoder(config)

    def results(self, step: Step, ledger: Ledger) -> Iterator[Any]:
        """Yield the block."""
        wanted = {
            landed.signature
            for landed in step.landed
            if self._mentioned is None or self._mentioned in landed.addresses
        }
        if self._mentioned is not None and not wanted:
            return
        transactions = [entry for entry in ledger.transactions_in(step.slot) if entry.signature in wanted]
        try:
            block = self._block(ledger, step.slot, transactions)
        except RpcError:
            # The one reason there is: a version the subscriber did not ask for.
            yield step.answer({"slot": step.slot, "block": None, "err": {"UnsupportedTransactionVersion": 0}})
        else:
            yield step.answer({"slot": step.slot, "block": block, "err": None})


def _logs_filter(value: Any) -> Pubkey | None:
    if value in ("all", "allWithVotes"):
        return None
    if isinstance(value, dict) and set(value) == {"mentions"} and isinstance(value["mentions"], list):
        if len(value["mentions"]) != 1:
            raise invalid_params("Only 1 address supported")
        return parse_pubkey(value["mentions"][0])
    raise invalid_params('the first parameter is "all", "allWithVotes" or {mentions: [address]}')


def _block_filter(value: Any) -> Pubkey | None:
    if value == "all":
        return None
    if isinstance(value, dict) and set(value) == {"mentionsAccountOrProgram"}:
        return parse_pubkey(value["mentionsAccountOrProgram"])
    raise invalid_params('the first parameter is "all" or {mentionsAccountOrProgram: address}')


def _no_parameters(call: Call) -> None:
    if call.params.has(0):
        raise invalid_params("expected no parameters")


# What a client calls, and what it gets.
KINDS: dict[str, type[Subscription]] = {
    "account": AccountSubscription,
    "program": ProgramSubscription,
    "logs": LogsSubscription,
    "signature": SignatureSubscription,
    "slot": SlotSubscription,
    "root": RootSubscription,
    "block": BlockSubscription,
}
