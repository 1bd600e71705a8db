"""Payments made by hand, to send what no honest client would."""

import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.protocol import x402
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.requests import request_hash
from tests.support.http import LOCAL

DEADLINE_S = 30


@dataclass
class RawBuyer:
    """Signs whatever it is told to. `total` is the cumulative it last signed."""

    key: SigningKey
    network: Network
    gateway: dict[str, Any]
    total: int = 0
    http: httpx.Client = field(default_factory=lambda: httpx.Client(**LOCAL))

    def close(self) -> None:
        self.http.close()

    @property
    def url(self) -> str:
        return str(self.gateway["url"])

    def challenge(self, path: str) -> httpx.Response:
        return self.http.get(self.url + path)

    def intent(self, path: str, **changes: Any) -> PaymentIntent:
        price = int(self.gateway["price_atomic"])
        gateway = Pubkey.from_string(self.gateway["gateway"])
        fields: dict[str, Any] = {
            "channel": self.network.channel(self.key.public, gateway),
            "cumulative": self.total + price,
            "nonce": new_nonce(),
            "amount": price,
            "deadline": int(time.time()) + DEADLINE_S,
            "request_hash": request_hash("GET", path),
        }
        return PaymentIntent(**{**fields, **changes})

    def header(
        self, path: str, intent: PaymentIntent, *, gateway: str | None = None, signature: bytes | None = None
    ) -> str:
        required = x402.decode_required(self.challenge(path).headers[x402.REQUIRED_HEADER])
        payload = x402.PaymentPayload(
            x402_version=2,
            accepted=required.accepts[0],
            payload=x402.inner_payload(
                self.key.public,
                Pubkey.from_string(gateway or self.gateway["gateway"]),
                intent,
                signature or intent.sign(self.key),
            ),
        )
        return x402.encode_header(payload)

    def send(self, path: str, header: str) -> httpx.Response:
        """The answer to these bytes. A gateway that cannot say yet is asked again, as long as the deadline allows."""
        until = time.monotonic() + DEADLINE_S - 5
        while True:
            answer = self.http.get(self.url + path, headers={x402.SIGNATURE_HEADER: header})
            if answer.status_code != 503 or time.monotonic() > until:
                return answer
            time.sleep(float(answer.headers["retry-after"]))

    def pay(self, path: str, **changes: Any) -> httpx.Response:
        """Send one payment for `path`, with the intent's fields changed as said."""
        return self.send(path, self.header(path, self.intent(path, **changes)))


def refusal(response: httpx.Response) -> str:
    """The stable code of a refused payment, the same in both headers and the body."""
    assert response.status_code == 402, (response.status_code, response.text)
    code = x402.decode_required(response.headers[x402.REQUIRED_HEADER]).error
    assert response.json()["error"] == code
    if x402.RESPONSE_HEADER in response.headers:
        answer = x402.decode_response(response.headers[x402.RESPONSE_HEADER])
        assert answer.success is False
        assert answer.error_reason == code
    return code


def altered_nonce(nonce: UUID) -> UUID:
    return UUID(int=nonce.int ^ 1)
