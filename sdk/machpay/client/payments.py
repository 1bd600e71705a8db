"""What a paid call returns: the HTTP answer and what it cost."""

from typing import Self

import httpx
import msgspec

from machpay.protocol.receipts import SignedReceipt


class Payment(msgspec.Struct, frozen=True):
    """One payment and the gateway's signed word on it. Amounts in atomic units.

    `charged` is what was taken (0 when the upstream failed), `amount` the ceiling that was signed,
    `served_total` the gateway's sum of charges on the channel. `digest` is the payment's id everywhere
    in the network. `attempts` counts the signatures it took.

    A metered stream is charged at its end: until then `charged` is the ceiling and `receipt` None. `is_repeated` says
    that the answer was given before, under the same identifier: nothing was charged for it again.
    """

    digest: bytes
    gateway: str
    vendor: str
    amount: int
    charged: int
    served_total: int
    receipt: SignedReceipt | None
    attempts: int
    is_repeated: bool = False

    @property
    def is_final(self) -> bool:
        """Whether the gateway has given its word on what was charged."""
        return self.receipt is not None


class PaidResponse(httpx.Response):
    """An `httpx.Response`, read to its end unless it is streamed, with `payment`: None when the route turned
    out to be free."""

    payment: Payment | None

    @property
    def charged(self) -> int:
        """What this call cost, in atomic units; 0 on a free route and for what was not served."""
        return 0 if self.payment is None else self.payment.charged

    @classmethod
    def of(cls, response: httpx.Response, payment: Payment | None) -> Self:
        paid = cls.__new__(cls)
        # httpx has no hook for response classes; a response's state is its instance dictionary.
        paid.__dict__.update(response.__dict__)
        paid.payment = payment
        return paid
