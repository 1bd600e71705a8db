"""What one payment costs in pure protocol work, as a ratio to the bare Ed25519 check it cannot do without.

    .venv/bin/python bench/protocol.py

Five interleaved runs; medians. The limit is one strict verification of 60 bytes by solders.
"""

import statistics
import time
from collections.abc import Callable

from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.protocol import x402
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey, verify
from machpay.protocol.nonces import new_nonce
from machpay.protocol.receipts import Receipt
from machpay.protocol.requests import request_hash

ROUNDS, RUNS = 2_000, 5


def build_cases() -> dict[str, Callable[[], object]]:
    agent, gateway = SigningKey(bytes(range(32))), SigningKey(bytes(range(1, 33)))
    network = Network(Pubkey.default(), Pubkey.new_unique(), Hash.new_unique())
    channel = network.channel(agent.public, gateway.public)
    deadline = int(time.time()) + 60
    intent = PaymentIntent(channel, 5_000, new_nonce(), 1_000, deadline, request_hash("GET", "/embed?text=x"))
    signature = intent.sign(agent)
    message = intent.message
    accepted = x402.Requirements(x402.SCHEME, network.caip2, "1000", str(network.mint), gateway.pubkey, 60)
    header = x402.encode_header(x402.build_payload(accepted, agent, gateway.public, intent))

    def check_payment() -> None:
        terms = x402.parse_terms(x402.decode_payload(header).payload)
        received = terms.intent(network.channel(terms.agent, terms.gateway))
        assert received.is_signed_by(terms.agent, terms.signature)
        _ = received.digest

    return {
        "one Ed25519 check (the limit)": lambda: verify(agent.public, message, signature),
        "header to verified intent and digest": check_payment,
        "request hash": lambda: request_hash("GET", "/embed?text=x"),
        "signed receipt": lambda: Receipt(intent.digest, 200, 1_000, 5_000, deadline).sign(gateway),
    }


def main() -> None:
    cases = build_cases()
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(RUNS):
        for name, case in cases.items():
            began = time.process_time()
            for _ in range(ROUNDS):
                case()
            times[name].append((time.process_time() - began) / ROUNDS * 1e6)
    medians = {name: statistics.median(values) for name, values in times.items()}
    limit = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{name:40} {median:8.1f} µs   {median / limit:5.2f} of one check")


if __name__ == "__main__":
    main()
