"""Which identifiers agents have used, and for what: (agent, identifier) -> the payment that was made under it.

A payment that was served keeps its identifier for `keep_s`, so that a retry can never be charged a second time; a void
one frees it. Rebuilt from the log: the segments that name a live identifier are kept. Memory is bounded by `limit`;
beyond it the oldest identifiers go first.
"""

from collections import OrderedDict

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.receipts import Receipt, SignedReceipt
from machpay_gateway.log.records import Outcome


class Binding(msgspec.Struct, gc=False):
    """The payment under one identifier. `outcome` is None while it is in flight; `repeats` counts the payments that
    were taken for nothing under it since the start."""

    number: int
    digest: bytes
    request_hash: bytes
    accepted_at: int
    outcome: Outcome | None = None
    repeats: int = 0

    @property
    def receipt(self) -> SignedReceipt | None:
        """The receipt of a payment that was served."""
        outcome = self.outcome
        if outcome is None:
            return None
        unsigned = Receipt(
            self.digest, outcome.http_status, outcome.charged, outcome.served_total, outcome.time
        )
        return SignedReceipt(unsigned, outcome.receipt_signature)


class Bindings:
    """Identifiers in the order in which their payments were accepted."""

    def __init__(self, keep_s: int, limit: int) -> None:
        self._keep_s = keep_s
        self._limit = limit
        self._bindings: OrderedDict[bytes, Binding] = OrderedDict()

    def __len__(self) -> int:
        return len(self._bindings)

    def get(self, agent: Pubkey, identifier: str) -> Binding | None:
        return self._bindings.get(_key(agent, identifier))

    def bind(self, agent: Pubkey, identifier: str, binding: Binding) -> None:
        """The identifier now stands for this payment."""
        self._bindings[_key(agent, identifier)] = binding
        if len(self._bindings) > self._limit:
            self._bindings.popitem(last=False)

    def complete(self, agent: Pubkey, identifier: str, outcome: Outcome) -> None:
        """The payment has its last outcome. One that was not served frees the identifier."""
        key = _key(agent, identifier)
        binding = self._bindings.get(key)
        if binding is None or binding.number != outcome.number:
            return
        if was_served(outcome.http_status, outcome.charged):
            binding.outcome = outcome
        else:
            del self._bindings[key]

    def prune(self, now: int) -> None:
        """Forget what is older than `keep_s` at `now` (unix seconds) and no longer in flight."""
        while self._bindings:
            binding = next(iter(self._bindings.values()))
            if binding.outcome is None or binding.accepted_at + self._keep_s > now:
                return
            self._bindings.popitem(last=False)

    def snapshot(self) -> dict[bytes, Binding]:
        """(agent 32 || identifier) -> binding."""
        return dict(self._bindings)

    @property
    def oldest(self) -> int | None:
        """The number of the oldest payment that is still remembered here."""
        return next((binding.number for binding in self._bindings.values()), None)


def was_served(http_status: int, charged: int) -> bool:
    """Whether an outcome is a service that was rendered: charged, or a success that a metered price made free."""
    return charged > 0 or 200 <= http_status < 300


def _key(agent: Pubkey, identifier: str) -> bytes:
    return bytes(agent) + identifier.encode("ascii")
