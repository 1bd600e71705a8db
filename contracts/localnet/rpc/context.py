"""What every method gets: the ledger, the parameters, and the slot its answer is about."""

from dataclasses import dataclass
from typing import Any

from contracts.localnet.ledger import Ledger
from contracts.localnet.rpc.errors import MIN_CONTEXT_SLOT_NOT_REACHED, RpcError
from contracts.localnet.rpc.params import Config, Params
from contracts.localnet.slots import Commitment

VERSION = "4.1.0"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method."""

    ledger: Ledger
    params: Params

    def view(self, config: Config) -> Commitment:
        """Return the commitment to answer at; refuses a view older than the caller's `minContextSlot`."""
        commitment = config.commitment()
        least = config.number("minContextSlot")
        slot = self.ledger.slot(commitment)
        if least is not None and slot < least:
            raise RpcError(
                MIN_CONTEXT_SLOT_NOT_REACHED,
                "Minimum context slot has not been reached",
                {"contextSlot": slot},
            )
        return commitment

    def answer(self, commitment: Commitment, value: Any) -> dict[str, Any]:
        """Return a value with the slot it is true of."""
        return {"context": {"slot": self.ledger.slot(commitment), "apiVersion": VERSION}, "value": value}
