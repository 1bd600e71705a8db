"""A gateway's accept rule as a small model, and agents that talk to it without HTTP.

The model keeps exactly what docs/protocol.md demands: H, served, reserved, the highest voucher and the latest
receipt.
"""

from dataclasses import dataclass, field

from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.client.channels import NOTHING_KNOWN, Channel, Quote, Totals
from machpay.protocol.intents import PaymentIntent, Voucher
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.receipts import Receipt, SignedReceipt
from machpay.protocol.x402 import Correction

AGENT = SigningKey(b"\x11" * 32)
GATEWAY = SigningKey(b"\x12" * 32)
STRANGER = SigningKey(b"\x13" * 32)
NETWORK = Network(Pubkey(b"\x14" * 32), Pubkey(b"\x15" * 32), Hash(b"\x16" * 32))
ADDRESS = NETWORK.channel(AGENT.public, GATEWAY.public)
NOW = 1_795_255_200


@dataclass(frozen=True)
class Sent:
    """One signed payment on its way."""

    intent: PaymentIntent
    signature: bytes
    digest: bytes
    quote: Quote


def sign(channel: Channel, amount: int, now: float = NOW) -> Sent:
    """What the client does between a quote and the wire."""
    quote = channel.quote(amount, now)
    intent = PaymentIntent(
        channel.address, quote.cumulative, new_nonce(int(now * 1000)), amount, int(now) + 60, b"\x01" * 32
    )
    return Sent(intent, intent.sign(AGENT), channel.opened(intent, quote), quote)


def an_agent(saved: Totals = NOTHING_KNOWN) -> Channel:
    return Channel(ADDRESS, AGENT.public, GATEWAY.public, saved)


def a_receipt(digest: bytes, *, charged: int, served_total: int, key: SigningKey = GATEWAY) -> SignedReceipt:
    return Receipt(digest, 200 if charged else 503, charged, served_total, NOW).sign(key)


def a_voucher(cumulative: int, key: SigningKey = AGENT, address: Pubkey = ADDRESS) -> Voucher:
    """A voucher that no `Channel` of the test has made."""
    intent = PaymentIntent(address, cumulative, new_nonce(NOW * 1000), 1, NOW + 60, b"\x02" * 32)
    return intent.voucher(intent.sign(key))


@dataclass
class Model:
    """An honest gateway."""

    served: int = 0
    reserved: int = 0
    highest: int = 0
    voucher: Voucher | None = None
    receipt: SignedReceipt | None = None
    charges: dict[bytes, int] = field(default_factory=dict)

    def accept(self, sent: Sent, price: int) -> bool:
        """The accept rule, one step."""
        intent = sent.intent
        assert intent.is_signed_by(AGENT.public, sent.signature)
        assert sent.digest not in self.charges
        if intent.cumulative > self.highest:
            self.highest = intent.cumulative
            self.voucher = intent.voucher(sent.signature)
        if self.highest < self.served + self.reserved + price:
            return False
        self.reserved += price
        assert self.served + self.reserved <= self.highest
        return True

    def finish(self, sent: Sent, price: int, charged: int) -> SignedReceipt:
        self.reserved -= price
        self.served += charged
        self.charges[sent.digest] = charged
        self.receipt = a_receipt(sent.digest, charged=charged, served_total=self.served)
        return self.receipt

    def correction(self) -> Correction:
        return Correction(self.served + self.reserved, self.voucher)
