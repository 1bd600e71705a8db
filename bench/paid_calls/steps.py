"""What the parts of one payment cost, each by itself in this process, in microseconds of CPU.

These are the pieces that can be called alone. What a gateway needs besides (deciding, the book, waiting for the disk,
waking up) is the difference to the whole, which is measured on the running gateway.
"""

import time
from collections.abc import Callable

import msgspec
from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.protocol import x402
from machpay.protocol.events import PAYMENT_AUTHORIZED, CloudEvent, encode_batch
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey, verify
from machpay.protocol.nonces import new_nonce
from machpay.protocol.receipts import Receipt
from machpay.protocol.requests import request_hash
from machpay.protocol.settlements import ResolvedPayment, to_item

ROUNDS = 1_000


def build() -> dict[str, Callable[[], object]]:
    """The parts, in the order in which a payment meets them."""
    agent, gateway, vendor = SigningKey(b"a" * 32), SigningKey(b"g" * 32), SigningKey(b"v" * 32)
    network = Network(Pubkey.new_unique(), Pubkey.new_unique(), Hash.new_unique())
    channel = network.channel(agent.public, gateway.public)
    deadline = int(time.time()) + 60
    intent = PaymentIntent(channel, 5_000, new_nonce(), 100, deadline, request_hash("GET", "/paid"))
    signature, message = intent.sign(agent), intent.message
    accepted = x402.Requirements(x402.SCHEME, network.caip2, "100", str(network.mint), vendor.pubkey, 60)
    header = x402.encode_header(x402.build_payload(accepted, agent, gateway.public, intent))
    receipt = Receipt(intent.digest, 200, 100, 5_000, deadline).sign(gateway)
    resolved = ResolvedPayment(
        agent=agent.public,
        gateway=gateway.public,
        vendor=vendor.public,
        intent=intent,
        signature=signature,
        charged=100,
        http_status=200,
        served_total=5_000,
        served_at=deadline,
        receipt=receipt,
        seq=1,
    )

    def parse() -> PaymentIntent:
        terms = x402.parse_terms(x402.decode_payload(header).payload)
        received = terms.intent(network.channel(terms.agent, gateway.public))
        _ = received.digest
        return received

    def answer() -> str:
        fields = {"commitmentId": "", "servedTotal": "5000", "receipt": receipt.to_json()}
        return x402.encode_header(
            x402.PaymentResponse(
                success=True, payer=agent.pubkey, network=network.caip2, amount="100", extra=fields
            )
        )

    def event() -> bytes:
        return encode_batch(
            [
                CloudEvent(
                    source=f"gateway:{gateway.pubkey}",
                    type=PAYMENT_AUTHORIZED,
                    time="2026-01-01T00:00:00Z",
                    data=msgspec.to_builtins(to_item(resolved)),
                    subject=agent.pubkey,
                    id=intent.digest.hex(),
                )
            ]
        )

    return {
        "hash the request, parse the payment header": lambda: (request_hash("GET", "/paid"), parse()),
        "verify the agent's signature": lambda: verify(agent.public, message, signature),
        "sign the receipt": lambda: Receipt(intent.digest, 200, 100, 5_000, deadline).sign(gateway),
        "write the PAYMENT-RESPONSE header": answer,
        "deliver: the settlement item": lambda: msgspec.json.encode(to_item(resolved)),
        "tell the receiver: the event": event,
    }


def measure() -> dict[str, float]:
    """Microseconds of CPU per call of each part, one run."""
    found = {}
    for name, part in build().items():
        part()
        began = time.process_time()
        for _ in range(ROUNDS):
            part()
        found[name] = (time.process_time() - began) / ROUNDS * 1e6
    return found
