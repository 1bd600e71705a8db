"""What an agent knows of one channel, and how much it may sign on it. Pure: no clock, no socket, no file.

    cumulative = total + own unresolved + amount + headroom      (docs/protocol.md, "The client's rule")

`total` is the highest sum that the gateway is committed to, as far as it is proven. A gateway may name any
total, so one is followed only as far as signatures of our own key, or the chain's watermark, already cover
it, and counts as served only as far as our own payments, or another process on our key, explain it. An answer
can then never make us authorise more than `MAX_PRICES` prices beyond what is proven, not in one step and not
in many.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import msgspec
from solders.pubkey import Pubkey

from machpay.client.errors import GatewayExposureError
from machpay.client.headroom import MAX_PRICES, Headroom
from machpay.protocol.encoding import U64_MAX
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.nonces import CLOCK_SKEW_S
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.x402 import Correction

REMEMBERED_SIGNATURES: Final = 4096


@dataclass(frozen=True, slots=True)
class Totals:
    """What survives a restart. Every field only rises, so the larger of two is always the truer."""

    total: int = 0
    served: int = 0
    signed: int = 0

    def merge(self, other: "Totals") -> "Totals":
        return Totals(
            max(self.total, other.total), max(self.served, other.served), max(self.signed, other.signed)
        )


NOTHING_KNOWN: Final = Totals()


class Quote(msgspec.Struct, frozen=True, gc=False):
    """A cumulative to sign, the headroom (in prices) that went into it, and `least`: the same without any."""

    cumulative: int
    headroom: int
    least: int


class _Open(msgspec.Struct, frozen=True, gc=False):
    amount: int
    deadline: int
    headroom: int


class Channel:
    """One agent's side of one channel. Amounts are atomic units.

    `total` is the highest proven sum of charges and reservations, `served` the highest that receipts prove,
    `signed` the highest cumulative that our key is known to have signed, here or in another process.
    """

    def __init__(
        self, address: Pubkey, agent: Pubkey, gateway: Pubkey, saved: Totals = NOTHING_KNOWN
    ) -> None:
        self.address = address
        self.agent = agent
        self.gateway = gateway
        self.total = saved.total
        self.served = saved.served
        self.signed = saved.signed
        self.headroom = Headroom()
        self.price = 0
        self.is_fresh = False
        """Whether the gateway has told this process its total: then a refusal is not to be expected."""
        self.unresolved = 0
        """The sum of amounts that were sent and whose outcome is not known."""
        self._open: dict[bytes, _Open] = {}
        self._made: OrderedDict[bytes, None] = OrderedDict()
        # What our own payments can have come to, on top of what was authorised before this process started.
        self._explained = saved.signed
        self._others: int | None = None
        self._shared = False

    @property
    def totals(self) -> Totals:
        return Totals(self.total, self.served, self.signed)

    def is_covered_by_others(self, cumulative: int) -> bool:
        """True if another holder of our key is known to have authorised this much: a signature of ours up to
        it adds nothing."""
        return self._others is not None and self._others >= cumulative

    def is_open(self, digest: bytes) -> bool:
        """True while the payment counts as unresolved."""
        return digest in self._open

    def quote(self, amount: int, now: float) -> Quote:
        """What to sign for a payment of `amount`. Raises `GatewayExposureError` when that would leave the
        gateway with more than `MAX_PRICES` prices signed beyond what is served or on its way."""
        if self._open:
            self._expire(now)
        self.price = max(self.price, amount)
        unresolved = self.unresolved + amount
        bound = min(U64_MAX, self.served + unresolved + MAX_PRICES * self.price)
        # Signing up to what is signed already authorises nothing new.
        limit = max(self.signed, bound)
        if self.total + amount > limit:
            raise GatewayExposureError(
                str(self.gateway),
                signed=self.signed,
                served=self.served,
                claimed=self.total,
                detail=f"following it would leave more than {MAX_PRICES} prices unproven",
            )
        headroom = self.headroom.prices
        least = min(self.total + unresolved, limit)
        return Quote(min(least + headroom * self.price, limit), headroom, least)

    def opened(self, intent: PaymentIntent, quote: Quote) -> bytes:
        """Record a payment that is about to be signed and sent. Returns its digest."""
        digest = intent.digest
        self.signed = max(self.signed, intent.cumulative)
        self._open[digest] = _Open(intent.amount, intent.deadline, quote.headroom)
        self.unresolved += intent.amount
        self._made[intent.context] = None
        if len(self._made) > REMEMBERED_SIGNATURES:
            self._made.popitem(last=False)
        return digest

    def not_sent(self, digest: bytes) -> None:
        """The payment never left this process."""
        self._close(digest)

    def refused(self, digest: bytes) -> None:
        """The gateway said that it did not accept the payment."""
        self._close(digest)

    def too_low(self, digest: bytes) -> None:
        """The gateway refused the payment as `cumulative_too_low`."""
        payment = self._close(digest)
        if payment is not None:
            self.headroom.too_low(payment.headroom)

    def resolved(self, signed: SignedReceipt) -> None:
        """The gateway's receipt for one of our payments. The caller has checked signature, digest and
        amount."""
        receipt = signed.receipt
        self.is_fresh = True
        followed = min(receipt.served_total, self.signed)
        if not self._shared:
            # As long as nobody else is known to pay with this key, a larger total is a claim without a cause.
            followed = min(followed, self._explained + self.unresolved)
        if self._close(receipt.digest) is not None:
            self._explained += receipt.charged
        self.total = max(self.total, followed)
        # Payments still open may be in that total, but they count as proven with their own receipts only.
        self.served = max(self.served, followed if self._shared else min(followed, self._explained))
        self.headroom.accepted()

    def correct(self, correction: Correction, receipt: SignedReceipt | None, watermark: int) -> bool:
        """Follow a corrective answer as far as it is proven. True if its total could be followed.

        `receipt` is the gateway's latest on this channel, usually for a payment of another process;
        `watermark` is the channel's `settled` on chain.
        """
        if correction.committed_total <= watermark:
            self.settled(watermark)
            return True
        voucher = correction.voucher
        if (
            voucher is None
            or voucher.channel != self.address
            or voucher.cumulative < correction.committed_total
            or not voucher.is_signed_by(self.agent)
        ):
            return False
        self.signed = max(self.signed, voucher.cumulative)
        self.total = max(self.total, correction.committed_total)
        if voucher.context not in self._made:
            self._follow_another_holder(voucher.cumulative, correction.committed_total, receipt)
        return True

    def settled(self, watermark: int) -> None:
        """The chain has paid this much on the channel: proof that needs nobody's word."""
        self.total = max(self.total, watermark)
        self.served = max(self.served, watermark)
        self.signed = max(self.signed, watermark)
        self._explained = max(self._explained, watermark)

    def _follow_another_holder(self, cumulative: int, committed: int, receipt: SignedReceipt | None) -> None:
        """A voucher that this process did not make: an earlier process made it, or another one that runs
        beside us.

        The first is where we start: all of it was authorised without us. A higher one later shows that
        somebody else pays this gateway with our key now; from then on, and only then, receipts for payments
        that we do not know count, because nothing else can tell us what the other process was served.
        """
        if self._others is None:
            self.served = max(self.served, committed)
            self._explained = max(self._explained, cumulative)
        elif cumulative > self._others:
            self._shared = True
        if self._shared and receipt is not None and receipt.is_signed_by(self.gateway):
            self.served = max(self.served, min(receipt.receipt.served_total, cumulative))
        self._others = max(self._others or 0, cumulative)

    def _expire(self, now: float) -> None:
        """Stop counting payments that no gateway may accept any more. What they signed stays in `signed`, and
        they may have been served without our hearing of it."""
        over = [digest for digest, payment in self._open.items() if payment.deadline + CLOCK_SKEW_S < now]
        for digest in over:
            payment = self._close(digest)
            assert payment is not None
            self._explained += payment.amount

    def _close(self, digest: bytes) -> _Open | None:
        """The payment no longer counts as unresolved; None if it did not."""
        payment = self._open.pop(digest, None)
        if payment is not None:
            self.unresolved -= payment.amount
        return payment
