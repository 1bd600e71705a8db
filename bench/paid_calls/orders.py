"""Payments signed ahead of time, as the bytes of whole requests: what a client does costs the measured loop nothing."""

import itertools
import time
from collections.abc import Iterator

from solders.pubkey import Pubkey

from bench.paid_calls import peer
from machpay.chain.network import Network
from machpay.protocol import x402
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.requests import request_hash

LIFETIME_S = 560
"""Deadlines lie this far ahead, so that signing many takes nothing from their life."""


def request(path: str, header: str | None = None) -> bytes:
    payment = "" if header is None else f"payment-signature: {header}\r\n"
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{payment}\r\n".encode()


class Payer:
    """One agent's channel with one gateway: totals only grow."""

    def __init__(
        self, network: Network, agent: SigningKey, gateway: Pubkey, vendor: Pubkey, price: int
    ) -> None:
        self._agent, self._gateway, self._price = agent, gateway, price
        self._channel = network.channel(agent.public, gateway)
        self._hash = request_hash("GET", "/paid")
        self._total = 0
        self._accepted = x402.Requirements(
            x402.SCHEME, network.caip2, str(price), str(network.mint), str(vendor), 570
        )

    def start_at(self, total: int) -> None:
        """Go on from what was signed before."""
        self._total = max(self._total, total)

    def order(self) -> bytes:
        """The next paid request."""
        self._total += self._price
        deadline = int(time.time()) + LIFETIME_S
        intent = PaymentIntent(self._channel, self._total, new_nonce(), self._price, deadline, self._hash)
        payload = x402.build_payload(self._accepted, self._agent, self._gateway, intent)
        return request("/paid", x402.encode_header(payload))


def paid(payers: list[Payer], count: int) -> list[bytes]:
    """`count` paid requests, the agents taking turns."""
    turns: Iterator[Payer] = itertools.cycle(payers)
    return [next(turns).order() for _ in range(count)]


def stock(key: SigningKey, count: int) -> list[bytes]:
    """`count` paid requests for the peer."""
    return [request("/paid", peer.payment_header(key)) for _ in range(count)]
